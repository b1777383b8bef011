"""What becomes of a request by its method and path, before anything of it is read."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from guardproxy.errors import ConfigError, GuardproxyError

# What servers resolve in different ways, so that the path judged here might not be the path that answers: some cut a
# path at a semicolon, some at a question mark or a hash that was sent encoded.
_AMBIGUOUS = re.compile(r"//|/\.{1,2}(/|$)|[;?#\\\x00-\x1f\x7f]")


class NotGuarded(GuardproxyError):
    """No wire reads this path and no list lets it pass, so it stops here."""

    status = 404
    code = "path_not_guarded"


class AmbiguousPath(GuardproxyError):
    """A path that can be read as another one."""

    status = 400
    code = "ambiguous_path"


class PathList:
    """Entries `METHOD /path`, with `*` for any text in the path; GET stands for HEAD too.

    Raises ConfigError for an entry of another form.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._entries: list[tuple[str, str]] = []
        for entry in entries:
            method, _, pattern = entry.partition(" ")
            if not method.isupper() or not pattern.startswith("/"):
                raise ConfigError(f"{entry!r} is not of the form 'METHOD /path'")
            self._entries.append((method, pattern))

    def names(self, method: str, path: str) -> bool:
        """Whether an entry covers the request. `path` is decoded; one that is encoded twice matches nothing."""
        wanted = "GET" if method == "HEAD" else method
        if "%" in path:
            return False
        # OPTIONS asks what a path allows and carries no content, so it follows the path's other methods.
        return any((wanted in {entry, "OPTIONS"}) and fnmatchcase(path, pattern) for entry, pattern in self._entries)


def check_path(path: str) -> None:
    """Raises AmbiguousPath where `path` (decoded) has empty or dot segments, backslashes, control characters or
    marks at which servers cut it."""
    if _AMBIGUOUS.search(path):
        raise AmbiguousPath("the path has an empty or dot segment, a backslash, one of ;?# or a control character")
