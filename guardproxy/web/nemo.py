"""NeMo Guardrails' check API: `POST /v1/checks`.

Reference: `GuardrailCheckRequest` in nemoguardrails 0.24. The body is that of a chat completion. If its last message is
the assistant's, that one is judged in its conversation; otherwise all of the conversation, as the proxy judges it. The
answer has the text of the last message alone, so a change in another one is a block. Messages of the role `context`
hold variables of NeMo's rails in an object: they are judged as a text in JSON, because prompts are made of them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.types import Receive, Scope

from guardproxy.errors import GuardproxyError, JudgingTooLong, TooLarge, Unreadable
from guardproxy.offload import computed
from guardproxy.pipeline import moderated, texts_after
from guardproxy.ports import Answer
from guardproxy.types import Pass, Refuse, Steer
from guardproxy.web.apis import list_at
from guardproxy.web.call import Call
from guardproxy.web.chat_api import CHAT, UNCHANGEABLE, ChatApi
from guardproxy.web.errors import error_answer
from guardproxy.web.reading import read_request
from guardproxy.wires.shared.body import dumps

CHECKS = "/v1/checks"
_CONTEXT = "context"


class NemoApi(ChatApi):
    """Answers as NeMo Guardrails' server does. The options in `guardrails` are those of its own rails: not read."""

    name = "nemo"

    def error(self, error: GuardproxyError, message: str) -> bytes:
        """OpenAI's error body, which NeMo's server has as well."""
        return error_answer(CHAT, error.status, error.code, message).body

    async def respond(self, call: Call, scope: Scope, receive: Receive) -> Answer:
        """Passed, modified or blocked."""
        body, size = await self.read(call)
        messages = await computed(size, _messages, body)
        chat = {name: value for name, value in body.items() if name not in ("guardrails", "stream")}
        chat["messages"] = messages
        try:
            if messages[-1].get("role") == "assistant":
                return await self._reply(call, chat, messages, size)
            review = await self.review(call, chat, size, body)
        except (TooLarge, JudgingTooLong) as error:
            self.parts.metrics.failed(error.code)
            return _answer("blocked", str(error))
        if review.refused is not None:
            return _answer("blocked", review.refused, call.categories)
        if review.body is None:
            return _answer("passed", _text_of(messages[-1]))
        new = review.body
        if not await computed(size, _only_last_changed, new, chat):
            return _answer("blocked", UNCHANGEABLE, call.categories)
        return _answer("modified", _text_of(new["messages"][-1]))

    async def _reply(self, call: Call, chat: Mapping[str, Any], messages: Sequence[Any], size: int) -> Answer:
        """Judge the last message as a reply in its conversation."""
        raw = await computed(size, dumps, chat)
        request = await read_request(self._chat, CHAT, raw, self.parts.limits, received=0.0, request_id=call.id)
        *context, reply = request.conversation.messages
        case = self.case(call, chat, request.conversation.messages, model=request.model)
        (judged,) = await moderated(self.parts.judging, case, [reply], context=context, acts=True)
        if judged.failure is not None:
            raise judged.failure
        call.judged(judged.decision.action, judged.decision.categories, judged.coverage)
        if isinstance(judged.outcome, Refuse):
            return _answer("blocked", judged.outcome.message, call.categories)
        if isinstance(judged.outcome, Pass | Steer):
            return _answer("passed", _text_of(messages[-1]))
        after = texts_after(reply, judged.outcome)
        place = f"messages[{len(messages) - 1}].content"
        if any(not path.startswith(place) for path in after):
            return _answer("blocked", UNCHANGEABLE, call.categories)
        texts = [after.get(part.path, part.text) for part in reply.parts if part.path.startswith(place)]
        return _answer("modified", "\n".join(texts))


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages as a chat completion has them. Raises Unreadable."""
    messages = list_at(body, "messages")
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise Unreadable("must be a non-empty list of messages", "messages")
    if messages[-1].get("role") == _CONTEXT:
        place = f"messages[{len(messages) - 1}]"
        raise Unreadable("is a context, which is no text to check: put it before the message that is checked", place)
    return [
        {**message, "content": json.dumps(message["content"], ensure_ascii=False)}
        if message.get("role") == _CONTEXT and isinstance(message.get("content"), dict)
        else message
        for message in messages
    ]


def _only_last_changed(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether the texts of the last message are all that has changed."""
    bare = [
        {**body, "messages": [*body["messages"][:-1], {**body["messages"][-1], "content": ""}]} for body in (new, old)
    ]
    return bool(bare[0] == bare[1])


def _text_of(message: Mapping[str, Any]) -> str:
    """The text of a message; that of several parts line by line."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(
            item["text"] for item in content if isinstance(item, dict) and isinstance(item.get("text"), str)
        )
    return content if isinstance(content, str) else ""


def _answer(status: str, content: str, categories: Sequence[str] = ()) -> Answer:
    fields = {"status": status, "content": content}
    if status == "blocked" and categories:
        fields["rail"] = ",".join(categories)
    return Answer(200, "application/json", dumps(fields))
