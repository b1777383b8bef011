"""Google's Gemini (`generateContent`, `streamGenerateContent`), as events (`alt=sse`) or as a JSON array.

Reference: Gemini API reference, "Generating content"; google.rpc.Status for errors. The field maps are in `fields`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.ports import Answer, Reply, ReplyStream, Request, Wire
from guardproxy.types import Message, Refuse
from guardproxy.wires.gemini.fields import CANDIDATE, CONTENT, REPLY, SETTINGS, both_spellings, part, unique_value
from guardproxy.wires.gemini.stream import (
    GeminiStream,
    candidates_of,
    finish_reason,
    gemini_info,
    index_of,
    log_probabilities,
    parts_of,
    text_content,
    value_of,
)
from guardproxy.wires.shared.base import BaseWire, Changed, message_list
from guardproxy.wires.shared.body import dumps, read_json, remove
from guardproxy.wires.shared.edits import rewrite
from guardproxy.wires.shared.identifiers import value_or
from guardproxy.wires.shared.known import Known, repeated_in_reply
from guardproxy.wires.shared.logprob_echo import LogprobEcho
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import keys, outer_messages, outer_parts, read_fields, with_outer_parts
from guardproxy.wires.shared.refusals import reason
from guardproxy.wires.shared.streams import JSON, SSE

_PATH = re.compile(
    r"/v1(?:beta\d?|alpha)?/(?:projects/[^/]+/locations/[^/]+/)?(?:publishers/[^/]+/)?(?:models|tunedModels|endpoints)"
    r"/(?P<model>[^/:]+):(?P<method>generateContent|streamGenerateContent)"
)
_CALLS = re.compile(r"\.args$")
_NO_USAGE = {"promptTokenCount": 0, "totalTokenCount": 0}
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}
# Names that must not come in both spellings: servers differ on which value counts.
_UNIQUE = ("systemInstruction", "toolConfig", "safetySettings", "generationConfig", "cachedContent")
# Fields about a candidate's text, which do not fit an edited text.
_ABOUT_TEXT = frozenset(both_spellings(keys("logprobsResult avgLogprobs citationMetadata groundingMetadata")))


def _content(content: Any, path: str, known: Known) -> Message:
    """Read a content; a content of nothing but function responses gets the role `tool`."""
    if not isinstance(content, dict):
        raise Unreadable("must be an object", path)
    builder = MessageBuilder(Unreadable, known)
    CONTENT(builder, content, path)
    if content.get("role") == "model":
        return builder.message("assistant")
    parts = content.get("parts") or []
    results = [value_of(item, "functionResponse") is not None for item in parts]
    is_tool = content.get("role") in ("function", "tool") or (results and all(results))
    return builder.message("tool" if is_tool else "user")


class Gemini(BaseWire):
    """The wire of `models/{model}:generateContent` and `:streamGenerateContent`."""

    name = "gemini"
    keepalive = b""
    paths = _PATH
    calls = _CALLS

    def turns(self, path: str, body: Mapping[str, Any], known: Known) -> Iterator[tuple[str, Message]]:
        """Yield every content with its path; texts outside the contents come first."""
        builder = MessageBuilder(Unreadable, known)
        for name in _UNIQUE:
            unique_value(builder, body, name, "")
        read_fields(builder, body, "", SETTINGS)
        for message in outer_messages(builder, ["systemInstruction", "system_instruction"]):
            yield "", message
        for index, content in enumerate(message_list(body, "contents", "content")):
            yield f"contents[{index}]", _content(content, f"contents[{index}]", known)

    def model(self, path: str, body: Mapping[str, Any]) -> str:
        """Return the model that the path names."""
        return self._names(path)["model"]

    def wants_stream(self, path: str, body: Mapping[str, Any]) -> bool:
        """Return whether the path names the streaming method."""
        return self._names(path)["method"] == "streamGenerateContent"

    def structured(self, body: Mapping[str, Any]) -> bool:
        """Return whether the request asks for another media type than plain text."""
        return (value_of(value_of(body, "generationConfig") or {}, "responseMimeType") or "text/plain") != "text/plain"

    def must_call(self, body: Mapping[str, Any]) -> bool:
        """Return whether the request leaves the model no other answer than the call of a function."""
        tools = value_of(body, "toolConfig")
        calling = value_of(tools, "functionCallingConfig") if isinstance(tools, dict) else None
        return isinstance(calling, dict) and calling.get("mode") == "ANY"

    def _names(self, path: str) -> re.Match[str]:
        names = self.paths.fullmatch(path.partition("?")[0])
        if names is None:
            raise Unreadable(f"the path {path!r} names no model and method of generateContent")
        return names

    def parse_reply(self, request: Request, body: bytes) -> Reply:
        """Parse a whole reply, or an array, which is a whole stream. Raises UpstreamUnreadable.

        A blocked prompt and an error have no choice of their own.
        """
        parsed = read_json(body, UpstreamUnreadable)
        if isinstance(parsed, list):
            stream = GeminiStream(request, array=True)
            _ = [*stream.feed(body), *stream.finish()]
            return Reply(tuple(map(stream.message, stream.choices)), body, parsed, info=stream.info)
        if not isinstance(parsed, dict):
            raise UpstreamUnreadable("the body must be a JSON object")
        known = repeated_in_reply(request)
        choices = [self._candidate(candidate, place, known) for place, candidate in enumerate(candidates_of(parsed))]
        outer = outer_parts(parsed, REPLY, known)
        return Reply(with_outer_parts(choices, outer), body, parsed, info=gemini_info(parsed))

    def _candidate(self, candidate: Any, place: int, known: Known) -> Message:
        path = f"candidates[{place}]"
        index_of(candidate, place)
        builder, echo = MessageBuilder(UpstreamUnreadable, known), LogprobEcho(f"{path}.logprobsResult")
        read_fields(builder, candidate, path, CANDIDATE)
        for number, value in enumerate(parts_of(builder, candidate, path)):
            part(builder, value, f"{path}.content.parts[{number}]")
        log_probabilities(echo, builder, candidate, f"{path}.logprobsResult")
        echo.close(builder)
        return builder.message("assistant")

    def edited_reply(self, request: Request, reply: Reply, changed: Changed) -> bytes:
        """Return the reply with the candidates in `changed` replaced or refused, and the others as they are."""
        if isinstance(reply.body, list):
            return _edited_array(request, reply, changed)
        body = json.loads(reply.raw)
        if not body.get("candidates"):
            body = {**_head(request), **body, "candidates": [{}]}
            body.pop("error", None)
        for index, outcome in changed.items():
            candidate = body["candidates"][index]
            number = {"index": candidate.get("index", 0)}
            if isinstance(outcome, Refuse):
                new = {"content": text_content(outcome.message), "finishReason": finish_reason(outcome), **number}
                body |= reason(request, outcome)
            elif outcome.whole or not candidates_of(reply.body):
                text = "\n".join(edit.text for edit in outcome.edits)
                finish = value_or(value_of(candidate, "finishReason"), "STOP")
                new = {"content": text_content(text), "finishReason": finish, **number}
            else:
                rewrite(body, outcome.edits, _CALLS)
                new = {key: value for key, value in candidate.items() if key not in _ABOUT_TEXT}
            body["candidates"][index] = new
            outer = (item.path for item in reply.choices[index].parts if not item.path.startswith("candidates["))
            remove(body, outer)
        return dumps(body)

    def refusal(self, request: Request, refusal: Refuse) -> Answer:
        """Return a complete answer that carries the refusal, streamed if the request asked for a stream."""
        if request.stream:
            array = _wants_array(request.path)
            stream = GeminiStream(request, array=array)
            return Answer(200, JSON if array else SSE, stream.end(0, refusal) + stream.close())
        candidate = {"content": text_content(refusal.message), "finishReason": finish_reason(refusal), "index": 0}
        body = {"candidates": [candidate], **_head(request), **reason(request, refusal)}
        return Answer(200, JSON, dumps(body))

    def error(self, status: int, code: str, message: str, reason: Mapping[str, Any] | None = None) -> Answer:
        """Return the protocol's own error body; its details have texts only, so categories are joined by commas."""
        told = (reason or {}).get("guardproxy", {})
        texts = {key: value if isinstance(value, str) else ",".join(value) for key, value in told.items()}
        info = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": code.upper(),
            "domain": "guardproxy",
            **({"metadata": texts} if texts else {}),
        }
        name = _STATUS.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")
        error = {"code": status, "message": message, "status": name, "details": [info]}
        return Answer(status, JSON, dumps({"error": error}))

    def error_event(self, error: Answer, content_type: str) -> bytes:
        """Return an error as an event without a name, which Google's client cannot read; of an array, as an item."""
        if content_type.lower().startswith("text/event-stream"):
            return b"data: %b\r\n\r\n" % error.body
        return super().error_event(error, content_type)

    def open_stream(self, request: Request, content_type: str) -> ReplyStream:
        """Return a reader for the streamed reply: a JSON array if the content type is JSON, otherwise events."""
        return GeminiStream(request, array=content_type.partition(";")[0].strip().lower() == JSON)


def _head(request: Request) -> dict[str, Any]:
    """Return a response outside its candidates, for a response that the proxy writes."""
    return {"usageMetadata": _NO_USAGE, "modelVersion": request.model, "responseId": request.id}


def _wants_array(path: str) -> bool:
    """Whether the query asks for a JSON array; a path without a query is read as asking for events."""
    _, mark, query = path.partition("?")
    return bool(mark) and parse_qs(query).get("alt") != ["sse"]


def _edited_array(request: Request, reply: Reply, changed: Changed) -> bytes:
    """Return an array that begins with the ends of the changed candidates; the rest of it leaves them out."""
    stream = GeminiStream(request, array=True)
    chunks = [*stream.feed(reply.raw), *stream.finish()]
    numbers = stream.choices
    ended = b"".join(stream.end(numbers[index], outcome) for index, outcome in changed.items())
    rest = b"".join(stream.release(chunk) for chunk in chunks)
    return ended + rest + stream.close()


wire: Wire = Gemini()
