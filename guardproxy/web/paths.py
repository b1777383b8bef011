"""Checks on a request's method and path, before anything else of it is read."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from guardproxy.errors import ConfigError, GuardproxyError

# Characters that servers resolve differently, so that the upstream might answer another path than the one checked here:
# some cut a path at a semicolon, some at an encoded question mark or hash.
_AMBIGUOUS = re.compile(r"//|/\.{1,2}(/|$)|[;?#\\\x00-\x1f\x7f]")


class NotGuarded(GuardproxyError):
    """No wire reads this path and `paths.allow` does not name it, so it is not forwarded."""

    status = 404
    code = "path_not_guarded"


class AmbiguousPath(GuardproxyError):
    """The upstream may read this path as another path, so it is not forwarded."""

    status = 400
    code = "ambiguous_path"


class PathList:
    """A list of entries `METHOD /path`, with `*` for any text in the path; GET includes HEAD.

    Raises ConfigError for an entry of another form.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._entries: list[tuple[str, str]] = []
        for entry in entries:
            method, _, pattern = entry.partition(" ")
            if not method.isupper() or not pattern.startswith("/"):
                raise ConfigError(f"{entry!r} is not of the form 'METHOD /path'; write it like 'GET /v1/models'")
            self._entries.append((method, pattern))

    def names(self, method: str, path: str) -> bool:
        """Whether an entry matches the request. `path` is decoded; a path that was encoded twice matches nothing."""
        wanted = "GET" if method == "HEAD" else method
        if "%" in path:
            return False
        # An OPTIONS request carries no content, so it may pass wherever another method may.
        return any((wanted in {entry, "OPTIONS"}) and fnmatchcase(path, pattern) for entry, pattern in self._entries)


def check_path(path: str) -> None:
    """Check a decoded path. Raises AmbiguousPath if servers may resolve it differently."""
    if _AMBIGUOUS.search(path):
        raise AmbiguousPath("the path has an empty or dot segment, a backslash, one of ;?# or a control character")
