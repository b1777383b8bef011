"""Amazon Bedrock's ApplyGuardrail: `POST /guardrail/{id}/version/{version}/apply`.

Reference: the service model of bedrock-runtime in botocore 1.44. The texts are judged as one message, and each by
itself. A category that reached a threshold is a denied topic of its name, because the format's own filters are other
categories.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from starlette.types import Receive, Scope

from guardproxy.errors import GuardproxyError, JudgingTooLong, TooLarge, Unreadable
from guardproxy.images import InlineImage
from guardproxy.offload import computed
from guardproxy.pipeline import JudgedTurn, moderated, texts_after
from guardproxy.ports import Answer
from guardproxy.settings import Limits
from guardproxy.types import Message, Part, Pass, Refuse, Role, Steer
from guardproxy.web.apis import GuardApi, list_at
from guardproxy.web.call import Call
from guardproxy.web.reading import check_size
from guardproxy.wires.shared.body import dumps

# The id may be an ARN, which has a slash.
BEDROCK = "/guardrail/{id:path}/version/{version}/apply"
_ROLES: Final[Mapping[str, Role]] = {"INPUT": "user", "OUTPUT": "assistant"}
_SCOPES = (None, "INTERVENTIONS", "FULL")
_UNITS = (
    "topicPolicyUnits",
    "contentPolicyUnits",
    "wordPolicyUnits",
    "sensitiveInformationPolicyUnits",
    "sensitiveInformationPolicyFreeUnits",
    "contextualGroundingPolicyUnits",
)


class BedrockApi(GuardApi):
    """Answers Bedrock's clients. The guardrail of the path chooses no policy by itself: a route for the path does."""

    name = "bedrock"

    def error(self, error: GuardproxyError, message: str) -> bytes:
        """The service's error body; clients take the kind of the error from the status."""
        return dumps({"message": message, "code": error.code})

    async def respond(self, call: Call, scope: Scope, receive: Receive) -> Answer:
        """The action, the texts that take the place of those sent, and an assessment."""
        try:
            return await self._assessed(call)
        except (TooLarge, JudgingTooLong) as error:
            self.parts.metrics.failed(error.code)
            return _answer("GUARDRAIL_INTERVENED", [str(error)], str(error), [], _coverage((0, 0), (0, 0)))

    async def _assessed(self, call: Call) -> Answer:
        body, size = await self.read(call)
        message = await computed(size, message_of, body, self.parts.limits)
        case = self.case(call, body, [message])
        (judged,) = await moderated(self.parts.judging, case, [message], acts=True)
        if judged.failure is not None:
            raise judged.failure
        call.judged(judged.decision.action, judged.decision.categories, judged.coverage)
        return await computed(size, _assessed, body, message, judged)


def message_of(body: Mapping[str, Any], limits: Limits) -> Message:
    """What is judged. Raises Unreadable, and TooLarge beyond the limits."""
    role = _ROLES.get(str(body.get("source")))
    if role is None:
        raise Unreadable("must be INPUT or OUTPUT", "source")
    if body.get("outputScope") not in _SCOPES:
        raise Unreadable("must be INTERVENTIONS or FULL", "outputScope")
    parts = tuple(_parts(body))
    if not parts:
        raise Unreadable("must be a non-empty list of texts and images", "content")
    message = Message(role, parts)
    check_size([message], limits, "contents")
    return message


def _assessed(body: Mapping[str, Any], message: Message, judged: JudgedTurn) -> Answer:
    """The answer to a body whose message was judged."""
    texts = [part.text for part in message.parts if part.kind == "text"]
    action, outputs = "GUARDRAIL_INTERVENED", texts
    if isinstance(judged.outcome, Refuse):
        outputs, reason = [judged.outcome.message], "Guardrail blocked."
    elif isinstance(judged.outcome, Pass | Steer):
        action, reason = "NONE", "No action."
        outputs = texts if body.get("outputScope") == "FULL" else []
    else:
        after = texts_after(message, judged.outcome)
        outputs = [after.get(part.path, part.text) for part in message.parts if part.kind == "text"]
        reason = "Guardrail masked."
    sizes = message.size, len(message.opaque)
    read = (0, 0) if judged.verdict is None else (message.size, len(judged.turn.message.images))
    return _answer(action, outputs, reason, _topics(judged), _coverage((read[0], sizes[0]), (read[1], sizes[1])))


def _parts(body: Mapping[str, Any]) -> Iterator[Part]:
    """The texts to judge, and images as opaque parts."""
    for index, item in enumerate(list_at(body, "content")):
        path = f"content[{index}]"
        known = [name for name in ("text", "image") if isinstance(item, dict) and item.get(name) is not None]
        if len(known) != 1 or not isinstance(item[known[0]], dict):
            raise Unreadable("must be one text or one image", path)
        if known == ["image"]:
            yield _image(f"{path}.image", item["image"])
        elif isinstance(item["text"].get("text"), str):
            yield Part(f"{path}.text.text", item["text"]["text"])
        else:
            raise Unreadable("must be a string", f"{path}.text.text")


def _image(path: str, value: Mapping[str, Any]) -> Part:
    """An image with its bytes as base64, the way JSON has them."""
    source, kind = value.get("source"), value.get("format")
    data = source.get("bytes") if isinstance(source, dict) else None
    if not isinstance(data, str) or not isinstance(kind, str):
        return Part(path, "", "opaque", "image")
    return Part(path, "", "opaque", "image", InlineImage(f"image/{kind.lower()}", data))


def _topics(judged: JudgedTurn) -> list[dict[str, Any]]:
    """The categories that reached a threshold. One that only flags, or whose text is rewritten, has no action: the
    format has none but blocking for a topic, and clients that would mask take it for a block.
    """
    refused = isinstance(judged.outcome, Refuse)
    severe = {
        reason.category for reason in judged.decision.reasons if refused and reason.action in ("block", "rewrite")
    }
    return [
        {"name": name, "type": "DENY", "action": "BLOCKED" if name in severe else "NONE", "detected": True}
        for name in judged.decision.categories
    ]


def _coverage(characters: tuple[int, int], images: tuple[int, int]) -> dict[str, Any]:
    """How many characters and images were judged, and of how many. Without images there is no count of them."""
    counts = {"textCharacters": characters} | ({"images": images} if images[1] else {})
    return {name: {"guarded": guarded, "total": total} for name, (guarded, total) in counts.items()}


def _answer(
    action: str, outputs: list[str], reason: str, topics: list[dict[str, Any]], coverage: Mapping[str, Any]
) -> Answer:
    fields = {
        "usage": dict.fromkeys(_UNITS, 0),
        "action": action,
        "actionReason": reason,
        "outputs": [{"text": text} for text in outputs],
        "assessments": [{"topicPolicy": {"topics": topics}}] if topics else [],
        "guardrailCoverage": coverage,
    }
    return Answer(200, "application/json", dumps(fields))
