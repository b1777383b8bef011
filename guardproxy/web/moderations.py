"""`POST /v1/moderations` in the format of OpenAI's moderation API, answered by the guard itself.

Reference: platform.openai.com/docs/api-reference/moderations. `input` is a text, a list of texts (a result for each),
or a list of message parts (a single result). A text is flagged if it reaches a threshold of the policy's rules for user
texts. Guardproxy's own categories, and `unsafe` for P(unsafe), are added to OpenAI's. Each text is recorded as a turn.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.types import Receive, Scope

from guardproxy.errors import GuardproxyError, Unreadable
from guardproxy.offload import computed
from guardproxy.pipeline import JudgedTurn, moderated
from guardproxy.policy import UNSAFE
from guardproxy.ports import Answer
from guardproxy.settings import Limits
from guardproxy.types import Decision, Message, Part, Verdict
from guardproxy.web.apis import GuardApi, raise_failure
from guardproxy.web.call import Call
from guardproxy.web.errors import error_answer
from guardproxy.web.reading import check_size

MODERATIONS = "/v1/moderations"
_RESULT = 1024  # about the bytes of a result
# OpenAI's categories, each with the categories of guardproxy that lie within it: every text in them is in OpenAI's too.
# A category of OpenAI's without any (guardproxy's is wider, as violence_hate is, or there is none) has no score.
WITHIN: Final[Mapping[str, tuple[str, ...]]] = {
    "harassment": (),
    "harassment/threatening": (),
    "hate": ("hate",),
    "hate/threatening": (),
    "illicit": (
        "criminal_planning",
        "non_violent_crimes",
        "regulated_substances",
        "guns_illegal_weapons",
        "indiscriminate_weapons",
    ),
    "illicit/violent": ("guns_illegal_weapons", "indiscriminate_weapons"),
    "self-harm": ("suicide_self_harm",),
    "self-harm/intent": (),
    "self-harm/instructions": (),
    "sexual": ("sexual_content",),
    "sexual/minors": ("child_sexual_exploitation",),
    "violence": (),
    "violence/graphic": (),
}


class ModerationsApi(GuardApi):
    """OpenAI's moderation API."""

    name = "moderations"

    def error(self, error: GuardproxyError, message: str) -> bytes:
        """OpenAI's error body."""
        return error_answer(MODERATIONS, error.status, error.code, message).body

    async def respond(self, call: Call, scope: Scope, receive: Receive) -> Answer:
        """A result for each text. Raises GuardUnavailable for a text that was not judged: it has no result."""
        body, size = await self.read(call)
        model, messages = await computed(size, parse, body, self.parts.limits)
        case = self.case(call, body, messages, model=model)
        turns = await moderated(self.parts.judging, case, messages)
        return Answer(200, "application/json", await computed(_RESULT * len(turns), self._written, turns))

    def _written(self, turns: Sequence[JudgedTurn]) -> bytes:
        """The body of the answer. Raises GuardUnavailable for a text that was not judged: it has no result."""
        for turn in turns:
            raise_failure(turn)
        results = [result(turn.verdict, turn.decision) for turn in turns]
        answer = {"id": f"modr-{os.urandom(12).hex()}", "model": self.parts.judging.guard.name, "results": results}
        return json.dumps(answer).encode()


def parse(body: Mapping[str, Any], limits: Limits) -> tuple[str, tuple[Message, ...]]:
    """The model that a request names (may be empty), and the user messages to judge, one for each result.

    Raises Unreadable for a body of another format and for images, which the guard cannot read; TooLarge beyond the
    limits.
    """
    model = body.get("model") or ""
    if not isinstance(model, str):
        raise Unreadable("must be a string", "model")
    messages = _messages(body.get("input"))
    check_size(messages, limits, "inputs")
    return model, messages


def _messages(value: object) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message("user", (Part("input", value),)),)
    if not isinstance(value, list) or not value:
        raise Unreadable("must be a text, or a non-empty list of texts or of message parts", "input")
    if all(isinstance(item, str) for item in value):
        return tuple(Message("user", (Part(f"input[{index}]", item),)) for index, item in enumerate(value))
    return (Message("user", tuple(_part(f"input[{index}]", item) for index, item in enumerate(value))),)


def _part(path: str, item: object) -> Part:
    if not isinstance(item, dict):
        raise Unreadable("must be a message part like {'type': 'text', 'text': ...}, as the rest of the list is", path)
    if item.get("type") == "image_url":
        raise Unreadable("the guard reads text only, so it cannot judge an image", path)
    if item.get("type") != "text":
        raise Unreadable(f"must be 'text', not {item.get('type')!r}", f"{path}.type")
    if not isinstance(item.get("text"), str):
        raise Unreadable("must be a string", f"{path}.text")
    return Part(f"{path}.text", item["text"])


def result(verdict: Verdict | None, decision: Decision) -> dict[str, Any]:
    """The result for one text. Without a verdict (the text is blank) every score is null.

    A category of OpenAI's without a score is null and applies to no input type, which is the format's way to say so.
    """
    scores: dict[str, float] = {}
    if verdict is not None:
        for finding in verdict.findings:
            scores[finding.category] = max(finding.probability, scores.get(finding.category, 0.0))
    reached = set(decision.categories)
    categories: dict[str, bool | None] = {}
    category_scores: dict[str, float | None] = {}
    for name, within in WITHIN.items():
        known = [scores[category] for category in within if category in scores]
        category_scores[name] = max(known) if known else None
        categories[name] = not reached.isdisjoint(within) if known else None
    for name, score in scores.items():
        category_scores[name], categories[name] = score, name in reached
    category_scores[UNSAFE] = None if verdict is None else verdict.unsafe
    categories[UNSAFE] = UNSAFE in reached
    applied = {name: [] if score is None else ["text"] for name, score in category_scores.items()}
    return {
        "flagged": decision.action != "pass",
        "categories": categories,
        "category_scores": category_scores,
        "category_applied_input_types": applied,
    }
