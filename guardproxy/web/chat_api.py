"""APIs of the guard that get chat messages: these are judged as the proxy judges a chat completion."""

import json
import time
from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any

from guardproxy.frozen import frozen
from guardproxy.offload import computed
from guardproxy.pipeline import Exchange, Pipeline, RequestReview
from guardproxy.policy import Policy
from guardproxy.ports import Request, Wire
from guardproxy.web.apis import ApiParts, GuardApi
from guardproxy.web.call import Call
from guardproxy.web.reading import read_request
from guardproxy.wires.shared.body import dumps

CHAT = "/v1/chat/completions"
UNCHANGEABLE = "The content must be changed in a place that a guardrail cannot change."


@frozen
class ChatReview:
    """What becomes of a chat: it is `refused` with this text, or goes on as `body`, or, if both are None, as it is."""

    refused: str | None = None
    body: Mapping[str, Any] | None = None


class ChatApi(GuardApi, ABC):
    """An API that gets chat messages. `chat` is the wire of chat completions."""

    def __init__(self, parts: ApiParts, pipeline: Pipeline, chat: Wire) -> None:
        super().__init__(parts)
        self._pipeline = pipeline
        self._chat = chat

    async def review(self, call: Call, chat: Mapping[str, Any], size: int, named: Mapping[str, Any]) -> ChatReview:
        """Judge the body of a chat completion, of about `size` bytes, as the proxy judges it. It has as many messages
        after it: one that must be left out says that it was withheld. `named` has the end user and the session.
        """
        raw = await computed(size, dumps, chat)
        request = await read_request(self._chat, CHAT, raw, self.parts.limits, received=time.time(), request_id=call.id)
        case = self.case(call, named, request.conversation.messages, model=request.model)
        in_force = tuple(self.parts.policies.current.policies.values())
        exchange = Exchange(self._chat, request, case.origin, case.policy, case.shadow, case.sampled, in_force)
        review = await self._pipeline.review_request(exchange)
        call.dropped = review.dropped
        call.judged(review.action, review.categories, review.coverage)
        if review.refusal is not None:
            return ChatReview(refused=review.refusal.message)
        if review.body == raw:
            return ChatReview()
        return await computed(size, _changed, chat, request, review, case.policy)


def _changed(chat: Mapping[str, Any], request: Request, review: RequestReview, policy: Policy) -> ChatReview:
    """A chat that goes on with other texts."""
    body = json.loads(review.body)
    kept, left_out = iter(body["messages"]), _left_out(request, review.dropped)
    messages = [
        _withheld(message, policy) if index in left_out else next(kept)
        for index, message in enumerate(chat["messages"])
    ]
    return ChatReview(body={**body, "messages": messages})


def _left_out(request: Request, dropped: Sequence[int]) -> set[int]:
    """The indices, in the list of messages, of the conversation's messages that must be left out."""
    places = {place for index in dropped for place in request.places[index]}
    return {index for index in range(len(request.body["messages"])) if f"messages[{index}]" in places}


def _withheld(message: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """A message that must be left out: its texts say that they were withheld."""
    said, content = policy.block.message, message.get("content")
    if isinstance(content, list):
        content = [{**item, "text": said} if isinstance(item, dict) and "text" in item else item for item in content]
    return {**message, "content": said if isinstance(content, str) else content}
