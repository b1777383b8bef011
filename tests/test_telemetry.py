"""Traces, metrics and logs over OTLP, at a receiver that reads OpenTelemetry's protocol."""

import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from guardproxy.app import Service, read
from guardproxy.families.openai_moderation import OMNI
from tests.kit import Scripted, ScriptedUpstream, serve, until

pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")
PROTO = "opentelemetry.proto.collector"
TRACES = pytest.importorskip(f"{PROTO}.trace.v1.trace_service_pb2", reason="needs the extra otel")
METRICS = pytest.importorskip(f"{PROTO}.metrics.v1.metrics_service_pb2", reason="needs the extra otel")
LOGS = pytest.importorskip(f"{PROTO}.logs.v1.logs_service_pb2", reason="needs the extra otel")

CONFIG = """
version: 1
upstream: {url: "%s", retries: {attempts: 1}}
guard:
  family: openai_moderation
  service: {key: "${env:GUARD_KEY}", url: "%s", attempts: 1}
policies:
  default: {unsafe: {flag: 0.3, block: 0.5}}
audit: {store: none}
otel: {endpoint: "%s", headers: {x-key: "${env:OTLP_KEY}"}, interval_s: 0.2%s}
"""
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = PARENT.split("-")[1]
HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


async def _judge(request: Request) -> Response:
    texts: list[str] = (await request.json())["input"]
    return JSONResponse(
        {"results": [{"category_scores": dict.fromkeys(OMNI, float("kill" in text))} for text in texts]}
    )


def _value(any_value: Any) -> Any:
    kind = any_value.WhichOneof("value")
    found = getattr(any_value, kind) if kind else None
    return [_value(one) for one in found.values] if kind == "array_value" else found


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


class Collector:
    """Receives OTLP over HTTP as binary protobuf, as a collector does."""

    def __init__(self, *, broken: bool = False) -> None:
        self.spans: list[dict[str, Any]] = []
        self.logs: list[dict[str, Any]] = []
        self.metrics: dict[str, Any] = {}
        self.resources: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        routes = [
            Route("/v1/traces", self._traces, methods=["POST"]),
            Route("/v1/metrics", self._metrics, methods=["POST"]),
            Route("/v1/logs", self._logs, methods=["POST"]),
        ]
        self.app = Starlette(routes=[] if broken else routes)  # every path is 404

    async def _read(self, request: Request, message: Any) -> Any:
        assert request.headers["content-type"] == "application/x-protobuf"
        self.keys.add(request.headers.get("x-key", ""))
        message.ParseFromString(await request.body())
        return message

    async def _traces(self, request: Request) -> Response:
        sent = await self._read(request, TRACES.ExportTraceServiceRequest())
        for resource in sent.resource_spans:
            self.resources.append(_attributes(resource.resource.attributes))
            self.spans += [
                {
                    "name": span.name,
                    "kind": span.kind,
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "attributes": _attributes(span.attributes),
                    "events": [(event.name, _attributes(event.attributes)) for event in span.events],
                    "status": span.status.code,
                    "seconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                }
                for scope in resource.scope_spans
                for span in scope.spans
            ]
        return Response(TRACES.ExportTraceServiceResponse().SerializeToString())

    async def _metrics(self, request: Request) -> Response:
        sent = await self._read(request, METRICS.ExportMetricsServiceRequest())
        for resource in sent.resource_metrics:
            for scope in resource.scope_metrics:
                self.metrics |= {metric.name: metric for metric in scope.metrics}
        return Response(METRICS.ExportMetricsServiceResponse().SerializeToString())

    async def _logs(self, request: Request) -> Response:
        sent = await self._read(request, LOGS.ExportLogsServiceRequest())
        for resource in sent.resource_logs:
            for scope in resource.scope_logs:
                self.logs += [
                    {"body": _value(one.body), "trace": one.trace_id.hex(), "severity": one.severity_text}
                    for one in scope.log_records
                ]
        return Response(LOGS.ExportLogsServiceResponse().SerializeToString())


@contextmanager
def running(
    folder: Path, upstream: ScriptedUpstream, collector: Collector, monkeypatch: pytest.MonkeyPatch, more: str = ""
) -> Iterator[str]:
    """A proxy that sends to the collector; its URL."""
    monkeypatch.setenv("GUARD_KEY", "a-key")
    monkeypatch.setenv("OTLP_KEY", "Bearer of the collector")
    judge = Starlette(routes=[Route("/v1/moderations", _judge, methods=["POST"])])
    with serve(judge) as judging, serve(upstream) as below, serve(collector.app) as collecting:
        path = folder / "guardproxy.yaml"
        path.write_text(CONFIG % (below, judging, collecting, more))
        source = read(str(path), None)
        with serve(Service(source.file, source).app) as url:
            until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
            yield url


def whole(text: str) -> Scripted:
    """A reply."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return Scripted([json.dumps({**HEAD, "object": "chat.completion", "choices": [choice]}).encode()])


def streamed(text: str) -> Scripted:
    """A reply as a stream of words."""
    deltas = [*({"content": word + " "} for word in text.split()), {}]
    frames: list[bytes | float | None] = [
        b"data: "
        + json.dumps({**HEAD, "choices": [{"index": 0, "delta": d, "finish_reason": None}]}).encode()
        + b"\n\n"
        for d in deltas
    ]
    return Scripted([*frames, b"data: [DONE]\n\n"], headers={"content-type": "text/event-stream"})


def by_name(spans: list[dict[str, Any]]) -> Mapping[str, list[dict[str, Any]]]:
    """The spans of the trace, by name."""
    found = defaultdict(list)
    for span in spans:
        if span["trace"] == TRACE:
            found[span["name"]].append(span)
    return found


def ask(url: str, text: str, *, stream: bool = False) -> None:
    """Ask with the official SDK, within a trace of the application's."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        answer = client.chat.completions.create(
            model="m-1",
            messages=[{"role": "user", "content": text}],
            stream=stream,
            extra_headers={"traceparent": PARENT},
        )
        if stream:
            assert list(answer)


def test_a_request_is_one_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spans hang together from the application over the proxy to the upstream; none has a text."""
    collector, upstream = Collector(), ScriptedUpstream([streamed("a friendly reply")])
    with running(tmp_path, upstream, collector, monkeypatch) as url:
        ask(url, "a friendly question", stream=True)
        until(lambda: len(upstream.seen) == 1)
    spans = by_name(collector.spans)
    (request,), (call,) = spans["POST request"], spans["chat m-1"]
    assert request["parent"] == PARENT.split("-")[2]
    assert (request["kind"], call["kind"]) == (2, 3)  # server, client
    assert {span["parent"] for name in ("chat m-1", "hold stream") for span in spans[name]} == {request["id"]}
    assert {"check user", "check assistant", "judge user turn", "judge assistant turn", "hold stream"} < set(spans)
    found = request["attributes"]
    assert found["http.response.status_code"] == 200
    assert (found["guardproxy.route"], found["guardproxy.policy"]) == ("default", "default")
    expected = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "m-1"}
    assert expected.items() <= call["attributes"].items()
    sent = [value for name, value in upstream.seen[0].headers if name == "traceparent"]
    assert sent == [f"00-{TRACE}-{call['id']}-01"]
    assert "friendly" not in str(collector.spans)
    assert collector.keys == {"Bearer of the collector"}
    assert collector.resources[0]["service.name"] == "guardproxy"


@pytest.mark.parametrize("experimental", [False, True])
def test_a_block_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experimental: bool) -> None:
    """The span of the turn has the decision; with `experimental`, under the names proposed for guardrails."""
    collector, upstream = Collector(), ScriptedUpstream([whole("fine")])
    more = ", semconv: experimental" if experimental else ""
    with running(tmp_path, upstream, collector, monkeypatch, more) as url:
        ask(url, "how to kill")
    spans = by_name(collector.spans)
    assert "chat m-1" not in spans
    assert spans["POST request"][0]["attributes"]["guardproxy.action"] == "block"
    if not experimental:
        (turn,) = spans["judge user turn"]
        assert turn["attributes"]["guardproxy.action"] == "block"
        assert turn["attributes"]["guardproxy.categories"] == ["unsafe"]
        return
    (turn,) = spans["run_guardrail openai_moderation"]
    guardrail = "gen_ai.guardrail"
    expected = {
        "gen_ai.operation.name": "run_guardrail",
        f"{guardrail}.target.type": "input",
        f"{guardrail}.verdict.type": "deny",
        f"{guardrail}.action.type": "block",
        f"{guardrail}.verdict.reason": "unsafe",
        f"{guardrail}.security.policy.id": "default",
    }
    assert expected.items() <= turn["attributes"].items()
    assert {name for name, _ in turn["events"]} == {f"{guardrail}.security.finding"}
    assert turn["events"][0][1][f"{guardrail}.security.risk.category"] == "unsafe"


def test_an_upstream_that_fails_is_an_error_of_its_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The span of the call has the status, and so has that of the request."""
    collector, upstream = Collector(), ScriptedUpstream([Scripted([b"{}"], status=500)])
    with (
        running(tmp_path, upstream, collector, monkeypatch) as url,
        pytest.raises(openai.InternalServerError),
    ):
        ask(url, "hello")
    spans = by_name(collector.spans)
    for name in ("chat m-1", "POST request"):
        assert (spans[name][0]["status"], spans[name][0]["attributes"]["http.response.status_code"]) == (2, 500)


def test_metrics_and_logs_are_those_of_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics have the names and values of /metrics; a line of the log knows its trace."""
    collector, upstream = Collector(), ScriptedUpstream([whole("fine")])
    with running(tmp_path, upstream, collector, monkeypatch) as url:
        logging.getLogger("a library").warning("a line of the log")
        ask(url, "how to kill")
        text = httpx.get(f"{url}/metrics").text
        until(lambda: "guardproxy_requests" in collector.metrics)
    counted = collector.metrics["guardproxy_requests"].sum
    assert (counted.is_monotonic, counted.aggregation_temporality) == (True, 2)
    blocked = {"status": "2xx", "wire": "openai_chat"}
    assert [p.as_double for p in counted.data_points if _attributes(p.attributes) == blocked] == [1.0]
    (queue,) = collector.metrics["guardproxy_guard_queue_seconds"].histogram.data_points
    assert sum(queue.bucket_counts) == queue.count > 0
    assert len(queue.bucket_counts) == len(queue.explicit_bounds) + 1
    names = {line.split()[2].removesuffix("_total") for line in text.splitlines() if line.startswith("# TYPE")}
    silent = {"guardproxy_config_restart_needed_info", "guardproxy_shadow_decisions", "guardproxy_unread_languages"}
    silent |= {name for name in names if name.startswith("guardproxy_alerts_")}  # no receiver is configured
    assert names - silent == set(collector.metrics)
    assert any("a line of the log" in line["body"] for line in collector.logs)


def test_a_collector_that_is_gone_changes_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are answered; what cannot be sent is dropped."""
    collector, upstream = Collector(broken=True), ScriptedUpstream([whole("fine")])
    with running(tmp_path, upstream, collector, monkeypatch) as url:
        ask(url, "hello")
    assert collector.spans == []
