"""Checks on a request's method and path, before anything else of it is read."""

import re
from collections.abc import Callable, Collection, Iterable

from guardproxy.errors import ConfigError, GuardproxyError

# Characters that servers resolve differently, so that the upstream might answer another path than the one checked here:
# some cut a path at a semicolon, some at an encoded question mark or hash.
_AMBIGUOUS = re.compile(r"//|/\.{1,2}(/|$)|[;?#\\\x00-\x1f\x7f]")
# The versions of the APIs, with which most endpoints are served under any prefix.
_VERSIONS = ("/v1", "/v1beta", "/v1alpha")
_PATTERN = re.compile(r"\*{1,2}")


class NotGuarded(GuardproxyError):
    """No wire reads this path and `paths.allow` does not name it, so it is not forwarded."""

    status = 404
    code = "path_not_guarded"


class AmbiguousPath(GuardproxyError):
    """The upstream may read this path as another path, so it is not forwarded."""

    status = 400
    code = "ambiguous_path"


class PathList:
    """A list of entries `METHOD /path`; GET includes HEAD.

    In a path, `**` stands for any text and `*` for any text without `/` and `:`, so that `GET /v1/models/*` covers
    neither deeper paths nor methods such as `/v1/models/x:generateContent`. With `wide`, `*` stands for any text as
    well: a list of what is refused must not have gaps. Raises ConfigError for an entry of another form.
    """

    def __init__(self, entries: Iterable[str], *, wide: bool = False) -> None:
        self._entries: list[tuple[str, re.Pattern[str]]] = []
        for entry in entries:
            method, _, pattern = entry.partition(" ")
            if not method.isupper() or not pattern.startswith("/"):
                raise ConfigError(f"{entry!r} is not of the form 'METHOD /path'; write it like 'GET /v1/models'")
            self._entries.append((method, _compiled(pattern, wide=wide)))

    def names(self, method: str, path: str) -> bool:
        """Whether an entry matches the request. `path` is decoded; a path that was encoded twice matches nothing."""
        wanted = "GET" if method == "HEAD" else method
        if "%" in path:
            return False
        # An OPTIONS request carries no content, so it may pass wherever another method may.
        return any((wanted in {entry, "OPTIONS"}) and pattern.fullmatch(path) for entry, pattern in self._entries)


def _compiled(pattern: str, *, wide: bool) -> re.Pattern[str]:
    within = ".*" if wide else "[^/:]*"
    stars = [".*" if star == "**" else within for star in _PATTERN.findall(pattern)]
    literals = [re.escape(literal) for literal in _PATTERN.split(pattern)]
    return re.compile("".join(literal + star for literal, star in zip(literals, [*stars, ""], strict=True)), re.DOTALL)


def check_path(path: str) -> None:
    """Check a decoded path. Raises AmbiguousPath if servers may resolve it differently."""
    if _AMBIGUOUS.search(path):
        raise AmbiguousPath("the path has an empty or dot segment, a backslash, one of ;?# or a control character")


def spellings(path: str, claims: Callable[[str], bool]) -> Collection[str]:
    """The other paths of an endpoint: with each version and without prefix, as far as its wire claims them.

    `/v1/chat/completions`, `/chat/completions`, `/api/v1/chat/completions` and Azure's
    `/openai/deployments/x/chat/completions` have the same spellings.
    """
    segments = path.split("/")[1:]
    tails = ["/" + "/".join(segments[start:]) for start in range(len(segments))]
    known = {spelling for tail in tails for spelling in (tail, *(version + tail for version in _VERSIONS))}
    return {spelling for spelling in known if spelling != path and claims(spelling)}
