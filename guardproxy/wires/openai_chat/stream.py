"""The stream of a chat completion: deltas of every choice."""

from collections.abc import Mapping, Sequence
from typing import Any

from guardproxy.ports import Request
from guardproxy.types import Refuse, Replace
from guardproxy.wires.openai_chat.fields import DELTA, PLAIN, REPLY_CHOICE
from guardproxy.wires.shared import openai
from guardproxy.wires.shared.body import steps
from guardproxy.wires.shared.logprob_echo import Repeat, token_list
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import fields, handled_in_code, opaque, walk
from guardproxy.wires.shared.streams import Track, new_texts


def refusal_message(request: Request, refusal: Refuse) -> dict[str, Any]:
    """The message of a refusal. Where the request wants JSON its text is in `refusal`: parsers choke on prose."""
    if request.structured:
        return {"role": "assistant", "content": None, "refusal": refusal.message}
    return {"role": "assistant", "content": refusal.message, "refusal": None}


def log_probabilities(
    state: dict[str, Any], builder: MessageBuilder, said: Mapping[str, Any], value: Any, path: str
) -> bool:
    """Compare the tokens of `logprobs` with the text they repeat; whether they say more than it, so far."""
    ahead = False
    if value is not None:
        fields({"content": handled_in_code, "refusal": handled_in_code})(builder, value, path)
    for key in ("content", "refusal"):
        text_said = said.get(key)
        if value is None and not text_said:
            continue
        repeat: Repeat = state.setdefault(key, Repeat())
        tokens = token_list(builder, value and value.get(key), f"{path}.{key}")
        repeat.add(text_said if isinstance(text_said, str) else "", tokens)
        ahead = ahead or repeat.ahead
    return ahead


class ChatStream(openai.ChoicesStream):
    """A streamed chat completion."""

    def __init__(self, request: Request, now: float) -> None:
        super().__init__(request, openai.envelope(request, "chat.completion.chunk", "chatcmpl", now))

    def read_choice(self, track: Track, choice: Mapping[str, Any], path: str) -> bool:
        """Read the delta of a choice; whether the chunk must wait for the whole choice."""
        builder = track.builder
        walk(builder, choice, path, REPLY_CHOICE)
        delta = choice.get("delta") or {}
        fields(DELTA)(builder, delta, f"{path}.message")
        opaque("a whole message in a stream")(builder, choice.get("message"), f"{path}.message")
        for place, call in enumerate(delta.get("tool_calls") or ()):
            if call.get("id"):
                track.extra[f"id {call.get('index', place)}"] = call["id"]
        state = track.extra.setdefault("logprobs", {})
        ahead = log_probabilities(state, builder, delta, choice.get("logprobs"), f"{path}.logprobs")
        plain = {f"{path}.message.{key}" for key in PLAIN}
        return ahead or any(place not in plain for place, _ in builder.added)

    def close_track(self, choice: int, track: Track) -> None:
        """Log probabilities of tokens that the text does not have are opaque."""
        if any(repeat.ahead for repeat in track.extra.get("logprobs", {}).values()):
            track.builder.opaque(f"choices[{choice}].logprobs", "log probabilities of another text")

    def opening(self, index: int) -> list[dict[str, Any]]:
        """OpenAI's helper takes new choices in order only."""
        return [_delta(lower, {}) for lower in self.unopened(index)]

    def refusal(self, track: Track, index: int, outcome: Refuse) -> list[dict[str, Any]]:
        """The refusal where nothing was said yet, and the end."""
        end = _delta(index, {}, outcome.finish)
        if not track.silent:
            return [end]
        message = refusal_message(self.request, outcome)
        said = {key: message[key] for key in ("content", "refusal") if message[key] is not None}
        return [*self._role(track, index), _delta(index, said), end]

    def rest(self, track: Track, index: int, outcome: Replace) -> list[dict[str, Any]]:
        """What the edited texts have beyond what was released, the tool calls, and a normal end."""
        out = self._role(track, index)
        called = False
        for part, new in new_texts(track.builder.message("assistant"), outcome):
            way = steps(part.path)[3:]
            if not part.path.startswith(f"choices[{index}]"):
                said = track.remainder(part, new) if outcome.whole else ""
                out += [_delta(index, {"content": said})] if said else []
            elif part.kind == "tool_call":
                if new == part.text:
                    called = True
                    out.append(_delta(index, _call_delta(track, way, new)))
            elif way[0] in (*PLAIN, "reasoning_details") and (left := track.remainder(part, new)):
                key = "reasoning" if way[0] == "reasoning_details" else str(way[0])
                out.append(_delta(index, {key: left}))
        finish = track.finish or "stop"
        if finish in ("tool_calls", "function_call") and not called:
            finish = "stop"
        return [*out, _delta(index, {}, finish)]

    def _role(self, track: Track, index: int) -> list[dict[str, Any]]:
        return [] if track.started else [_delta(index, {"role": "assistant", "content": ""})]


def _delta(index: int, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": finish}


def _call_delta(track: Track, way: Sequence[str | int], said: str) -> dict[str, Any]:
    """A whole tool call as one delta."""
    name, _, arguments = said.partition("\n")
    kind, key = str(way[-2]), str(way[-1])
    called = {"name": name, key: arguments}
    if way[0] == "function_call":
        return {"function_call": called}
    head = {"index": way[1], "id": track.extra.get(f"id {way[1]}", f"call_{way[1]}"), "type": kind}
    return {"tool_calls": [{**head, kind: called}]}
