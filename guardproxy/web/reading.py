"""Bodies are read within `limits`, large ones on a thread, so that no body stops the event loop for long."""

from collections.abc import AsyncIterator, Sequence

from guardproxy.errors import TooLarge, UpstreamUnreadable
from guardproxy.offload import computed
from guardproxy.ports import Request, Wire
from guardproxy.settings import Limits
from guardproxy.types import Message
from guardproxy.web.answers import foreign_charset
from guardproxy.web.errors import Unsupported
from guardproxy.web.headers import Headers
from guardproxy.wires.shared.body import has_more_values


def check_encoding(headers: Headers) -> None:
    """Raise Unsupported if an upstream could decode the body to a text other than the UTF-8 that is judged."""
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            raise Unsupported("a compressed request body is not read here; send it without content-encoding")
        if name == b"content-type" and foreign_charset(value):
            raise Unsupported("JSON is UTF-8; send it without another charset in content-type")


async def read_request(
    wire: Wire, target: str, body: bytes, limits: Limits, *, received: float, request_id: str
) -> Request:
    """Parse a request that has the id `request_id` and came at the time `received`. Raises Unreadable, TooLarge."""
    return await computed(
        len(body), _read_request, wire, target, body, limits, received=received, request_id=request_id
    )


def _read_request(wire: Wire, target: str, body: bytes, limits: Limits, *, received: float, request_id: str) -> Request:
    check_values(body, limits)
    request = wire.parse_request(target, body, received, request_id)
    check_size(request.conversation.messages, limits)
    return request


def check_size(messages: Sequence[Message], limits: Limits, called: str = "messages") -> None:
    """Raise TooLarge if what was read of a request, `called` so, exceeds the limits."""
    if len(messages) > limits.messages:
        raise TooLarge(f"{len(messages)} {called} are more than the {limits.messages} of limits.messages")
    parts = sum([len(message.parts) for message in messages])
    if parts > limits.parts:
        raise TooLarge(f"{parts} pieces of content are more than the {limits.parts} of limits.parts")
    characters = sum([message.size for message in messages])
    if characters > limits.characters:
        raise TooLarge(f"{characters} characters are more than the {limits.characters} of limits.characters")


def check_values(body: bytes, limits: Limits) -> None:
    """Raise TooLarge if parsing a request would take long: for many values, or many escape sequences."""
    if len(body) > limits.values and has_more_values(body, limits.values):
        raise TooLarge(f"the body has more than the {limits.values} values of limits.values")
    if len(body) > limits.characters and body.count(b"\\") > 2 * limits.characters:
        raise TooLarge(f"the body has more escapes than twice the {limits.characters} of limits.characters")


async def check_reply(body: bytes, limits: Limits) -> None:
    """Raise UpstreamUnreadable if parsing a whole reply would take long."""
    if await computed(len(body), has_more_values, body, limits.reply_values):
        raise UpstreamUnreadable(f"it has more than the {limits.reply_values} values of limits.reply_values")


async def chained(head: bytes, source: AsyncIterator[bytes] | None = None) -> AsyncIterator[bytes]:
    """Yield `head`, if it is not empty, and the bytes of the source."""
    if head:
        yield head
    if source is not None:
        async for chunk in source:
            yield chunk


async def within(source: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    """Yield the bytes of a stream. Raises UpstreamUnreadable beyond `limit` bytes."""
    size = 0
    async for data in source:
        size += len(data)
        if size > limit:
            raise UpstreamUnreadable(f"it has more than the {limit} bytes of limits.stream_bytes")
        yield data
