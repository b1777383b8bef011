"""A replica of a guard that is reached over HTTP: `guardproxy guard`, on a port or on a Unix socket."""

import json
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx

from guardproxy.asking import Asker
from guardproxy.checkapi import (
    CHECK,
    Account,
    code_of,
    failure_of,
    read_account,
    verdict_of,
)
from guardproxy.checkapi.fields import dumps
from guardproxy.errors import ConfigError, GuardUnavailable, JudgingTooLong, Overloaded, Unintelligible
from guardproxy.guards.connections import Connections
from guardproxy.guards.links import GuardIdentity, ReplicaFailed, call_for
from guardproxy.types import Check, Verdict
from guardproxy.upstreams import Ending

UNIX: Final = "unix:"
"""How the address of a replica on a Unix socket begins."""

# What the guard itself has answered, and not the server in front of it.
_OF_THE_GUARD: Final = frozenset({GuardUnavailable.code, Overloaded.code, JudgingTooLong.code, Unintelligible.code})
_TOO_MANY: Final = 429
_LAST_PORT: Final = 65_535
# By its value, a server between this process and several replicas can send the checks of a stream to one of them. The
# name is Ray Serve's (RAY_SERVE_SESSION_ID_HEADER_KEY); others are told it.
_STREAM_HEADER: Final = b"x-session-id"


class HttpLink:
    """Implements `ReplicaLink` over HTTP/1.1. `url` is `http(s)://host[:port][/path]` or `unix:/path`.

    `tls` says how certificates are checked, for https. `key` is sent as a bearer token. At most `max_connections` are
    open, and one must come about within `connect_s` seconds. Raises ConfigError if `url` is no such address, or if no
    header can hold the key.
    """

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext | None = None,
        *,
        key: str | None = None,
        max_connections: int = 256,
        connect_s: float = 2.0,
    ) -> None:
        self.name = url
        base = base_of(url)
        uds = url.removeprefix(UNIX) if url.startswith(UNIX) else None
        self._connections = Connections(base, tls, uds=uds, most=max_connections, connect_s=connect_s)
        self._target = base.raw_path.rstrip(b"/") + CHECK.encode()
        self._headers = b"host: %b\r\ncontent-type: application/json\r\n" % base.netloc
        if key is not None:
            self._headers += b"authorization: Bearer %b\r\n" % _header_value(key)
        self._post = self._head("POST")
        # Every answer names the guard in the same words, which are compared and not read.
        self._account: Any = None
        self._version = ""
        self._identity: GuardIdentity | None = None

    async def identity(self) -> GuardIdentity:
        """What the replica is. Raises ReplicaFailed, also while it is not ready."""
        status, body = await self._connections.call(self._head("GET") + b"0\r\n\r\n")
        if status != httpx.codes.OK:
            raise self._failed(status, body)
        try:
            account = read_account(body)
        except GuardUnavailable as error:
            raise ReplicaFailed("failed", str(error)) from None
        self._identity, self._account = _identity(account), None
        return self._identity

    async def judge(self, check: Check, asker: Asker) -> tuple[Verdict, str]:
        """The verdict, and the version of the guard that gave it. Raises as `ReplicaLink.judge`."""
        body = dumps(call_for(check, asker))
        head = b"%b%d\r\n%b\r\n" % (self._post, len(body), _stream_header(check.stream))
        status, answer = await self._connections.call(head + body)
        if status != httpx.codes.OK:
            if code_of(answer) in _OF_THE_GUARD or status == _TOO_MANY:
                raise failure_of(status, answer)
            raise self._failed(status, answer)
        try:
            fields = json.loads(answer)
        except (ValueError, RecursionError):
            raise ReplicaFailed("failed", "its answer is not JSON") from None
        if check.turn.images and fields.get("coverage") != "full":
            raise GuardUnavailable("the replica has not read an image; set reads: [text, image] in its file")
        return verdict_of(fields), self._version_of(fields)

    def facts(self) -> dict[str, str | int]:
        """Nothing: every replica can do the same."""
        return {}

    async def forget(self, stream: str) -> None:
        """Tell the replica that a streamed reply has ended. Raises ReplicaFailed."""
        head = self._head("DELETE", b"?stream=" + quote(stream, safe="").encode())
        await self._connections.call(b"%b0\r\n%b\r\n" % (head, _stream_header(stream)))

    async def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _head(self, method: str, query: bytes = b"") -> bytes:
        """The head of a request as far as the number of bytes of its body."""
        return b"%b %b%b HTTP/1.1\r\n%bcontent-length: " % (method.encode(), self._target, query, self._headers)

    def _version_of(self, fields: Mapping[str, Any]) -> str:
        account = fields.get("account")
        if account != self._account or account is None:
            if not isinstance(account, dict):
                raise ReplicaFailed("failed", "its answer does not say which guard has judged")
            read = _identity(read_account(json.dumps({**account, "categories": []}).encode()))
            # Behind one address there may be several servers, or another one than a moment ago.
            if self._identity is not None and read != self._identity:
                raise ReplicaFailed("failed", f"its verdict is of another guard: {_differing(self._identity, read)}")
            self._account, self._version = account, read.version
        return self._version

    def _failed(self, status: int, body: bytes) -> ReplicaFailed:
        code = code_of(body)
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            return ReplicaFailed("failed", f"it refuses the key ({status}); check guard.replicas.key")
        if status == httpx.codes.NOT_FOUND:
            return ReplicaFailed("failed", f"it has no {CHECK}; check that `guardproxy guard` listens there")
        ending: Ending = "declined" if status == httpx.codes.SERVICE_UNAVAILABLE else "failed"
        return ReplicaFailed(ending, f"it answers {status}{f', {code}' if code else ''}")


def _stream_header(stream: str | None) -> bytes:
    if stream is None:
        return b""
    return b"%b: %b\r\n" % (_STREAM_HEADER, quote(stream, safe="", errors="surrogatepass").encode())


def _header_value(key: str) -> bytes:
    """A key as a header holds it. Raises ConfigError if none can."""
    try:
        value = key.encode("latin-1")
    except UnicodeEncodeError:
        value = b""
    if not value or not key.isprintable():
        raise ConfigError("guard.replicas.key: is empty, or has a character that no HTTP header can hold")
    return value


def base_of(url: str) -> httpx.URL:
    """The base of a replica's HTTP addresses. Raises ConfigError if `url` is no address of a replica."""
    problem = f"replica {url!r}: expected http(s)://host[:port][/path] or {UNIX}/path"
    if url.startswith(UNIX):
        if not url.removeprefix(UNIX).startswith("/"):
            raise ConfigError(problem)
        return httpx.URL("http://guard")
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(problem) from error
    if base.scheme not in {"http", "https"} or not base.host or base.query or base.fragment or base.userinfo:
        raise ConfigError(problem)
    if base.port is not None and not 0 < base.port <= _LAST_PORT:  # the system would take the rest of a division
        raise ConfigError(f"replica {url!r}: the port must be 1 to {_LAST_PORT}")
    return base


def _identity(account: Account) -> GuardIdentity:
    """What a guard is by its account. Its version has the names of its models, which people recognise."""
    version = f"{account.version} ({', '.join(account.models)})" if account.models else account.version
    return GuardIdentity(account.guard, f"{account.taxonomy.id}@{account.taxonomy.version}", version, account.floor)


def _differing(known: GuardIdentity, found: GuardIdentity) -> str:
    pairs = zip(GuardIdentity._fields, known, found, strict=True)
    return ", ".join(f"{name} {new} in place of {old}" for name, old, new in pairs if old != new)
