"""The stream of a chat completion: deltas of every choice."""

from collections.abc import Mapping, Sequence
from typing import Any

from guardproxy.ports import Request
from guardproxy.types import Refuse, Replace
from guardproxy.wires.openai_chat.fields import DELTA, PLAIN, REPLY_CHOICE
from guardproxy.wires.shared import openai
from guardproxy.wires.shared.body import steps
from guardproxy.wires.shared.logprob_echo import LogprobEcho, token_list
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import fields, handled_in_code, opaque, walk
from guardproxy.wires.shared.streams import ChoiceState, parts_with_new_texts


def refusal_message(request: Request, refusal: Refuse) -> dict[str, Any]:
    """The message of a refusal. Where the request wants JSON its text is in `refusal`: parsers choke on prose."""
    if request.structured:
        return {"role": "assistant", "content": None, "refusal": refusal.message}
    return {"role": "assistant", "content": refusal.message, "refusal": None}


def log_probabilities(
    echoes: dict[str, LogprobEcho], builder: MessageBuilder, message: Mapping[str, Any], value: Any, path: str
) -> bool:
    """Compare the tokens of `logprobs` with the message's text; whether they are ahead of it, so far."""
    ahead = False
    if value is not None:
        fields({"content": handled_in_code, "refusal": handled_in_code})(builder, value, path)
    for key in ("content", "refusal"):
        text = message.get(key)
        if value is None and not text:
            continue
        if key not in echoes:
            echoes[key] = LogprobEcho(path)
        tokens = token_list(builder, value and value.get(key), f"{path}.{key}")
        echoes[key].add(text if isinstance(text, str) else "", tokens)
        ahead = ahead or echoes[key].ahead
    return ahead


class ChatStream(openai.ChoicesStream):
    """A streamed chat completion."""

    def __init__(self, request: Request, now: float) -> None:
        super().__init__(request, openai.envelope(request, "chat.completion.chunk", "chatcmpl", now))

    def read_choice(self, state: ChoiceState, choice: Mapping[str, Any], path: str) -> bool:
        """Read the delta of a choice; whether the chunk must wait for the whole choice."""
        builder = state.builder
        walk(builder, choice, path, REPLY_CHOICE)
        delta = choice.get("delta") or {}
        fields(DELTA)(builder, delta, f"{path}.message")
        opaque("a whole message in a stream")(builder, choice.get("message"), f"{path}.message")
        for place, call in enumerate(delta.get("tool_calls") or ()):
            if call.get("id"):
                state.extra[f"id {call.get('index', place)}"] = call["id"]
        ahead = log_probabilities(state.echoes, builder, delta, choice.get("logprobs"), f"{path}.logprobs")
        plain = {f"{path}.message.{key}" for key in PLAIN}
        return ahead or any(place not in plain for place, _ in builder.added)

    def opening(self, index: int) -> list[dict[str, Any]]:
        """OpenAI's helper takes new choices in order only."""
        return [_delta(lower, {}) for lower in self.unopened(index)]

    def refusal(self, state: ChoiceState, index: int, outcome: Refuse) -> list[dict[str, Any]]:
        """The refusal where nothing was said yet, and the end."""
        end = _delta(index, {}, outcome.finish)
        if not state.nothing_released:
            return [end]
        message = refusal_message(self.request, outcome)
        said = {key: message[key] for key in ("content", "refusal") if message[key] is not None}
        return [*self._role(state, index), _delta(index, said), end]

    def rest(self, state: ChoiceState, index: int, outcome: Replace) -> list[dict[str, Any]]:
        """What the edited texts have beyond what was released, the tool calls, and a normal end."""
        out = self._role(state, index)
        called = False
        for part, new in parts_with_new_texts(state.builder.message("assistant"), outcome):
            way = steps(part.path)[3:]
            if not part.path.startswith(f"choices[{index}]"):
                said = state.remainder(part, new) if outcome.whole else ""
                out += [_delta(index, {"content": said})] if said else []
            elif part.kind == "tool_call":
                if new == part.text:
                    called = True
                    out.append(_delta(index, _call_delta(state, way, new)))
            elif way[0] in (*PLAIN, "reasoning_details") and (left := state.remainder(part, new)):
                key = "reasoning" if way[0] == "reasoning_details" else str(way[0])
                out.append(_delta(index, {key: left}))
        finish = state.finish or "stop"
        if finish in ("tool_calls", "function_call") and not called:
            finish = "stop"
        return [*out, _delta(index, {}, finish)]

    def _role(self, state: ChoiceState, index: int) -> list[dict[str, Any]]:
        return [] if state.started else [_delta(index, {"role": "assistant", "content": ""})]


def _delta(index: int, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": finish}


def _call_delta(state: ChoiceState, way: Sequence[str | int], said: str) -> dict[str, Any]:
    """A whole tool call as one delta."""
    name, _, arguments = said.partition("\n")
    kind, key = str(way[-2]), str(way[-1])
    called = {"name": name, key: arguments}
    if way[0] == "function_call":
        return {"function_call": called}
    head = {"index": way[1], "id": state.extra.get(f"id {way[1]}", f"call_{way[1]}"), "type": kind}
    return {"tool_calls": [{**head, kind: called}]}
