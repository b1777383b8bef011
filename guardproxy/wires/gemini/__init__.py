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
from guardproxy.wires.gemini.fields import CANDIDATE, CONTENT, REPLY, SETTINGS, part, snake, taken
from guardproxy.wires.gemini.stream import (
    GeminiStream,
    candidates_of,
    get,
    index_of,
    log_probabilities,
    parts_of,
    said_parts,
)
from guardproxy.wires.shared.base import BaseWire, Changed, message_list
from guardproxy.wires.shared.body import dumps, read_json, remove
from guardproxy.wires.shared.edits import rewrite
from guardproxy.wires.shared.logprob_echo import LogprobEcho
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import beside_turns, outer_parts, walk, with_outer_parts
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
_TWICE = ("systemInstruction", "toolConfig", "safetySettings", "generationConfig", "cachedContent")


def _content(content: Any, path: str) -> Message:
    """A content that holds nothing but results of functions is the tool's."""
    if not isinstance(content, dict):
        raise Unreadable("must be an object", path)
    builder = MessageBuilder(Unreadable)
    CONTENT(builder, content, path)
    if content.get("role") == "model":
        return builder.message("assistant")
    parts = content.get("parts") or []
    results = [get(one, "functionResponse") is not None for one in parts]
    is_tool = content.get("role") in ("function", "tool") or (results and all(results))
    return builder.message("tool" if is_tool else "user")


class Gemini(BaseWire):
    """The wire of `models/{model}:generateContent` and `:streamGenerateContent`."""

    name = "gemini"
    keepalive = b""
    paths = _PATH
    calls = _CALLS

    def turns(self, path: str, body: Mapping[str, Any]) -> Iterator[tuple[str, Message]]:
        """Every content with its path in the body; texts beside the contents come first."""
        builder = MessageBuilder(Unreadable)
        for name in _TWICE:
            taken(builder, body, name, "")
        walk(builder, body, "", SETTINGS)
        for message in beside_turns(builder, "system"):
            yield "", message
        for index, content in enumerate(message_list(body, "contents", "content")):
            yield f"contents[{index}]", _content(content, f"contents[{index}]")

    def model(self, path: str, body: Mapping[str, Any]) -> str:
        """The model that the path names."""
        return self._names(path)["model"]

    def wants_stream(self, path: str, body: Mapping[str, Any]) -> bool:
        """Whether the path's method is the streaming one."""
        return self._names(path)["method"] == "streamGenerateContent"

    def structured(self, body: Mapping[str, Any]) -> bool:
        """Whether the request asks for another media type than plain text."""
        return (get(get(body, "generationConfig") or {}, "responseMimeType") or "text/plain") != "text/plain"

    def _names(self, path: str) -> re.Match[str]:
        found = self.paths.fullmatch(path.partition("?")[0])
        if found is None:
            raise Unreadable(f"the path {path!r} is none of generateContent")
        return found

    def parse_reply(self, request: Request, body: bytes) -> Reply:
        """Raises UpstreamUnreadable. A blocked prompt and an error have no choice; an array is a stream read as one."""
        parsed = read_json(body, UpstreamUnreadable)
        if isinstance(parsed, list):
            stream = GeminiStream(request, array=True)
            _ = [*stream.feed(body), *stream.finish()]
            return Reply(tuple(stream.message(choice) for choice in stream.choices), body, parsed)
        if not isinstance(parsed, dict):
            raise UpstreamUnreadable("the body must be a JSON object")
        choices = [self._candidate(one, index_of(one, n), n) for n, one in enumerate(candidates_of(parsed))]
        return Reply(with_outer_parts(choices, outer_parts(parsed, REPLY)), body, parsed)

    def _candidate(self, candidate: dict[str, Any], index: int, place: int) -> Message:
        path = f"candidates[{place}]"
        builder, echo = MessageBuilder(UpstreamUnreadable), LogprobEcho(f"{path}.logprobsResult")
        walk(builder, candidate, path, CANDIDATE)
        for number, value in enumerate(parts_of(builder, candidate, path)):
            part(builder, value, f"{path}.content.parts[{number}]")
        log_probabilities(echo, builder, candidate, f"{path}.logprobsResult")
        echo.close(builder)
        return builder.message("assistant")

    def edited_reply(self, request: Request, reply: Reply, changed: Changed) -> bytes:
        """The reply with the changed candidates replaced or refused; the others stay as they are."""
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
                new = {"content": said_parts(outcome.message), "finishReason": _reason(outcome), **number}
            elif outcome.whole or not candidates_of(reply.body):
                said = "\n".join(edit.text for edit in outcome.edits)
                finish = get(candidate, "finishReason") or "STOP"
                new = {"content": said_parts(said), "finishReason": finish, **number}
            else:
                rewrite(body, outcome.edits, _CALLS)
                about = ("logprobsResult", "avgLogprobs", "citationMetadata", "groundingMetadata")
                gone = {*about, *(snake(name) for name in about)}
                new = {key: value for key, value in candidate.items() if key not in gone}
            body["candidates"][index] = new
            remove(body, [one.path for one in reply.choices[index].parts if not one.path.startswith("candidates[")])
        return dumps(body)

    def refusal(self, request: Request, refusal: Refuse) -> Answer:
        """A complete valid answer that carries the refusal, streamed if the request asked for a stream."""
        if request.stream:
            array = _wants_array(request.path)
            stream = GeminiStream(request, array=array)
            return Answer(200, JSON if array else SSE, stream.end(0, refusal) + stream.close())
        candidate = {"content": said_parts(refusal.message), "finishReason": _reason(refusal), "index": 0}
        body = {"candidates": [candidate], **_head(request)}
        return Answer(200, JSON, dumps(body))

    def error(self, status: int, code: str, message: str) -> Answer:
        """The protocol's own error body."""
        info = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": code.upper(),
            "domain": "guardproxy",
        }
        name = _STATUS.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")
        error = {"code": status, "message": message, "status": name, "details": [info]}
        return Answer(status, JSON, dumps({"error": error}))

    def open_stream(self, request: Request, content_type: str) -> ReplyStream:
        """A reader for the reply to `request`: events, or a JSON array where the content type is JSON's."""
        return GeminiStream(request, array=content_type.partition(";")[0].strip().lower() == JSON)


def _head(request: Request) -> dict[str, Any]:
    """What a response says beside its candidates, where no upstream has given it."""
    return {"usageMetadata": _NO_USAGE, "modelVersion": request.model}


def _reason(refusal: Refuse) -> str:
    return "SAFETY" if refusal.finish == "content_filter" else "STOP"


def _wants_array(path: str) -> bool:
    """Whether a stream is asked for as an array; the query says so, and without one it is taken for events."""
    _, mark, query = path.partition("?")
    return bool(mark) and parse_qs(query).get("alt") != ["sse"]


def _edited_array(request: Request, reply: Reply, changed: Changed) -> bytes:
    """An array with its ended candidates first, which need nothing of what is left of it."""
    stream = GeminiStream(request, array=True)
    chunks = [*stream.feed(reply.raw), *stream.finish()]
    numbers = stream.choices
    ended = b"".join(stream.end(numbers[index], outcome) for index, outcome in changed.items())
    rest = b"".join(stream.release(chunk) for chunk in chunks)
    return ended + rest + stream.close()


wire: Wire = Gemini()
