"""What every refused answer has in any protocol: a reason for programs, its last text, the tokens that it took."""

from collections.abc import Iterable, Mapping
from typing import Any

from guardproxy.ports import ReplyStream, Request
from guardproxy.types import Message, Refuse
from guardproxy.wires.shared.stream_state import ChoiceState

_BYTES = 4  # of UTF-8 in a token: English has about four characters a token, scripts of several bytes one or two


def reason(request: Request, refusal: Refuse) -> dict[str, Any]:
    """Return the field `guardproxy` of a refused answer: SDKs keep fields that they do not know."""
    told: dict[str, Any] = {"request_id": request.id, "action": "block"}
    if refusal.named is not None:
        told["categories"] = list(refusal.named)
    return {"guardproxy": told}


def last_text(state: ChoiceState, refusal: Refuse, *, structured: bool = False) -> str:
    """Return the text that ends a refused choice of a stream: the refusal, or the closing sentence behind other text.

    A `structured` answer of which the client has a part gets none: it could not be parsed.
    """
    if state.nothing_released:
        return refusal.message
    return "" if structured or not refusal.closing else f"\n\n{refusal.closing}"


def estimated_usage(stream: ReplyStream, request: Request) -> tuple[int, int]:
    """Return about how many tokens the request had, and what was read of its reply before the stream was cut.

    Most upstreams name the usage at the end of a stream, which a cut never reads. Both are 0 if nothing was read.
    """
    output = _tokens(stream.message(choice) for choice in stream.choices)
    return (_tokens(request.conversation.messages) if output else 0), output


def with_estimate(usage: Mapping[str, Any], counts: tuple[int, int], keys: tuple[str, str, str]) -> dict[str, Any]:
    """Return a usage with these counts of input and output; `keys` name them and their sum."""
    return {**usage, **dict(zip(keys, (*counts, sum(counts)), strict=True))}


def _tokens(messages: Iterable[Message]) -> int:
    size = sum(len(part.text.encode()) for message in messages for part in message.parts)
    return -(-size // _BYTES)
