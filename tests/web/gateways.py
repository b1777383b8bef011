"""The guard's APIs for gateways, in the process: a guard that finds words, its policies, and what is recorded."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from prometheus_client import CollectorRegistry

from guardproxy.actions import block, redact
from guardproxy.errors import GuardUnavailable
from guardproxy.observe import Metrics, Observers
from guardproxy.pipeline import Pipeline
from guardproxy.pipeline.traits import ORDINARY, GuardTraits
from guardproxy.policy import HistoryMode, Policy, PolicySet, Route, Rule, SideRules
from guardproxy.settings import AuditSettings, Limits
from guardproxy.types import Check, Verdict
from guardproxy.web.access import Access
from guardproxy.web.apis import ApiParts, GuardApi
from guardproxy.web.identities import Identities
from guardproxy.web.proxy import LivePolicies
from guardproxy.web.sample import ReviewSample
from tests.kit import ListSink, WordGuard

WORDS = {"bullet": ("guns", 0.8), "bruise": ("violence", 0.7)}
RULES = SideRules({"guns": (Rule("block", 0.5),), "violence": (Rule("rewrite", 0.5, "redact"),)})


class Failing(WordGuard):
    """A guard that fails."""

    def __init__(self, failure: GuardUnavailable) -> None:
        super().__init__(WORDS)
        self._failure = failure

    async def judge(self, check: Check) -> Verdict:
        """Fail."""
        raise self._failure


class ApiStand:
    """An API with its guard, its policy `default`, and the policy `lax` by a route for models and for a path.

    `headers` are those of the latest answer.
    """

    def __init__(
        self,
        opened: Callable[[ApiParts, Pipeline], GuardApi],
        path: str,
        guard: Any = None,
        *,
        history: HistoryMode = "drop",
        limits: Limits | None = None,
        required: bool = True,
        traits: GuardTraits = ORDINARY,
        **policy: Any,
    ) -> None:
        self.sink = ListSink()
        self.headers: dict[bytes, bytes] = {}
        self._path = path
        metrics = Metrics(CollectorRegistry())
        self._observers = Observers({"list": self.sink}, metrics=metrics, text="full", required=required)
        actions = {"block": block.open_action, "redact": redact.open_action}
        pipeline = self._pipeline = Pipeline(
            guard or WordGuard(WORDS), self._observers, metrics, actions, traits=traits
        )
        policies = {
            "default": Policy("default", "v", RULES, RULES, history=history, **policy),
            "lax": Policy("lax", "v", SideRules({}), SideRules({})),
        }
        routes = (
            Route("lax", "lax", model="lax-*"),
            Route("lax path", "lax", path="/guardrail/lax/*"),
            Route("lax ARN", "lax", path="/guardrail/arn:aws:bedrock:*:guardrail/lax/*"),
        )
        parts = ApiParts(
            pipeline.judging,
            LivePolicies(PolicySet(policies, routes)),
            limits or Limits(),
            lambda: "",
            Identities(AuditSettings(user_plain=True)),
            ReviewSample(0.0, Random(1)),
            Access(),
            metrics,
        )
        self._api = opened(parts, pipeline)

    def ask(self, body: Mapping[str, Any], path: str | None = None) -> tuple[int, dict[str, Any]]:
        """The status and the answer to a request."""
        return self.ask_all([body], path)[0]

    def ask_all(self, bodies: Sequence[Mapping[str, Any]], path: str | None = None) -> list[tuple[int, dict[str, Any]]]:
        """The same for requests one after the other, and the end of the service behind them."""

        async def all_of_them() -> list[tuple[int, dict[str, Any]]]:
            await self._observers.start()
            answers = [await self._ask(body, path or self._path) for body in bodies]
            await self._pipeline.close(1)
            await self._observers.close()
            return answers

        return asyncio.run(all_of_them())

    async def _ask(self, body: Mapping[str, Any], path: str) -> tuple[int, dict[str, Any]]:
        sent: list[dict[str, Any]] = []
        pending = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive() -> dict[str, Any]:
            return pending.pop()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": []}
        await self._api({**scope, "query_string": b"", "client": ("127.0.0.1", 1)}, receive, send)
        self.headers = dict(sent[0]["headers"])
        return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


def said(*texts: str) -> list[dict[str, Any]]:
    """A conversation of these texts."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]
