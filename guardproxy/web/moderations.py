"""`POST /v1/moderations` in the format of OpenAI's moderation API, answered by the guard itself.

Reference: platform.openai.com/docs/api-reference/moderations. `input` is a text, a list of texts (a result for each),
or a list of message parts (a single result), which may be images in data URLs if the guard reads images. A text is
flagged if it reaches a threshold of the policy's rules for user texts. Guardproxy's own categories, and `unsafe` for
P(unsafe), are added to OpenAI's. Each text is recorded as a turn.
"""

import json
import os
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

from starlette.types import Receive, Scope

from guardproxy.errors import GuardproxyError, Unreadable
from guardproxy.images import InlineImage
from guardproxy.offload import computed
from guardproxy.pipeline import JudgedTurn, moderated
from guardproxy.policy import UNSAFE
from guardproxy.ports import Answer
from guardproxy.settings import Limits
from guardproxy.toolviews import is_of_image
from guardproxy.types import Decision, Finding, Message, Part, Verdict
from guardproxy.verdicts import worst_findings
from guardproxy.web.apis import GuardApi, raise_failure
from guardproxy.web.call import Call
from guardproxy.web.errors import error_answer
from guardproxy.web.reading import check_size
from guardproxy.wires.shared.body import data_url_image

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
        messages = tuple(await self.parts.judging.images.of_request(messages, case.policy))
        for part in (part for message in messages for part in message.opaque):
            why = part.note.removeprefix("image").removeprefix(": ") or "it reads text only"
            raise Unreadable(f"the guard does not read this image: {why}", part.path)
        turns = await moderated(self.parts.judging, case, messages)
        return Answer(200, "application/json", await computed(_RESULT * len(turns), self._written, turns))

    def _written(self, turns: Sequence[JudgedTurn]) -> bytes:
        """The body of the answer. Raises GuardUnavailable for a text that was not judged: it has no result."""
        for turn in turns:
            raise_failure(turn)
        results = [result(turn.verdict, turn.decision, turn.turn.message) for turn in turns]
        answer = {"id": f"modr-{os.urandom(12).hex()}", "model": self.parts.judging.guard.name, "results": results}
        return json.dumps(answer).encode()


def parse(body: Mapping[str, Any], limits: Limits) -> tuple[str, tuple[Message, ...]]:
    """The model that a request names (may be empty), and the user messages to judge, one for each result.

    Raises Unreadable for a body of another format and for remote images, which are not fetched; TooLarge beyond the
    limits. An image is an opaque part.
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
        return _image(f"{path}.image_url", item.get("image_url"))
    if item.get("type") != "text":
        raise Unreadable(f"must be 'text', not {item.get('type')!r}", f"{path}.type")
    if not isinstance(item.get("text"), str):
        raise Unreadable("must be a string", f"{path}.text")
    return Part(f"{path}.text", item["text"])


def _image(path: str, value: object) -> Part:
    url = value.get("url") if isinstance(value, dict) else None
    if not isinstance(url, str):
        raise Unreadable("must be a string", f"{path}.url")
    found = data_url_image(url)
    if found is None:
        raise Unreadable("must be a data URL of an image in base64: remote images are not fetched", f"{path}.url")
    return Part(f"{path}.url", "", "opaque", "image", InlineImage(*found))


def result(verdict: Verdict | None, decision: Decision, message: Message) -> dict[str, Any]:
    """The result for one text with its images. Without a verdict (the text is blank) every score is null.

    A category of OpenAI's without a score is null and applies to no input type, which is the format's way to say so.
    """
    found = worst_findings(verdict.findings) if verdict is not None else {}
    if verdict is not None:
        found[UNSAFE] = Finding(UNSAFE, verdict.unsafe, view=verdict.view)
    reached = set(decision.categories)
    categories: dict[str, bool | None] = {}
    scores: dict[str, float | None] = {}
    applied: dict[str, list[str]] = {}
    for name, within in {**WITHIN, **{name: (name,) for name in (*found, UNSAFE)}}.items():
        best = max((found[one] for one in within if one in found), key=attrgetter("probability"), default=None)
        categories[name] = None if best is None else not reached.isdisjoint(within)
        scores[name] = None if best is None else best.probability
        applied[name] = [] if best is None else _types(best.view, message)
    categories[UNSAFE] = UNSAFE in reached
    return {
        "flagged": decision.action != "pass",
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": applied,
    }


def _types(view: str, message: Message) -> list[str]:
    """The types of the input in which a score was found: an image is read with the text beside it."""
    if not is_of_image(view):
        return ["text"]
    return ["text", "image"] if message.text.strip() else ["image"]
