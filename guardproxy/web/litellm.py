"""LiteLLM's generic guardrail API: `POST /beta/litellm_basic_guardrail_api`.

Reference: `GenericGuardrailAPIRequest` in litellm 1.106. LiteLLM takes the `texts` out of a request or a reply, and
puts those of the answer in their places. With a request come its messages as well: they are judged as the proxy judges
a chat completion. The texts of a reply are judged as one message, and each by itself. Nothing but a text can be
changed, so what needs another change is blocked.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from starlette.types import Receive, Scope

from guardproxy.errors import GuardproxyError, JudgingTooLong, TooLarge, Unreadable
from guardproxy.images import InlineImage
from guardproxy.offload import computed
from guardproxy.pipeline import moderated, texts_after
from guardproxy.pipeline.reach import reach_of
from guardproxy.policy import Policy
from guardproxy.ports import Answer
from guardproxy.sentences import sentences
from guardproxy.settings import Limits
from guardproxy.types import Message, Part, Pass, Refuse, Replace, Steer
from guardproxy.web.apis import list_at, strings_at, text_at
from guardproxy.web.call import Call
from guardproxy.web.chat_api import CHAT, UNCHANGEABLE, ChatApi
from guardproxy.web.errors import error_answer
from guardproxy.web.reading import check_size
from guardproxy.wires.shared.body import data_url_image, dumps, guard_text

LITELLM = "/beta/litellm_basic_guardrail_api"
_MEDIA = ("image_url", "input_image", "image", "input_audio", "video_url", "file", "input_file")


class LitellmApi(ChatApi):
    """Answers LiteLLM."""

    name = "litellm"

    def error(self, error: GuardproxyError, message: str) -> bytes:
        """An error body. LiteLLM blocks on any, unless it is configured not to."""
        return error_answer(CHAT, error.status, error.code, message).body

    async def respond(self, call: Call, scope: Scope, receive: Receive) -> Answer:
        """NONE, BLOCKED or GUARDRAIL_INTERVENED.

        A text that takes too long to judge is blocked, and no error: LiteLLM may be configured to pass errors.
        """
        try:
            body, size = await self.read(call)
            texts = await computed(size, strings_at, body, "texts")
            messages = list_at(body, "structured_messages")
            if await computed(size, _is_whole, body, messages, texts):
                return await self._request(call, body, messages, texts, size)
            return await self._message(call, body, texts, size)
        except (TooLarge, JudgingTooLong) as error:
            self.parts.metrics.failed(error.code)
            return _blocked(str(error))

    async def _request(
        self, call: Call, body: Mapping[str, Any], messages: list[Any], texts: list[str], size: int
    ) -> Answer:
        """Judge a request as the proxy judges it."""
        chat = {name: body[name] for name in ("model", "tools") if body.get(name) is not None}
        review = await self.review(call, {**chat, "messages": messages}, size, _named(body))
        if review.refused is not None:
            return _blocked(review.refused)
        if review.body is None:
            return _NONE
        return await computed(size, _rewritten, review.body, {**chat, "messages": messages}, texts)

    async def _message(self, call: Call, body: Mapping[str, Any], texts: list[str], size: int) -> Answer:
        """Judge the texts, and what comes with them, as a single message."""
        message = await computed(size, message_of, body, texts, self.parts.limits)
        side = body["input_type"]
        case = self.case(call, _named(body), [message], model=text_at(body, "model"))
        name = text_at(body, "litellm_call_id") if side == "response" else ""
        stream = f"litellm call:{name}" if name else None  # no other API's, whose names have no space before the colon
        growing = self._pipeline.growing
        (judged,) = await moderated(self.parts.judging, case, [message], acts=True, stream=stream, growing=growing)
        if judged.failure is not None:
            raise judged.failure
        call.judged(judged.decision.action, judged.decision.categories, judged.coverage)
        if isinstance(judged.outcome, Refuse):
            return _blocked(judged.outcome.message)
        return await computed(size, self._judged, message, texts, judged.outcome, case.policy, streamed=bool(stream))

    def _judged(
        self, message: Message, texts: list[str], outcome: Pass | Steer | Replace, policy: Policy, *, streamed: bool
    ) -> Answer:
        """The answer for texts that are not refused."""
        if isinstance(outcome, Pass | Steer):
            return _answer(action="NONE", **({"stream_holdback_chars": self._held(texts, policy)} if streamed else {}))
        after = texts_after(message, outcome)
        places = {f"texts[{index}]": text for index, text in enumerate(texts)}
        if any(path not in places for path in after):
            return _blocked(UNCHANGEABLE)
        new = [after.get(path, text) for path, text in places.items()]
        return _intervened(new, **({"stream_holdback_chars": self._held(new, policy)} if streamed else {}))

    def _held(self, texts: Sequence[str], policy: Policy) -> list[int]:
        """How many characters at the end of each text LiteLLM must not send yet, if more of a streamed reply follows.

        A sentence that has not ended may still be judged otherwise, and is redacted as a whole. A match of a pattern
        may have begun before it.
        """
        if policy.stream.mode == "monitor":
            return [0 for _ in texts]
        if policy.stream.mode == "hold_all":
            return [len(text) for text in texts]
        reach = reach_of(policy, self.parts.judging.traits.reaches)
        last = [len(sentences(text)[-1]) if text else 0 for text in texts]
        return [
            max(policy.stream.lag, sentence, reach.undecided(text)) for text, sentence in zip(texts, last, strict=True)
        ]


def _is_whole(body: Mapping[str, Any], messages: Sequence[Any], texts: list[str]) -> bool:
    """Whether the messages are a request's and have everything that comes beside them."""
    return body.get("input_type") == "request" and bool(messages) and texts == texts_of(messages) and _has_all(body)


def message_of(body: Mapping[str, Any], texts: list[str], limits: Limits) -> Message:
    """The texts, and what comes with them. Raises Unreadable, and TooLarge beyond the limits."""
    side = body.get("input_type")
    if side not in ("request", "response"):
        raise Unreadable("must be request or response", "input_type")
    images = list_at(body, "images")
    beyond = _beyond(list_at(body, "structured_messages"), texts, images) if side == "request" else ()
    parts = (*_text_parts(texts), *beyond, *_other_parts(body))
    message = Message("assistant" if side == "response" else "user", parts)
    check_size([message], limits, "texts")
    return message


def _rewritten(new: Mapping[str, Any], old: Mapping[str, Any], texts: list[str]) -> Answer:
    """The new texts of a request, unless something else would have to change as well."""
    found = texts_of(new["messages"])
    if len(found) != len(texts) or _without_texts(new) != _without_texts(old):
        return _blocked(UNCHANGEABLE)
    return _intervened(found)


def texts_of(messages: Sequence[Any]) -> list[str]:
    """The texts that LiteLLM takes out of chat messages, in its order."""
    return list(_texts_of(messages))


def _texts_of(messages: Sequence[Any]) -> Iterator[str]:
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            yield content
        for item in content if isinstance(content, list) else ():
            if isinstance(item, dict) and item.get("text") is not None:
                yield item["text"]


def _without_texts(body: Mapping[str, Any]) -> Any:
    bare = []
    for message in body["messages"]:
        content = message.get("content")
        if isinstance(content, str):
            content = ""
        elif isinstance(content, list):
            content = [{**item, "text": ""} if isinstance(item, dict) and "text" in item else item for item in content]
        bare.append({**message, "content": content})
    return {**body, "messages": bare}


def _text_parts(texts: Sequence[str]) -> Iterator[Part]:
    for index, text in enumerate(texts):
        yield Part(f"texts[{index}]", text)


def _other_parts(body: Mapping[str, Any]) -> Iterator[Part]:
    """What comes beside the texts: tool calls and definitions are read as JSON, images are opaque parts."""
    for index, item in enumerate(list_at(body, "tool_calls")):
        yield Part(f"tool_calls[{index}]", guard_text(item), "tool_call")
    for index, item in enumerate(list_at(body, "tools")):
        yield Part(f"tools[{index}]", guard_text(item), "tool_definition")
    for index, item in enumerate(list_at(body, "images")):
        found = data_url_image(item) if isinstance(item, str) else None
        yield Part(f"images[{index}]", "", "opaque", "image", found and InlineImage(*found))


def _has_all(body: Mapping[str, Any]) -> bool:
    """Whether the messages have every tool call and image that comes beside them: LiteLLM takes them from there."""
    messages = [message for message in list_at(body, "structured_messages") if isinstance(message, dict)]
    known = {_call_of(call) for message in messages for call in _items(message.get("tool_calls"))}
    others = [item for one in messages for item in _items(one.get("content")) if not _is_text(item)]
    calls = {_call_of(call) for call in list_at(body, "tool_calls")}
    return calls <= known and (bool(others) or not list_at(body, "images"))


def _call_of(call: Any) -> tuple[str, ...]:
    """The name and the arguments of a tool call; LiteLLM may have added other fields."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return (guard_text(call),)
    return guard_text(function.get("name")), guard_text(function.get("arguments"))


def _beyond(messages: Sequence[Any], texts: Sequence[str], images: Sequence[Any]) -> Iterator[Part]:
    """What a request's messages have beside the texts and images that LiteLLM took out of them, which may be others."""
    taken = set(texts)
    for index, message in enumerate(messages):
        path, fields = f"structured_messages[{index}]", message if isinstance(message, dict) else {"content": message}
        content = fields.get("content")
        more = [item for item in (content if isinstance(content, list) else [content]) if item]
        more = [item for item in more if (item["text"] if _is_text(item) else guard_text(item)) not in taken]
        if any(_is_media(item) and _url_of(item) not in images for item in more):
            yield Part(f"{path}.content", "", "opaque", "image")
        readable = [item for item in more if not _is_media(item)]
        readable += [value for name, value in fields.items() if name not in ("role", "content") and value]
        if readable:
            yield Part(path, "\n".join(map(guard_text, readable)))


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_text(item: Any) -> bool:
    """Whether an item of a message's content is a text and nothing else."""
    return isinstance(item, dict) and isinstance(item.get("text"), str) and item.keys() <= {"type", "text"}


def _is_media(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") in _MEDIA


def _url_of(item: Mapping[str, Any]) -> Any:
    """The URL of an item of a chat message that is an image and nothing else; None for other content."""
    value = item.get("image_url")
    if item.keys() != {"type", "image_url"} or not isinstance(value, dict):
        return value if item.keys() == {"type", "image_url"} else None
    is_plain = value.keys() <= {"url", "detail"} and value.get("detail") in (None, "auto", "low", "high")
    return value.get("url") if is_plain else None


def _named(body: Mapping[str, Any]) -> dict[str, Any]:
    """The end user and the session, where records look for them by default."""
    key = body.get("request_data")
    user = key.get("user_api_key_end_user_id") or key.get("user_api_key_user_id") if isinstance(key, dict) else None
    return {"user": user, "session_id": body.get("litellm_trace_id")}


def _answer(**fields: Any) -> Answer:
    return Answer(200, "application/json", dumps(fields))


def _blocked(reason: str) -> Answer:
    return _answer(action="BLOCKED", blocked_reason=reason)


def _intervened(texts: list[str], **more: Any) -> Answer:
    return _answer(action="GUARDRAIL_INTERVENED", texts=texts, **more)


_NONE = _answer(action="NONE")
