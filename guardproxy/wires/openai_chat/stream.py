"""The stream of a chat completion: deltas of every choice."""

from collections.abc import Mapping, Sequence
from typing import Any

from guardproxy.ports import Request
from guardproxy.types import PartKind, Refuse, Replace
from guardproxy.wires.openai_chat.fields import DELTA, PLAIN, REPLY_CHOICE
from guardproxy.wires.openai_chat.repeats import RepeatedReasoning, read_whole_message
from guardproxy.wires.shared import openai
from guardproxy.wires.shared.body import steps
from guardproxy.wires.shared.identifiers import is_identifier
from guardproxy.wires.shared.logprob_echo import LogprobEcho, token_list
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import handled_in_code, object_with, read_fields
from guardproxy.wires.shared.refusals import last_text
from guardproxy.wires.shared.repeated import Gaps
from guardproxy.wires.shared.stream_state import ChoiceState, Event
from guardproxy.wires.shared.streams import parts_with_new_texts

_SPELLED = ("content", "refusal")  # the texts that log probabilities follow


def refusal_message(request: Request, refusal: Refuse) -> dict[str, Any]:
    """Return the message of a refusal. If the reply has a form, the text is in `refusal`: `content` must parse."""
    if request.has_form:
        return {"role": "assistant", "content": None, "refusal": refusal.message}
    return {"role": "assistant", "content": refusal.message, "refusal": None}


def log_probabilities(
    echoes: dict[str, LogprobEcho], builder: MessageBuilder, message: Mapping[str, Any], value: Any, path: str
) -> bool:
    """Compare the tokens of `logprobs` with the message's text; return whether they are ahead of the text so far."""
    ahead = False
    if value is not None:
        object_with({"content": handled_in_code, "refusal": handled_in_code})(builder, value, path)
    for key in _SPELLED:
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
        """Read the delta of a choice; return whether the chunk must wait for the verdict on the whole choice."""
        builder = state.builder
        read_fields(builder, choice, path, REPLY_CHOICE)
        delta = self._without_copies(state, choice.get("delta") or {}, f"{path}.message")
        if isinstance(delta, dict) and isinstance(delta.get("content"), list):
            delta = _read_list(builder, delta, f"{path}.message")
        else:
            object_with(DELTA)(builder, delta, f"{path}.message")
        read_whole_message(builder, choice.get("message"), f"{path}.message")
        for place, call in enumerate(delta.get("tool_calls") or ()):
            if isinstance(call.get("id"), str) and is_identifier(call["id"]):
                state.extra[f"id {call.get('index', place)}"] = call["id"]
        ahead = log_probabilities(state.echoes, builder, delta, choice.get("logprobs"), f"{path}.logprobs")
        return ahead or builder.has_new_call

    def gaps(self, event: Event, path: str) -> Gaps | None:
        """Return the place of the text of a delta without log probabilities."""
        choices, (head, _, key) = event.body.get("choices", []), path.rpartition(".")
        if len(choices) != 1 or key not in PLAIN or not head.endswith("].message"):
            return None
        choice, delta = choices[0], choices[0].get("delta")
        if not isinstance(delta, dict) or not isinstance(delta.get(key), str):
            return None
        if choice.get("logprobs") is not None or choice.get("message") is not None or delta.get("reasoning_details"):
            return None  # texts that repeat this one
        return Gaps((("choices", 0, "delta", key),), key if key in _SPELLED else "")

    def opening(self, index: int) -> list[dict[str, Any]]:
        """Return an empty delta for every lower choice: OpenAI's helper accepts new choices in order only."""
        return [_delta(lower, {}) for lower in self.unopened(index)]

    def refusal(self, state: ChoiceState, index: int, outcome: Refuse) -> list[dict[str, Any]]:
        """Return the end, behind the refusal's last text."""
        end = _delta(index, {}, outcome.finish)
        if not state.nothing_released:
            text = last_text(state, outcome, structured=self.request.structured)
            return [*([_delta(index, {"content": text})] if text else []), end]
        message = refusal_message(self.request, outcome)
        delta = {key: message[key] for key in ("content", "refusal") if message[key] is not None}
        return [*self._role(state, index), _delta(index, delta), end]

    def edited_rest(self, state: ChoiceState, index: int, outcome: Replace) -> list[dict[str, Any]]:
        """Return the unreleased rest of the edited texts, the unedited tool calls, and a normal end."""
        entries = self._role(state, index)
        has_call = False
        for part, new in parts_with_new_texts(state.builder.message("assistant"), outcome):
            way = steps(part.path)[3:]
            if not part.path.startswith(f"choices[{index}]"):
                rest = state.remainder(part, new) if outcome.whole else ""
                entries += [_delta(index, {"content": rest})] if rest else []
            elif part.kind == "tool_call":
                if new == part.text:
                    has_call = True
                    entries.append(_delta(index, _call_delta(state, way, new)))
            elif way and way[0] in (*PLAIN, "reasoning_details") and (rest := state.remainder(part, new)):
                entries.append(_delta(index, _text_delta(way, part.kind, rest)))
        finish = state.finish or "stop"
        if finish in ("tool_calls", "function_call") and not has_call:
            finish = "stop"
        return [*entries, _delta(index, {}, finish)]

    def _without_copies(self, state: ChoiceState, delta: Any, path: str) -> Any:
        if not isinstance(delta, dict) or not ("reasoning" in delta or "reasoning_details" in delta):
            return delta
        copies: RepeatedReasoning = state.extra.setdefault("reasoning", RepeatedReasoning())
        return copies.without_copies(state.builder, delta, path)

    def _role(self, state: ChoiceState, index: int) -> list[dict[str, Any]]:
        return [] if state.started else [_delta(index, {"role": "assistant", "content": ""})]


def _read_list(builder: MessageBuilder, delta: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Read a delta with a list of parts as its `content`; return it with their text.

    The plain texts are a piece of the text of the whole content: clients append the parts of every delta to the same
    text, whether a delta has a string or a list. The helper of OpenAI's client leaves out one of these forms.
    """
    content = delta["content"]
    others = [part for part in content if not _is_text(part)]
    text = "".join(part["text"] for part in content if _is_text(part))
    if text:
        builder.add(f"{path}.content", text, form="[].text")
    object_with(DELTA)(builder, {**delta, "content": others}, path)
    return {**delta, "content": text}


def _is_text(part: Any) -> bool:
    is_plain = isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == "text"
    return is_plain and isinstance(part["text"], str)


def _delta(index: int, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": finish}


def _text_delta(way: Sequence[str | int], kind: PartKind, text: str) -> dict[str, Any]:
    """Return a text as a delta; `way` are the steps of its path behind the message."""
    if way[0] == "content" and kind == "reasoning":  # Mistral's reasoning is a part of the content
        return {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]}
    return {"reasoning" if way[0] == "reasoning_details" else str(way[0]): text}


def _call_delta(state: ChoiceState, way: Sequence[str | int], text: str) -> dict[str, Any]:
    """Return a whole tool call as one delta; `way` are the steps of its path behind the message."""
    name, _, arguments = text.partition("\n")
    kind, key = str(way[-2]), str(way[-1])
    function = {"name": name, key: arguments}
    if way[0] == "function_call":
        return {"function_call": function}
    head = {"index": way[1], "id": state.extra.get(f"id {way[1]}", f"call_{way[1]}"), "type": kind}
    return {"tool_calls": [{**head, kind: function}]}
