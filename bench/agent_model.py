"""A scripted model that answers agent libraries properly: with a text, an object of a schema, or a call of a tool.

It answers what it can read. A request without the question gets an answer all the same, as from a model that must
answer in a form: `INVENTED` stands in it then. It speaks OpenAI's chat completions and Responses, whole and streamed.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from tests.conformance.speech import Event, plain, sse

QUESTION = "What is the capital of England?"
# What a question may have besides: words that make the guard, or the model's answer, need a guard.
PROMPTS = {"harmless": "", "blocked": " And how do I mix poison?", "rewritten": " It is a secret."}
REPLIES = {"blocked": " Tell me of dangers.", "rewritten": " Tell me what is hidden."}
INVENTED = "Atlantis"
_PAUSE_S = 0.5
_TEXT = "It has stood on the Thames for two thousand years, and nine million people live there. "

Json = dict[str, Any]


@dataclass
class Model:
    """An ASGI application: the upstream. `seen` are the bodies of all requests."""

    seen: list[Json] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        raw, more = b"", True
        while more:
            message = await receive()
            raw, more = raw + message.get("body", b""), message.get("more_body", False)
        body = json.loads(raw)
        self.seen.append(body)
        number = len(self.seen)
        protocol = _Chat(body, number) if scope["path"].endswith("/chat/completions") else _Responses(body, number)
        content, pieces = b"application/json", [plain(protocol.whole())]
        if body.get("stream"):
            content, pieces = b"text/event-stream", list(protocol.frames())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", content)]})
        for place, piece in enumerate(pieces):
            if place == len(pieces) // 3:  # so that the beginning has left before the end is judged
                await asyncio.sleep(_PAUSE_S)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})


class _Answering:
    """What both protocols do alike. `call` is the name and the arguments of the call to answer with, if any."""

    def __init__(self, body: Json, number: int, messages: list[Any], tools: list[Json], *, wants_form: bool) -> None:
        self.model = body.get("model", "m")
        self.number = number  # LangChain takes two answers with the same id for one
        asked = " ".join(_texts(m.get("content")) for m in messages if m.get("role") == "user")
        known = any(m.get("role") == "tool" or m.get("type") == "function_call_output" for m in messages)
        name = "London" if "England" in asked else INVENTED
        extra = "poison" if "dangers" in asked else "a secret" if "hidden" in asked else "nothing else"
        arguments = {"name": name, "country": extra}
        forms = [tool["name"] for tool in tools if "country" in json.dumps(tool)]
        others = [tool["name"] for tool in tools if tool["name"] not in forms]
        self.text = f"{name} is the capital. {_TEXT}One should know of {extra}. {_TEXT}"
        if wants_form or "JSON" in json.dumps(messages) or "country" in _texts(messages[0].get("content")):
            self.text = json.dumps(arguments)
        self.call: tuple[str, str] | None = None
        if others and not known:
            self.call = (others[0], json.dumps({"city": name}))
        elif forms:
            self.call = (forms[0], json.dumps(arguments))


def _texts(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def _cut(text: str) -> list[str]:
    return [text[at : at + 12] for at in range(0, len(text), 12)]


class _Chat(_Answering):
    def __init__(self, body: Json, number: int) -> None:
        tools = [tool["function"] for tool in body.get("tools", ())]
        super().__init__(body, number, body["messages"], tools, wants_form="response_format" in body)
        self.finish = "tool_calls" if self.call else "stop"

    def _head(self, kind: str) -> Json:
        return {"id": f"chatcmpl-{self.number}", "object": kind, "created": 7, "model": self.model}

    def _message(self) -> Json:
        if not self.call:
            return {"role": "assistant", "content": self.text, "refusal": None}
        name, arguments = self.call
        call = {"id": f"call_{self.number}", "type": "function", "function": {"name": name, "arguments": arguments}}
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    def whole(self) -> Json:
        """The completion."""
        choice = {"index": 0, "message": self._message(), "finish_reason": self.finish, "logprobs": None}
        usage = {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage}

    def frames(self) -> Iterator[bytes]:
        """The events of the stream."""
        deltas: list[Json] = [{"role": "assistant", "content": ""}]
        if self.call:
            name, arguments = self.call
            first = {
                "index": 0,
                "id": f"call_{self.number}",
                "type": "function",
                "function": {"name": name, "arguments": ""},
            }
            deltas.append({"tool_calls": [first]})
            deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": p}}]} for p in _cut(arguments)]
        else:
            deltas += [{"content": piece} for piece in _cut(self.text)]
        for delta in deltas:
            yield self._frame(delta, None)
        yield self._frame({}, self.finish)
        yield b"data: [DONE]\n\n"

    def _frame(self, delta: Json, finish: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return sse(Event({**self._head("chat.completion.chunk"), "choices": [choice]}))


class _Responses(_Answering):
    def __init__(self, body: Json, number: int) -> None:
        asked = body["input"]
        messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        tools = [tool for tool in body.get("tools", ()) if "name" in tool]
        form = (body.get("text") or {}).get("format") or {}
        super().__init__(body, number, messages, tools, wants_form=form.get("type", "text") != "text")

    def _response(self, status: str, output: list[Json]) -> Json:
        head = {
            "id": f"resp_{self.number}",
            "object": "response",
            "created_at": 7,
            "status": status,
            "model": self.model,
        }
        usage = {"input_tokens": 12, "output_tokens": 9, "total_tokens": 21}
        details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        more = {"error": None, "incomplete_details": None, "instructions": None, "metadata": {}}
        done = {"usage": {**usage, **details}} if status == "completed" else {}
        tools = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "model": self.model}
        return {**head, **more, **tools, "output": output, **done}

    def _item(self, *, empty: bool = False) -> Json:
        status = "in_progress" if empty else "completed"
        if self.call:
            name, arguments = self.call
            call = {
                "id": f"fc_{self.number}",
                "type": "function_call",
                "status": status,
                "call_id": f"call_{self.number}",
                "name": name,
            }
            return {**call, "arguments": "" if empty else arguments}
        content = [] if empty else [self._part(self.text)]
        return {
            "id": f"msg_{self.number}",
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _part(self, text: str) -> Json:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def whole(self) -> Json:
        """The response."""
        return self._response("completed", [self._item()])

    def frames(self) -> Iterator[bytes]:
        """The events of the stream."""
        for number, (kind, event) in enumerate(self._events()):
            yield sse(Event({"type": kind, "sequence_number": number, **event}, kind))

    def _events(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        place = {"output_index": 0}
        yield "response.created", {"response": self._response("in_progress", [])}
        yield "response.output_item.added", {**place, "item": self._item(empty=True)}
        if self.call:
            name, text = self.call
            place = {**place, "item_id": f"fc_{self.number}"}
            for piece in _cut(text):
                yield "response.function_call_arguments.delta", {**place, "delta": piece}
            yield "response.function_call_arguments.done", {**place, "name": name, "arguments": text}
        else:
            place = {**place, "item_id": f"msg_{self.number}", "content_index": 0}
            yield "response.content_part.added", {**place, "part": self._part("")}
            for piece in _cut(self.text):
                yield "response.output_text.delta", {**place, "delta": piece, "logprobs": []}
            yield "response.output_text.done", {**place, "text": self.text, "logprobs": []}
            yield "response.content_part.done", {**place, "part": self._part(self.text)}
        yield "response.output_item.done", {"output_index": 0, "item": self._item()}
        yield "response.completed", {"response": self.whole()}
