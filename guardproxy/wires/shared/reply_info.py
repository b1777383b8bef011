"""What the upstream says of its reply: the id, the model that answered and the token counts. Pure.

Upstreams send anything in these fields. A value of another type is left out; none of them makes a reply unreadable.
"""

from typing import Any

from guardproxy.frozen import frozen
from guardproxy.types import ReplyInfo

NOTHING = ReplyInfo()
LONGEST = 200  # characters of an id or a model's name; the rest is cut and stands as an ellipsis
_LARGEST = 2**53  # the largest whole number that every reader of JSON has; a larger count is no count


@frozen
class InfoKeys:
    """The keys of a protocol. The counts of all keys in `output` are added up: some protocols count thoughts apart."""

    id: str
    model: str
    usage: str
    input: str
    output: tuple[str, ...]


OPENAI = InfoKeys("id", "model", "usage", "prompt_tokens", ("completion_tokens",))
# Anthropic's Messages and OpenAI's Responses.
MESSAGES = InfoKeys("id", "model", "usage", "input_tokens", ("output_tokens",))


def info_of(body: Any, keys: InfoKeys, before: ReplyInfo = NOTHING) -> ReplyInfo:
    """Return `before` with everything that a body, or an object of a stream, says of the reply.

    Without a key of `id` the protocol has none; without one of `usage` the counts lie in the body itself.
    """
    if not isinstance(body, dict):
        return before
    usage = body.get(keys.usage) if keys.usage else body
    counts = usage if isinstance(usage, dict) else {}
    found = [count for key in keys.output if (count := _count(counts.get(key))) is not None]
    tokens = _count(counts.get(keys.input))
    return ReplyInfo(
        id=(keys.id and _name(body.get(keys.id))) or before.id,
        model=_name(body.get(keys.model)) or before.model,
        input_tokens=before.input_tokens if tokens is None else tokens,
        output_tokens=sum(found) if found else before.output_tokens,
        held_characters=before.held_characters,
        held_s=before.held_s,
        attempt=before.attempt,
    )


def _name(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    return value if len(value) <= LONGEST else f"{value[:LONGEST]}…"


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _LARGEST else None
