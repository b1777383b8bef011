"""Which answers of the upstream are refused unread, and which of their headers the client receives."""

import re
from collections.abc import Iterable
from fnmatch import translate
from typing import Final

import structlog

from guardproxy.errors import UpstreamUnreadable
from guardproxy.framing import one_line, without_separators
from guardproxy.web.errors import Redirected
from guardproxy.web.headers import OWN_PREFIX, Headers, end_to_end, first
from guardproxy.wires.shared.identifiers import is_machine_data, is_value

log = structlog.get_logger()

_CHARSET: Final = re.compile(rb"charset[*0-9]*\s*=\s*[\"']*([^\s;,\"']*)")
_UTF8: Final = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii"})
# Charsets in which ASCII bytes mean the same; error pages of web servers often name one of them.
_LIKE_ASCII: Final = re.compile(rb"iso-?8859-[0-9]{1,2}|latin-?1|windows-125[0-9]")

# Headers whose value clients process and do not show, in whatever form. Others of their kind, such as `age` and `date`,
# have values that pass under any name.
_STRUCTURED: Final = frozenset(
    b"""
    allow cache-control content-security-policy content-type etag permissions-policy pragma referrer-policy
    strict-transport-security timing-allow-origin vary via
    """.split()
)
_STRUCTURED_PREFIXES: Final = (b"access-control-", b"cross-origin-")
# Headers that pass if their value is a list of tokens: rate limits, ids and versions.
_LISTS: Final = (
    *(b"anthropic-", b"cf-", b"openai-", b"ratelimit", b"server-timing"),
    *(b"x-amz", b"x-goog-", b"x-ms-", b"x-ratelimit-", b"x-xss-protection"),
)
# Headers that clients act on or show: an address in one of them may look like an identifier.
_NEVER: Final = frozenset(
    b"alt-svc content-disposition content-location link location refresh server sourcemap warning x-sourcemap".split()
)
# The attributes of a cookie whose value is an identifier, and those with their enumerated values.
_COOKIE_NAMES: Final = frozenset({"domain", "max-age", "path"})
_COOKIE_VALUES: Final = {
    **dict.fromkeys(("httponly", "partitioned", "secure"), frozenset({""})),
    "priority": frozenset({"low", "medium", "high"}),
    "samesite": frozenset({"none", "lax", "strict"}),
}
_PRINTABLE: Final = re.compile(rb"[\t -~]{0,4096}")
_LIST: Final = re.compile(rb"(?=.{0,256}\Z)[!-~]*(?:[,;] ?[!-~]+)*")
_IDENTIFIER: Final = re.compile(rb"(?!.*//)[A-Za-z0-9_.:+=@/-]{0,64}")
_WORD: Final = re.compile(rb"(?<![A-Za-z0-9])[A-Za-z]{3,}(?![A-Za-z0-9])")
_WORDS: Final = 2  # in an identifier; more words may be a sentence with hyphens
_DATE: Final = re.compile(rb"[A-Z][a-z]{2}, \d{2}[ -][A-Z][a-z]{2}[ -](?:\d{2}){1,2} \d{2}:\d{2}:\d{2} GMT")


class AnswerHeaders:
    """Selects the headers that leave with a judged answer; `allow` are names of further headers, `*` for any text.

    Nobody judges the text of headers. A header leaves if its name is known, or if its value is a number, a date or an
    identifier.
    """

    def __init__(self, allow: Iterable[str] = ()) -> None:
        names = [translate(name.lower()) for name in allow]
        self._allowed = re.compile("|".join(names)) if names else None

    def select(self, headers: Headers, drop: frozenset[bytes]) -> Headers:
        """Return the end-to-end headers without those in `drop` and those that may not leave, which the log counts."""
        kept = end_to_end(headers, drop)
        passed = [pair for pair in kept if self._passes(*pair)]
        if len(passed) < len(kept):
            log.debug("answer_headers_withheld", count=len(kept) - len(passed))
        return passed

    def _passes(self, name: bytes, value: bytes) -> bool:
        if name.startswith(OWN_PREFIX) or not _PRINTABLE.fullmatch(value):
            return False
        if name in _STRUCTURED or name.startswith(_STRUCTURED_PREFIXES):
            return True
        if self._allowed is not None and self._allowed.match(name.decode("latin-1")):
            return True
        if name in _NEVER or name == b"set-cookie":
            return name == b"set-cookie" and _is_wordless_cookie(value.decode("ascii"))
        if name.startswith(_LISTS) and _LIST.fullmatch(value):
            return True
        identifier = _IDENTIFIER.fullmatch(value) is not None and len(_WORD.findall(value)) <= _WORDS
        return identifier or _DATE.fullmatch(value) is not None


def _is_wordless_cookie(value: str) -> bool:
    """Return whether a cookie's name and value, and the values of its attributes, are identifiers without words."""
    (name, _, text), *attributes = (item.strip().partition("=") for item in value.split(";"))
    return (
        is_value(name)
        and (is_value(text) or is_machine_data(text))
        and all(_is_attribute(key.strip().lower(), own.strip()) for key, _, own in attributes)
    )


def _is_attribute(key: str, value: str) -> bool:
    if key == "expires":
        return _DATE.fullmatch(value.encode()) is not None
    return value.lower() in _COOKIE_VALUES.get(key, ()) or (key in _COOKIE_NAMES and is_value(value))


def foreign_charset(content_type: bytes) -> bool:
    """Return whether a content type names another charset than UTF-8, or ASCII, which is a part of it."""
    return not _UTF8.issuperset(_CHARSET.findall(content_type.lower()))


def check_charset(headers: Headers, body: bytes | None = None) -> None:
    """Raise UpstreamUnreadable if a client could decode an answer to another text than the UTF-8 that is judged.

    `body` is the whole body, None for a stream.
    """
    types = {value.lower() for name, value in headers if name == b"content-type"}
    if len(types) > 1:
        raise UpstreamUnreadable("it has several content types")
    charsets = {charset for value in types for charset in _CHARSET.findall(value)} - _UTF8
    if charsets and not (body is not None and body.isascii() and all(map(_LIKE_ASCII.fullmatch, charsets))):
        raise UpstreamUnreadable("it is in another charset than UTF-8")


def is_text(body: bytes) -> bool:
    """Return whether a body is text in UTF-8. With a NUL it may be UTF-16, which clients detect without a charset."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in body


def check_framing(status: int, headers: Headers) -> None:
    """Raise UpstreamUnreadable for an answer that two HTTP parsers could cut differently (RFC 9112, 6.3).

    The parser of the HTTP client refuses most malformed answers; these are the rest.
    """
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if not 200 <= status <= 599:
        raise UpstreamUnreadable("its HTTP status is not one of a final answer")
    if codings and (lengths or codings != [b"chunked"]):
        raise UpstreamUnreadable("its transfer-encoding is not chunked, or it has a content-length as well")
    if len(lengths) > 1 or not all(length.isdigit() for length in lengths):
        raise UpstreamUnreadable("its content-length is not one number")
    if status == 204 and (codings or any(int(length) for length in lengths)):
        raise UpstreamUnreadable("it has a body although its HTTP status is 204")


def check_redirect(status: int, headers: Headers) -> None:
    """Raise Redirected for an answer that would send the client elsewhere."""
    if first(headers, b"location") and 300 <= status < 400:
        raise Redirected("the upstream redirects past the guard; set upstream.url to where it redirects")


def for_line_readers(body: bytes, lines: bool) -> bytes:
    """The JSON of a whole reply for a client that expects a stream, and reads it by lines: none may be another reply.

    `lines`: the protocol's streams are lines of JSON.
    """
    stripped = [line.strip() for line in body.splitlines()] if lines else []
    if any(line[:1] == b"{" and line[-1:] == b"}" for line in stripped):
        return one_line(body)
    return without_separators(body)
