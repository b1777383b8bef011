"""A replica of a guard that is reached over HTTP: `guardproxy guard`, on a port or on a Unix socket."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
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
    write_call,
)
from guardproxy.errors import ConfigError, GuardUnavailable, JudgingTooLong, Overloaded
from guardproxy.guards.links import GuardIdentity, ReplicaFailed, call_for
from guardproxy.types import Check, Verdict
from guardproxy.upstreams import Ending

UNIX: Final = "unix:"
"""How the address of a replica on a Unix socket begins."""

# The most bytes of an answer: a verdict has some thousands.
_ANSWER_BYTES: Final = 1 << 20
# What the guard itself has answered, and not the server in front of it.
_OF_THE_GUARD: Final = frozenset({GuardUnavailable.code, Overloaded.code, JudgingTooLong.code})
_TOO_MANY: Final = 429
# By its value, a server between this process and several replicas can send the checks of a stream to one of them. The
# name is Ray Serve's (RAY_SERVE_SESSION_ID_HEADER_KEY); others are told it.
_STREAM_HEADER: Final = b"x-session-id"


class HttpLink:
    """Implements `ReplicaLink` over HTTP/1.1. `url` is `http(s)://host[:port][/path]` or `unix:/path`.

    `transport` is the network below, for this replica alone; `never_sent` says of its errors whether they mean that
    nothing was sent. `key` is sent as a bearer token. A connection must come about within `connect_s` seconds. Raises
    ConfigError if `url` is none.
    """

    def __init__(
        self,
        url: str,
        transport: httpx.AsyncBaseTransport,
        never_sent: Callable[[httpx.HTTPError], bool],
        *,
        key: str | None = None,
        connect_s: float = 2.0,
    ) -> None:
        self.name = url
        base = base_of(url)
        self._address = base.copy_with(raw_path=base.raw_path.rstrip(b"/") + CHECK.encode())
        self._transport = transport
        self._never_sent = never_sent
        self._headers = [(b"host", base.netloc), (b"content-type", b"application/json")]
        if key is not None:
            self._headers.append((b"authorization", f"Bearer {key}".encode("latin-1")))
        self._extensions = {"timeout": {"connect": connect_s, "pool": connect_s}}
        # Every answer names the guard in the same words, which are compared and not read.
        self._account: Any = None
        self._version = ""
        self._identity: GuardIdentity | None = None

    async def identity(self) -> GuardIdentity:
        """What the replica is. Raises ReplicaFailed, also while it is not ready."""
        status, body = await self._call("GET", self._address)
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
        body = write_call(call_for(check, asker))
        status, answer = await self._call("POST", self._address, body, stream=check.stream)
        if status != httpx.codes.OK:
            if code_of(answer) in _OF_THE_GUARD or status == _TOO_MANY:
                raise failure_of(status, answer)
            raise self._failed(status, answer)
        try:
            fields = json.loads(answer)
        except (ValueError, RecursionError):
            raise ReplicaFailed("failed", "its answer is not JSON") from None
        return verdict_of(fields), self._version_of(fields)

    async def forget(self, stream: str) -> None:
        """Tell the replica that a streamed reply has ended. Raises ReplicaFailed."""
        address = self._address.copy_with(query=f"stream={quote(stream, safe='')}".encode())
        await self._call("DELETE", address, stream=stream)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

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

    async def _call(
        self, method: str, url: httpx.URL, body: bytes = b"", *, stream: str | None = None
    ) -> tuple[int, bytes]:
        """The status and the body of an answer. Raises ReplicaFailed."""
        headers = [*self._headers, (b"content-length", b"%d" % len(body))]
        if stream is not None:
            headers.append((_STREAM_HEADER, quote(stream, safe="", errors="surrogatepass").encode()))
        request = httpx.Request(
            method, url, headers=headers, stream=httpx.ByteStream(body), extensions=self._extensions
        )
        try:
            async with _answer(self._transport, request) as response:
                return response.status_code, await _body(response)
        except ReplicaFailed:
            raise
        except Exception as error:  # noqa: BLE001 - the transport raises errors of its own for malformed answers
            if isinstance(error, httpx.HTTPError) and self._never_sent(error):
                raise ReplicaFailed("unsent", f"it cannot be reached ({_kind(error)})") from None
            raise ReplicaFailed("unknown", f"it broke the connection off ({_kind(error)})") from None


async def _body(response: httpx.Response) -> bytes:
    pieces, size = [], 0
    async for piece in response.aiter_raw():
        pieces.append(piece)
        size += len(piece)
        if size > _ANSWER_BYTES:
            raise ReplicaFailed("failed", f"its answer has more than {_ANSWER_BYTES} bytes")
    return b"".join(pieces)


def _kind(error: Exception) -> str:
    """The name of an error. Its text is left out: it may quote the answer."""
    return type(error.__cause__ or error).__name__


@asynccontextmanager
async def _answer(transport: httpx.AsyncBaseTransport, request: httpx.Request) -> AsyncIterator[httpx.Response]:
    response = await transport.handle_async_request(request)
    try:
        yield response
    finally:
        await response.aclose()


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
    return base


def _identity(account: Account) -> GuardIdentity:
    """What a guard is by its account. Its version has the names of its models, which people recognise."""
    version = f"{account.version} ({', '.join(account.models)})" if account.models else account.version
    return GuardIdentity(account.guard, f"{account.taxonomy.id}@{account.taxonomy.version}", version, account.floor)


def _differing(known: GuardIdentity, found: GuardIdentity) -> str:
    pairs = zip(GuardIdentity._fields, known, found, strict=True)
    return ", ".join(f"{name} {new} in place of {old}" for name, old, new in pairs if old != new)
