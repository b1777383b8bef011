"""`POST /v1/moderations` in the format of OpenAI's moderation API, answered by the guard itself.

Reference: platform.openai.com/docs/api-reference/moderations. `input` is a text, a list of texts (a result for each),
or a list of message parts (a single result). A text is flagged if it reaches a threshold of the policy's rules for user
texts. Guardproxy's own categories, and `unsafe` for P(unsafe), are added to OpenAI's. Each text is recorded as a turn.
"""

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from guardproxy.asking import asked_by
from guardproxy.errors import GuardproxyError, GuardUnavailable, Overloaded, TooLarge, Unreadable
from guardproxy.offload import computed
from guardproxy.pipeline import JudgedTurn, Judging, moderated
from guardproxy.policy import UNSAFE, Policy
from guardproxy.routing import Asked
from guardproxy.settings import Limits
from guardproxy.types import Decision, Message, Origin, Part, Verdict
from guardproxy.web.access import Access
from guardproxy.web.client import choose_policy
from guardproxy.web.errors import NotReady, error_answer, retry_after, told
from guardproxy.web.identities import Identities
from guardproxy.web.proxy import LivePolicies
from guardproxy.web.reading import check_size, check_values
from guardproxy.web.sample import ReviewSample
from guardproxy.wires.shared.body import read_object

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

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class ModerationCase:
    """A request for moderation: it has no upstream, and its wire in records is "moderations"."""

    origin: Origin
    policy: Policy
    shadow: tuple[Policy, ...]
    sampled: bool
    place: None = None  # a text for moderation is in no conversation


def moderations(
    judging: Judging,
    policies: LivePolicies,
    *,
    limits: Limits,
    ready: Callable[[], str],
    model: str,
    identities: Identities,
    sample: ReviewSample,
    access: Access,
) -> Endpoint:
    """The endpoint. `model` is the guard's name; `ready` returns why the guard cannot judge, empty if it can.

    `identities`, `sample` and `access` are those of the proxy. Answers name their request by `x-guardproxy-request-id`.
    """

    async def endpoint(request: Request) -> Response:
        request_id = os.urandom(12).hex()
        own = {"x-guardproxy-request-id": request_id}
        headers, query = request.headers.raw, request.scope["query_string"]
        try:
            known = access.admit(headers, query)
            if reason := ready():
                raise NotReady(reason)
            content = await _body(request, limits.body_bytes)
            asked_model, messages = await computed(len(content), parse, content, limits)
            named = await computed(len(content), read_object, content)
            user, session = identities.of(named, headers)
            # Not `request.url.path`: Starlette joins the URL from the Host header, which a client may fill with a path.
            asked = Asked((request.scope["path"],), protocol="moderations", user=user)
            client, chosen = choose_policy(
                policies.current, asked, (("model", asked_model),), headers, query, known=known
            )
            access.charge(known, messages)
            origin = Origin(
                request_id, chosen.route, "moderations", "", asked_model, client, user=user, session=session
            )
            asked_by(client or (request.client.host if request.client else ""))
            case = ModerationCase(origin, chosen.policy, chosen.shadow, sample.draw())
            results = [_result_of(turn) for turn in await moderated(judging, case, messages)]
        except GuardproxyError as error:
            answer = error_answer(request.scope["path"], error.status, error.code, told(error, request_id))
            own |= {name.decode(): value.decode() for name, value in retry_after(error)}
            return Response(answer.body, answer.status, media_type=answer.content_type, headers=own)
        body = {"id": f"modr-{os.urandom(12).hex()}", "model": model, "results": results}
        return Response(json.dumps(body).encode(), media_type="application/json", headers=own)

    return endpoint


def parse(body: bytes, limits: Limits) -> tuple[str, tuple[Message, ...]]:
    """The model that a request names (may be empty), and the user messages to judge, one for each result.

    Raises Unreadable for a body of another format and for images, which the guard cannot read; TooLarge beyond the
    limits.
    """
    check_values(body, limits)
    parsed = read_object(body)
    model = parsed.get("model") or ""
    if not isinstance(model, str):
        raise Unreadable("must be a string", "model")
    messages = _messages(parsed.get("input"))
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


def _result_of(judged: JudgedTurn) -> dict[str, Any]:
    """The result of a judged text. Raises GuardUnavailable for a text that was not judged: it has no result."""
    if judged.error:
        kind = Overloaded if judged.decision.cause == "overload" else GuardUnavailable
        raise judged.failure or kind(judged.error)
    return result(judged.verdict, judged.decision)


async def _body(request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise TooLarge(f"the body has more than the {limit} bytes of limits.body_bytes")
        parts.append(part)
    return b"".join(parts)
