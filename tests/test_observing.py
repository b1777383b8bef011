"""docs/observing.md, the alert rules and the dashboard name the metrics that there are, with their labels."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from ruamel.yaml import YAML

from guardproxy.app.engine_keeper import EngineKeeper
from guardproxy.observe import Metrics
from guardproxy.observe.families import merged, rendered
from guardproxy.observe.replica_metrics import ReplicaCounts
from guardproxy.observe.state import ReloadState, ServerState
from guardproxy.observe.state_metrics import StateCounts
from guardproxy.policy import Policy, PolicySet, Route, Rule, SideRules
from guardproxy.types import ReplyInfo
from guardproxy.wires import REGISTRY
from tests.sinks.kit import record

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "observing.md").read_text()
TABLES = "".join(
    (ROOT / "docs" / page).read_text().split("## Metrics")[1].split("\n## ")[0]
    for page in ("observing.md", "alerts.md")
)
ALERTS = ROOT / "deploy" / "prometheus-alerts.yaml"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
# Prometheus adds these to what it scrapes.
SCRAPE = {"job", "instance"}


def series() -> Mapping[str, set[str]]:
    """The labels of each metric of a server with a route and a shadow policy, by the name in Prometheus."""
    metrics = Metrics(CollectorRegistry())
    rules = SideRules({"violence": (Rule("flag", 0.2), Rule("block", 0.5)), "*": (Rule("block", 0.9),)})
    policies = {name: Policy(name, "v1", rules, rules) for name in ("default", "new")}
    routes = (Route("beta", "default", shadow=("new",)),)
    metrics.begin(PolicySet(policies, routes), wires=REGISTRY, categories=["violence", "weapons"], codes=["late"])
    metrics.begin_sink("store")
    metrics.unread("user", ["xx"])
    metrics.alerts.begin("chat")
    metrics.upstreams.follow(["default"], lambda: {"default": "up"})
    metrics.state_from(lambda: ServerState(True, {"default": "v1"}, ReloadState(restart_needed=("server.port",))))
    metrics.shared_state_from(lambda: (True, StateCounts()))
    metrics.replicas_from(lambda: {"embedded": {"http://guard-1": (True, ReplicaCounts())}})
    found = {}
    for name, kind, _, samples in [*metrics.families(), *EngineKeeper().families()]:
        assert samples, f"{name} has no series at the start"
        total = f"{name}_total" if kind == "counter" else name
        found[total] = {label for _, labels, _ in samples for label in labels if label != "le"}
    return found


SERIES = series()


def test_every_metric_is_documented_with_its_labels() -> None:
    """The table of the page, with that of alerts, is the list of metrics."""
    rows = re.findall(r"^\| `(\w+)` \|(.*?)\| .* \|$", TABLES, re.MULTILINE)
    # The words in brackets are values.
    told = {name: set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", labels))) for name, labels in rows}
    assert told == SERIES


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("guardproxy_decisions_total", {"side": "user", "action": "block", "policy": "default", "route": "beta"}),
        ("guardproxy_decisions_total", {"side": "user", "action": "block", "policy": "default", "route": "default"}),
        ("guardproxy_shadow_decisions_total", {"side": "assistant", "action": "flag", "policy": "new"}),
        ("guardproxy_requests_total", {"wire": "gemini", "status": "5xx"}),
    ],
)
def test_series_begin_with_nothing(name: str, labels: dict[str, str]) -> None:
    """A series is there before its first event."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    policies = {name: Policy(name, "v1", SideRules({}), SideRules({})) for name in ("default", "new")}
    found = PolicySet(policies, (Route("beta", "default", shadow=("new",)),))
    metrics.begin(found, wires=REGISTRY, categories=[], codes=[])
    assert registry.get_sample_value(name, labels) == 0


def alerts() -> list[dict[str, Any]]:
    """The alert rules."""
    groups: list[dict[str, Any]] = YAML(typ="safe").load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard that show something."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression of the rules and the dashboard, with where it is."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for note in DASHBOARD["annotations"]["list"]:
        yield note["name"], note["expr"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_expressions_name_metrics_and_labels_that_exist(where: str, expression: str) -> None:
    """A metric or a label that is renamed would leave an alert that never fires."""
    names = set(re.findall(r"\b(?:guardproxy|process)_\w+", expression))
    assert names
    known: set[str] = set()
    for name in names:
        base = re.sub(r"_(bucket|sum|count)\Z", "", name)
        assert name in SERIES or (base in SERIES and base.endswith("_seconds")), name
        known |= SERIES.get(name, SERIES.get(base, set()))
    used = {label for inside in re.findall(r"\{([^}]*)\}", expression) for label in re.findall(r"(\w+)=", inside)}
    used |= {label.strip() for by in re.findall(r"\bby \(([^)]*)\)", expression) for label in by.split(",")}
    assert used - SCRAPE - {"le"} <= known


def test_alerts_are_those_of_the_page() -> None:
    """Every rule is explained, with what to do."""
    section = PAGE.split("## What to alert on")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [rule["alert"] for rule in alerts()]
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["summary"]


def test_prometheus_reads_the_rules() -> None:
    """promtool finds no mistake, where it is installed."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([tool, "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("failing", "fires"),
    [
        ('guardproxy_upstream_calls_total{job="g", upstream="a", result="5xx"}', True),
        ('guardproxy_upstream_calls_total{job="g", upstream="a", result="unsent"}', True),
        ('guardproxy_failures_total{job="g", code="upstream_unreadable"}', True),
        ('guardproxy_failures_total{job="g", code="bad_request"}', False),
        ('guardproxy_upstream_calls_total{job="g", upstream="a", result="4xx"}', False),
    ],
)
def test_the_alert_of_the_upstream_sees_answers_that_are_errors(tmp_path: Path, failing: str, fires: bool) -> None:
    """An upstream that answers 500 fails as one that cannot be reached, though its answer has no code of ours."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed")
    rule = next(rule for rule in alerts() if rule["alert"] == "GuardproxyUpstreamFails")
    told = [{"exp_labels": {"job": "g", **rule["labels"]}, "exp_annotations": rule["annotations"]}]
    counts = {
        failing: "0+10x20",
        'guardproxy_upstream_calls_total{job="g", upstream="a", result="2xx"}': "0+90x20",
        'guardproxy_requests_total{job="g", status="2xx", wire="openai_chat"}': "0+90x20",
    }
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in counts.items()],
        "alert_rule_test": [{"eval_time": "15m", "alertname": rule["alert"], "exp_alerts": told if fires else []}],
    }
    cases = tmp_path / "cases.yaml"
    cases.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [case]}))
    done = subprocess.run([tool, "test", "rules", str(cases)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_has_what_grafana_needs() -> None:
    """Unique ids, places that do not overlap, a data source to choose, queries with a reference."""
    assert DASHBOARD["schemaVersion"] >= 36
    assert [one["name"] for one in DASHBOARD["templating"]["list"]] == ["datasource", "job"]
    every = DASHBOARD["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        references = [target["refId"] for target in panel["targets"]]
        assert references == sorted(set(references))


def test_an_end_of_a_process_does_not_lower_a_count() -> None:
    """Counts of processes that have ended stay; their amounts and states go. What all share is not added up."""

    def process(requests: int, in_flight: int, ready: bool) -> Metrics:
        metrics = Metrics(CollectorRegistry())
        for _ in range(requests):
            metrics.request("gemini", 200)
            metrics.upstream(0.3)
        metrics.in_flight = in_flight
        metrics.state_from(lambda: ServerState(ready, {"default": "v1"}, ReloadState(applied=4)))
        return metrics

    ended = merged([process(5, 7, ready=True).families()], ended=True)
    alive = [process(2, 1, ready=True).families(), process(1, 2, ready=False).families()]
    text = rendered(merged([ended, *alive]))[1].decode()
    for line in (
        'guardproxy_requests_total{status="2xx",wire="gemini"} 8.0',
        "guardproxy_upstream_seconds_count 8.0",
        'guardproxy_upstream_seconds_bucket{le="+Inf"} 8.0',
        "guardproxy_requests_in_flight 3.0",
        "guardproxy_ready 0.0",
        'guardproxy_policy_info{policy="default",version="v1"} 1.0',
        'guardproxy_config_reloads_total{result="applied"} 4.0',
    ):
        assert f"\n{line}\n" in text


def test_what_is_withheld_of_a_stream_is_counted() -> None:
    """A stream whose rest was replaced or withheld is cut; a whole reply, a request and a passed stream are not."""
    metrics = Metrics(CollectorRegistry())
    cut = record(1, side="assistant", outcome="refuse", reply=ReplyInfo())
    streamed = replace(cut, origin=replace(cut.origin, stream=True))
    whole = replace(cut, origin=replace(cut.origin, stream=False))
    for one in (streamed, whole, replace(streamed, outcome="pass"), replace(streamed, reply=None)):
        metrics.decision(one)
    action = cut.decision.action
    assert f'guardproxy_streams_cut_total{{action="{action}"}} 1.0\n' in metrics.render()[1].decode()
