"""Moderation services as guards, against scripted servers that follow the services' public references.

References: platform.openai.com/docs/api-reference/moderations; learn.microsoft.com/rest/api/contentsafety
(text operations, analyze text, 2024-09-01); developers.perspectiveapi.com (methods, comments.analyze).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from guardproxy.errors import ConfigError, GuardUnavailable, Overloaded
from guardproxy.families import azure_content_safety, openai_moderation, perspective
from guardproxy.guards.services import ServiceGuard, open_service, windows
from guardproxy.ports import Guard, ServiceFamily
from guardproxy.types import Check, Verdict
from tests.families.kit import ask, check, reply
from tests.kit import serve

KEY = "the-right-key"


@dataclass
class Service:
    """A scripted service: it gives the answers of `script` first, then those of `well` for each request."""

    path: str
    well: Callable[[Any], dict[str, Any]]
    allowed: Callable[[Request], bool]
    script: list[Response] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    queries: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    delay_s: float = 0.0

    async def answer(self, request: Request) -> Response:
        """The next scripted answer, or a good one."""
        self.times.append(time.monotonic())
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.delay_s)
            self.bodies.append(await request.json())
            self.queries.append(dict(request.query_params))
            if not self.allowed(request):
                return JSONResponse({"error": {"message": "no such key", "code": "invalid_api_key"}}, 401)
            return self.script.pop(0) if self.script else JSONResponse(self.well(self.bodies[-1]))
        finally:
            self.running -= 1

    @contextmanager
    def up(self) -> Iterator[str]:
        """The service on a free port; yields its address."""
        with serve(Starlette(routes=[Route(self.path, self.answer, methods=["POST"])])) as url:
            yield url


def _score(text: str) -> float:
    return 0.9 if "bomb" in text else 0.01


def openai() -> Service:
    """OpenAI's moderation service."""

    def well(body: Any) -> dict[str, Any]:
        results = [
            {
                "flagged": _score(text) > 0.5,
                "categories": {label: _score(text) > 0.5 for label in openai_moderation.OMNI},
                "category_scores": {label: _score(text) / (1 + at) for at, label in enumerate(openai_moderation.OMNI)},
            }
            for text in body["input"]
        ]
        return {"id": "modr-1", "model": body["model"], "results": results}

    return Service("/v1/moderations", well, lambda request: request.headers.get("authorization") == f"Bearer {KEY}")


def azure() -> Service:
    """Azure's content safety service."""

    def well(body: Any) -> dict[str, Any]:
        assert len(body["text"]) <= 10_000
        severity = 6 if "bomb" in body["text"] else 0
        analysis = [
            {"category": label, "severity": severity if label == "Violence" else 0} for label in body["categories"]
        ]
        return {"blocklistsMatch": [], "categoriesAnalysis": analysis}

    return Service(
        "/contentsafety/text:analyze",
        well,
        lambda request: (
            request.headers.get("ocp-apim-subscription-key") == KEY
            and request.query_params.get("api-version") == "2024-09-01"
        ),
    )


def comments() -> Service:
    """Perspective's comment analyzer."""

    def well(body: Any) -> dict[str, Any]:
        text = body["comment"]["text"]
        assert len(text.encode()) <= 20_480
        assert body["doNotStore"] is True
        scores = {
            label: {"summaryScore": {"value": _score(text) * (0.5 if label != "THREAT" else 1), "type": "PROBABILITY"}}
            for label in body["requestedAttributes"]
        }
        return {"attributeScores": scores, "languages": ["en"], "detectedLanguages": ["en"]}

    return Service("/v1alpha1/comments:analyze", well, lambda request: request.headers.get("x-goog-api-key") == KEY)


SERVICES: dict[str, tuple[Callable[[], Service], Callable[[], ServiceFamily]]] = {
    "openai_moderation": (openai, openai_moderation.open_family),
    "azure_content_safety": (azure, azure_content_safety.open_family),
    "perspective": (comments, perspective.open_family),
}
ANY = pytest.mark.parametrize("name", SERVICES)


def _run(name: str, service: Service, use: Callable[[Guard], Awaitable[Any]], *, key: str = KEY, **options: Any) -> Any:
    """The result of `use` on a guard that calls `service`."""

    async def run() -> Any:
        guard = open_service(name=name, family=SERVICES[name][1](), key=key, base_url=url, **options)
        try:
            return await use(guard)
        finally:
            await guard.close()

    with service.up() as url:
        return asyncio.run(run())


def _judge(name: str, service: Service, asked: Check, **options: Any) -> Verdict:
    verdict: Verdict = _run(name, service, lambda guard: guard.judge(asked), **options)
    return verdict


def _scores(verdict: Verdict) -> dict[str, float]:
    return {finding.category: round(finding.probability, 4) for finding in verdict.findings}


@ANY
def test_a_text_is_judged(name: str) -> None:
    """A harmful text scores high in the category of the service's label, a harmless text low in all."""
    service = SERVICES[name][0]()
    bad, good = _judge(name, service, ask("how to build a bomb")), _judge(name, service, ask("how to bake bread"))
    assert _scores(bad)["violence_hate"] > 0.4
    assert max(good.unsafe, *_scores(good).values()) < 0.1
    assert bad.guard == name
    assert bad.usage.windows == 1


def test_severities_become_probabilities() -> None:
    """Azure's Violence at severity 6 of 7 gives violence_hate and P(unsafe) 6/7."""
    verdict = _judge("azure_content_safety", azure(), ask("a bomb"))
    assert verdict.unsafe == pytest.approx(6 / 7)
    assert [(f.category, f.label) for f in verdict.findings if f.probability > 0] == [("violence_hate", "Violence")]


def test_toxicity_is_the_whole_of_perspective() -> None:
    """TOXICITY gives P(unsafe), THREAT the probability of a category."""
    verdict = _judge("perspective", comments(), ask("a bomb"))
    assert verdict.unsafe == pytest.approx(0.45)
    assert _scores(verdict) == {"violence_hate": 0.9, "harassment": 0.45, "profanity": 0.45}


def test_the_worst_label_of_openai_is_its_whole() -> None:
    """P(unsafe) is the highest score; a finding names the label that it comes from."""
    verdict = _judge("openai_moderation", openai(), ask("a bomb"))
    assert verdict.unsafe == 0.9
    assert {f.category: f.label for f in verdict.findings}["criminal_planning"] == "illicit"


@ANY
def test_a_reply_is_judged_alone(name: str) -> None:
    """The services judge a single text: the question before a reply is not sent."""
    service = SERVICES[name][0]()
    verdict = _judge(name, service, reply("tell me about a bomb", "Better not."))
    assert verdict.unsafe < 0.1
    assert "bomb" not in str(service.bodies)


@ANY
@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_a_long_text_is_judged_in_windows(name: str, place: str) -> None:
    """The worst window of a long text counts, and no call exceeds the service's limit."""
    filler = "all is well with the wörld. " * 1_000
    text = {"start": f"bomb {filler}", "middle": f"{filler}bomb {filler}", "end": f"{filler} bomb"}[place]
    verdict = _judge(name, SERVICES[name][0](), ask(text))
    assert _scores(verdict)["violence_hate"] > 0.4
    assert verdict.usage.windows > 1


def test_windows_of_openai_ride_in_batches() -> None:
    """If the service takes several texts per call, windows share calls."""
    service = openai()
    verdict = _judge("openai_moderation", service, ask("x" * 40_000))
    assert verdict.usage.windows == 23
    assert [len(body["input"]) for body in sorted(service.bodies, key=lambda body: -len(body["input"]))] == [16, 7]


@ANY
def test_a_wrong_key_fails_the_start_and_every_check(name: str) -> None:
    """The start fails with the refused key, a check fails at once, and no message contains the key."""
    service = SERVICES[name][0]()
    with pytest.raises(ConfigError, match="refuses the key") as started:
        _run(name, service, lambda guard: guard.start(), key="the-wrong-key")
    with pytest.raises(GuardUnavailable, match="refuses the key") as judged:
        _run(name, service, lambda guard: guard.judge(ask("x")), key="the-wrong-key")
    assert "the-wrong-key" not in f"{started.value}{judged.value}"
    assert len(service.bodies) == 2


def test_googles_word_for_a_wrong_key_is_understood() -> None:
    """Perspective answers a wrong key with status 400, which is not the 400 for a text that it cannot judge."""
    service = comments()
    body = {"error": {"code": 400, "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}
    service.script = [JSONResponse(body, 400)]
    with pytest.raises(ConfigError, match="refuses the key"):
        _run("perspective", service, lambda guard: guard.start())
    service.script = [JSONResponse({"error": {"details": [{"reason": "LANGUAGE_NOT_SUPPORTED"}]}}, 400)]
    with pytest.raises(GuardUnavailable, match="answered 400"):
        _judge("perspective", service, ask("x"))


@ANY
def test_a_start_with_the_right_key_asks_once(name: str) -> None:
    """The start judges one harmless text, to test the service and the key."""
    service = SERVICES[name][0]()
    _run(name, service, lambda guard: guard.start())
    assert len(service.bodies) == 1


def test_a_service_that_is_down_does_not_stop_the_start() -> None:
    """The start succeeds; checks fail because the service cannot be reached."""
    guard = open_service(name="g", family=perspective.open_family(), key=KEY, base_url="http://127.0.0.1:1", attempts=1)

    async def run() -> None:
        await guard.start()
        with pytest.raises(GuardUnavailable, match=r"cannot be reached \(ConnectError\)"):
            await guard.judge(ask("x"))
        await guard.close()

    asyncio.run(run())


@ANY
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_call_is_made_again(name: str, status: int) -> None:
    """After a 429 or a 5xx the call is repeated, and its answer counts."""
    service = SERVICES[name][0]()
    service.script = [JSONResponse({"error": "later"}, status, {"retry-after": "0"})]
    assert _scores(_judge(name, service, ask("bomb")))["violence_hate"] > 0.4
    assert len(service.bodies) == 2


def test_the_service_says_when_to_come_again() -> None:
    """A call is repeated after the seconds in Retry-After."""
    service = openai()
    service.script = [JSONResponse({}, 429, {"retry-after": "1"})]
    _judge("openai_moderation", service, ask("x"))
    assert service.times[1] - service.times[0] >= 1


def test_the_service_may_give_a_date() -> None:
    """A call is repeated after the date in Retry-After."""
    service = openai()
    until = int(time.time()) + 2
    service.script = [JSONResponse({}, 429, {"retry-after": formatdate(until, usegmt=True)})]
    _judge("openai_moderation", service, ask("x"))
    assert time.time() >= until


def test_a_wait_beyond_the_checks_time_is_an_overload() -> None:
    """A quota that is used up for an hour raises Overloaded at once."""
    service = openai()
    service.script = [JSONResponse({}, 429, {"retry-after": "3600"})]
    began = time.monotonic()
    with pytest.raises(Overloaded, match="rate or quota"):
        _judge("openai_moderation", service, ask("x"), timeout_s=20)
    assert time.monotonic() - began < 60
    assert len(service.bodies) == 1


def test_attempts_are_counted() -> None:
    """A service that keeps failing gets `attempts` calls; then the check raises GuardUnavailable, not Overloaded."""
    service = openai()
    service.script = [JSONResponse({}, 500, {"retry-after": "0"}) for _ in range(9)]
    with pytest.raises(GuardUnavailable, match=r"failed \(500\)") as failure:
        _judge("openai_moderation", service, ask("x"), attempts=3)
    assert not isinstance(failure.value, Overloaded)
    assert len(service.bodies) == 3


def test_a_silent_service_is_unavailable_in_time() -> None:
    """No answer within the check's timeout raises GuardUnavailable."""
    service = openai()
    service.delay_s = 3
    with pytest.raises(GuardUnavailable, match=r"no answer within 0\.3 s|cannot be reached"):
        _judge("openai_moderation", service, ask("x"), timeout_s=0.3)


PARTIAL: dict[str, list[Any]] = {
    "openai_moderation": [
        {},
        [],
        {"results": []},
        {"results": "none"},
        {"results": [{"flagged": False}]},
        {"results": [{"category_scores": {"hate": 0.1}}]},
        {"results": [{"category_scores": dict.fromkeys(openai_moderation.OMNI, 1.5)}]},
        {"results": [{"category_scores": dict.fromkeys(openai_moderation.OMNI)}]},
        {"results": [{"category_scores": dict.fromkeys(openai_moderation.OMNI, "0.1")}]},
        {"results": [{"category_scores": dict.fromkeys(openai_moderation.OMNI, 0.1)}] * 2},
    ],
    "azure_content_safety": [
        {},
        {"categoriesAnalysis": []},
        {"categoriesAnalysis": [{"category": "Hate", "severity": 0}]},
        {"categoriesAnalysis": [{"category": label} for label in azure_content_safety.LABELS]},
        {"categoriesAnalysis": [{"category": label, "severity": 8} for label in azure_content_safety.LABELS]},
        {"categoriesAnalysis": [{"category": label, "severity": True} for label in azure_content_safety.LABELS]},
    ],
    "perspective": [
        {},
        {"attributeScores": {}},
        {"attributeScores": {"TOXICITY": {"summaryScore": {"value": 0.1}}}},
        {"attributeScores": {label: {} for label in perspective.PRODUCTION}},
        {"attributeScores": {label: {"summaryScore": {"value": -1}} for label in perspective.PRODUCTION}},
    ],
}


@pytest.mark.parametrize(
    ("name", "answer"), [(name, answer) for name, answers in PARTIAL.items() for answer in answers]
)
def test_a_partial_answer_is_no_verdict(name: str, answer: Any) -> None:
    """An answer without a part, or with an invalid score, raises GuardUnavailable; it is never safe."""
    service = SERVICES[name][0]()
    service.script = [JSONResponse(answer)]
    with pytest.raises(GuardUnavailable):
        _judge(name, service, ask("bomb"))


def test_an_answer_that_is_no_json_is_no_verdict() -> None:
    """The HTML page of a captive portal raises GuardUnavailable."""
    service = openai()
    service.script = [PlainTextResponse("<html>Welcome</html>")]
    with pytest.raises(GuardUnavailable, match="not JSON"):
        _judge("openai_moderation", service, ask("x"))


@pytest.mark.parametrize(
    "answer",
    [
        Response(b"not packed at all", headers={"content-encoding": "gzip"}),
        Response(b"[" * 200_000, media_type="application/json"),
        Response(b"\xff\xfe\x00", media_type="application/json"),
    ],
)
def test_an_answer_that_breaks_its_reader_is_no_verdict(answer: Response) -> None:
    """Any error while an answer is parsed raises GuardUnavailable."""
    service = openai()
    service.script = [answer]
    with pytest.raises(GuardUnavailable):
        _judge("openai_moderation", service, ask("x"))


def test_a_label_without_a_score_that_nothing_is_read_from_may_be_null() -> None:
    """A legacy model returns null for labels that it does not know."""
    scores = {**dict.fromkeys(openai_moderation.LEGACY, 0.2), "illicit": None, "illicit/violent": None}
    family = openai_moderation.open_family(model="text-moderation-007")
    (verdict,) = family.parse({"results": [{"category_scores": scores}]}, ["x"], "g")
    assert verdict.unsafe == 0.2
    with pytest.raises(GuardUnavailable, match="no score for illicit, illicit/violent"):
        openai_moderation.open_family().parse({"results": [{"category_scores": scores}]}, ["x"], "g")


@pytest.mark.parametrize("status", [302, 400, 404, 413])
def test_other_statuses_are_not_tried_again(status: int) -> None:
    """A status that a retry cannot change is reported at once, with the service's own message."""
    service = openai()
    service.script = [JSONResponse({"error": "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE"}, status)]
    with pytest.raises(GuardUnavailable, match=str(status)):
        _judge("openai_moderation", service, ask("x"))
    assert len(service.bodies) == 1


def test_unknown_labels_still_count_for_the_whole() -> None:
    """A label that the service has added since has no finding, but counts in P(unsafe)."""
    service = openai()
    scores = {**dict.fromkeys(openai_moderation.OMNI, 0.1), "new-harm": 0.97}
    service.script = [JSONResponse({"results": [{"category_scores": scores}]})]
    verdict = _judge("openai_moderation", service, ask("x"))
    assert verdict.unsafe == 0.97
    assert max(_scores(verdict).values()) == 0.1


def test_calls_at_once_are_bounded() -> None:
    """Ten checks of a service with a concurrency of two never make three calls at the same time."""
    service = openai()
    service.delay_s = 0.05

    async def many(guard: Guard) -> None:
        await asyncio.gather(*(guard.judge(ask(f"text {n}")) for n in range(10)))

    _run("openai_moderation", service, many, concurrency=2)
    assert service.most_running == 2


def test_calls_keep_to_the_rate() -> None:
    """At ten calls per second, six calls take half a second to start."""
    service = openai()

    async def many(guard: Guard) -> float:
        began = time.monotonic()
        await asyncio.gather(*(guard.judge(ask(f"text {n}")) for n in range(6)))
        return began

    began = _run("openai_moderation", service, many, per_second=10)
    assert service.times[-1] - began >= 0.45  # not from the first arrival, which may be late


def test_calls_that_would_wait_too_long_are_refused() -> None:
    """If the rate allows no call before the check's timeout, the check raises Overloaded."""

    async def many(guard: Guard) -> list[Any]:
        return await asyncio.gather(*(guard.judge(ask(f"text {n}")) for n in range(4)), return_exceptions=True)

    found = _run("openai_moderation", openai(), many, per_second=0.5, timeout_s=3.5, concurrency=4)
    assert sum(isinstance(one, Overloaded) for one in found) == 2
    assert sum(isinstance(one, Verdict) for one in found) == 2


def test_a_check_that_is_given_up_frees_its_place() -> None:
    """Cancelling a check cancels its calls and frees their places for the next check."""
    service = openai()
    service.delay_s = 0.2

    async def use(guard: Guard) -> Verdict:
        first = asyncio.ensure_future(guard.judge(ask("first")))
        await asyncio.sleep(0.05)
        first.cancel()
        return await guard.judge(ask("second"))

    assert _run("openai_moderation", service, use, concurrency=1).unsafe < 0.1


def test_lone_surrogates_do_not_stop_a_check() -> None:
    """An unpaired surrogate is sent as a question mark."""
    service = openai()
    _judge("openai_moderation", service, check("user", ("user", "a \ud800 bomb")))
    assert service.bodies[0]["input"] == ["a ? bomb"]


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("", "https://x"),
        ("ké", "https://x"),
        ("a\nb", "https://x"),
        ("k", "ftp://x"),
        ("k", "https://"),
        ("k", "http://[::1"),
    ],
)
def test_a_key_or_address_that_cannot_be_used_is_an_error(key: str, url: str) -> None:
    """An unusable key or address is an error when the guard is built, not at its first call."""
    with pytest.raises(ConfigError, match="guard 'g'"):
        open_service(name="g", family=perspective.open_family(), key=key, base_url=url)


def test_a_service_without_an_address_of_its_own_needs_one() -> None:
    """Each Azure resource has its own address, which the configuration must give."""
    with pytest.raises(ConfigError, match="needs an address"):
        open_service(name="g", family=azure_content_safety.open_family(), key=KEY)
    assert isinstance(open_service(name="g", family=openai_moderation.open_family(), key=KEY), ServiceGuard)


@given(st.text(max_size=400), st.integers(40, 120), st.booleans())
def test_windows_hold_the_whole_text(text: str, limit: int, in_bytes: bool) -> None:
    """Each window is within the limit, and every passage of up to a tenth of it lies whole in some window."""
    text = text.encode("utf-8", "replace").decode()
    parts = windows(text, limit, in_bytes=in_bytes)
    assert all(len(part.encode() if in_bytes else part) <= limit for part in parts)
    # A character has up to four bytes, and one that is cut at the end of a window is whole in the next.
    step = limit // 10 if not in_bytes else limit // 10 // 4
    assert all(any(text[at : at + step] in part for part in parts) for at in range(len(text)))
