"""`POST /v1/moderations` in the format of OpenAI's moderation API, answered by the guard itself.

As in the reference (platform.openai.com/docs/api-reference/moderations): `input` is a text, a list of texts (one result
each), or a list of message parts (one result for all). Whether something is flagged, and in which categories, is what
the policy says of a user's text. Our categories, and `unsafe` for the overall probability, are added to OpenAI's.
"""

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from guardproxy.errors import GuardproxyError, GuardUnavailable, TooLarge, Unreadable
from guardproxy.pipeline.judging import Judging, gathered
from guardproxy.policy import UNSAFE
from guardproxy.settings import Limits
from guardproxy.types import Decision, Message, Part, Verdict
from guardproxy.web.headers import client_of
from guardproxy.web.proxy import LivePolicies, NotReady
from guardproxy.web.sniff import json_error
from guardproxy.wires.shared.body import read_object

# OpenAI's categories, with those of ours that lie within each: a text of ours is one of theirs. One that none of ours
# lies within (ours is wider, as violence_hate is, or there is none) has no score.
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

Endpoint = Callable[[Request], Awaitable[Response]]


def moderations(
    judging: Judging, policies: LivePolicies, *, limits: Limits, ready: Callable[[], str], model: str
) -> Endpoint:
    """The endpoint. `model` is the guard's name; `ready` says why the guard cannot judge, empty where it can."""

    async def endpoint(request: Request) -> Response:
        try:
            if reason := ready():
                raise NotReady(reason)
            asked, messages = parse(await _body(request, limits.body_bytes), limits)
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers.raw}
            client = client_of(request.headers.raw, request.scope["query_string"])
            policy = policies.current.choose(request.url.path, asked, client, headers).policy
            answers = await gathered([judging.judge((), message, policy) for message in messages])
            results = [_told(*answer) for answer in answers]
        except GuardproxyError as error:
            answer = json_error(error.status, error.code, str(error))
            return Response(answer.body, answer.status, media_type=answer.content_type)
        body = {"id": f"modr-{os.urandom(12).hex()}", "model": model, "results": results}
        return Response(json.dumps(body).encode(), media_type="application/json")

    return endpoint


def parse(body: bytes, limits: Limits) -> tuple[str, tuple[Message, ...]]:
    """The model that a request names (empty: none), and the user messages to judge, one for each result.

    Raises Unreadable for what the format does not have and for images, which the guard cannot read; TooLarge beyond
    the limits.
    """
    found = read_object(body)
    model = found.get("model") or ""
    if not isinstance(model, str):
        raise Unreadable("must be a string", "model")
    messages = _messages(found.get("input"))
    if len(messages) > limits.messages:
        raise TooLarge(f"{len(messages)} inputs are more than the {limits.messages} of limits.messages")
    characters = sum(message.size for message in messages)
    if characters > limits.characters:
        raise TooLarge(f"{characters} characters are more than the {limits.characters} of limits.characters")
    return model, messages


def _messages(given: object) -> tuple[Message, ...]:
    if isinstance(given, str):
        return (Message("user", (Part("input", given),)),)
    if not isinstance(given, list) or not given:
        raise Unreadable("must be a text, or a list of texts or of message parts that is not empty", "input")
    if all(isinstance(item, str) for item in given):
        return tuple(Message("user", (Part(f"input[{index}]", item),)) for index, item in enumerate(given))
    return (Message("user", tuple(_part(f"input[{index}]", item) for index, item in enumerate(given))),)


def _part(path: str, item: object) -> Part:
    if not isinstance(item, dict):
        raise Unreadable("must be a message part, as {'type': 'text', 'text': ...}, like the rest of the list", path)
    if item.get("type") == "image_url":
        raise Unreadable("the guard reads text only, so it cannot judge an image", path)
    if item.get("type") != "text":
        raise Unreadable(f"{item.get('type')!r} is no type of part: it must be 'text'", f"{path}.type")
    if not isinstance(item.get("text"), str):
        raise Unreadable("must be a string", f"{path}.text")
    return Part(f"{path}.text", item["text"])


def result(verdict: Verdict | None, decision: Decision) -> dict[str, Any]:
    """One result. Where there was nothing to judge (a blank text) every score is null.

    A category of OpenAI's that has no score is null, and applies to no input type, which is the format's own way of
    saying so.
    """
    scores: dict[str, float] = {}
    if verdict is not None:
        for finding in verdict.findings:
            scores[finding.category] = max(finding.probability, scores.get(finding.category, 0.0))
    reached = set(decision.categories)
    categories: dict[str, bool | None] = {}
    category_scores: dict[str, float | None] = {}
    for name, within in WITHIN.items():
        known = [scores[one] for one in within if one in scores]
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


def _told(verdict: Verdict | None, decision: Decision, error: str) -> dict[str, Any]:
    """A result. Raises GuardUnavailable where there is none: a failure is neither flagged nor not."""
    if error:
        raise GuardUnavailable(error)
    return result(verdict, decision)


async def _body(request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise TooLarge(f"the body has more than the {limit} bytes of limits.body_bytes")
        parts.append(part)
    return b"".join(parts)
