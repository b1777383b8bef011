"""The overview: how much was judged and stopped, when and of whom, and how the guard did. Bars lead to the records."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from guardproxy.console.charts import ACTIONS, Chart, Column, lines, rates, stacked
from guardproxy.console.feed import chips, facet_lists
from guardproxy.console.shown import clock
from guardproxy.console.visits import Page, Query, Visit, address
from guardproxy.sinks.database import TREND_FIELDS, Facets, FilterError, Period, Trends

QUERY: Final = ("over", "by")
_DEFAULT: Final = "24h"
# The length of the time, and that of a period, in seconds.
SPANS: Final[Mapping[str, tuple[str, int, int]]] = {
    "1h": ("last hour", 3600, 120),
    "24h": ("last 24 hours", 86_400, 3600),
    "7d": ("last 7 days", 7 * 86_400, 6 * 3600),
    "30d": ("last 30 days", 30 * 86_400, 86_400),
}
_VALUES: Final = 6  # of a field that have a chart


async def overview(visit: Visit) -> Page:
    """The charts and tables of a time."""
    over = visit.value("over", _DEFAULT)
    if over not in SPANS:
        raise FilterError("over", f"{over!r} is none of {', '.join(SPANS)}")
    by = visit.value("by", TREND_FIELDS[0])
    if by not in TREND_FIELDS:
        raise FilterError("by", f"{by!r} is none of {', '.join(TREND_FIELDS)}")
    title, length, step = SPANS[over]
    query = {key: values for key, values in visit.query.items() if key not in ("over", "by", "since", "until")}
    now = time.time()
    first = (int(now - length) // step + 1) * step
    chosen = replace(visit.filter().acting(), since=float(first), until=None)
    facets = await visit.parts.store.totals(chosen)
    periods = _filled(await visit.parts.store.periods(chosen, step), first, now, step)
    trends = await visit.parts.store.trends(chosen, step, by)
    feed_query = {**query, "since": [f"@{float(first)!r}"], "shadow": [chosen.shadow or "without"]}
    values: dict[str, Any] = {
        "spans": [
            (name, text, address("/overview", query, over=name, by=by), name == over)
            for name, (text, *_) in SPANS.items()
        ],
        "title": title,
        "chips": chips(query, "/overview"),
        "counted": facets,
        "json": address("/overview.json", visit.query),
        "csv": address("/overview.csv", visit.query),
        **_totals(facets, feed_query),
        **_charts(periods, query, step),
        "by": by,
        "fields": [(name, address("/overview", query, over=over, by=name)) for name in TREND_FIELDS],
        "trends": _trends(trends, by, periods, query, step=step),
        "left_out": max(len(trends) - _VALUES, 0),
    }
    return Page("overview.html", values, lambda: {**_data(periods, facets), "trends": trends}, lambda: _table(periods))


def _totals(facets: Facets, query: Query) -> dict[str, Any]:
    """The counts of the whole time, each with the address of its records."""
    actions = {name: sum(counts.values()) for name, counts in facets.by.get("action", {}).items()}
    causes = {name: sum(counts.values()) for name, counts in facets.by.get("cause", {}).items()}
    groups = ("user", "client", "route", "model", "policy", "category")
    users = sorted(facets.by.get("user", {}).items(), key=lambda user: -user[1].get("block", 0))
    ranked = replace(facets, by={**facets.by, "user": dict(users)})  # a reviewer looks for those who are blocked most
    return {
        "judged": facets.counted,
        "by_action": [(name, actions.get(name, 0), address("/feed", query, action=name)) for name in ACTIONS],
        "failures": causes.get("guard_error", 0) + causes.get("overload", 0),
        "errors_at": address("/feed", query, error="true"),
        "groups": [facet for facet in facet_lists(ranked, query, "/feed") if facet.name in groups],
    }


def _charts(periods: Sequence[Period], query: Query, step: float) -> dict[str, Any]:
    """The charts over the time, and the periods with their names and addresses for the table."""
    names = [clock(period.start, step) for period in periods]
    links = [_between(query, period.start, step) for period in periods]
    errors = [{"error": period.errors} if period.errors else {} for period in periods]
    stops = [_without(period.actions, "pass") for period in periods]
    return {
        "volume": stacked(_columns(names, (period.actions for period in periods), links), [*reversed(ACTIONS)]),
        "stops": stacked(_columns(names, stops, links), ["flag", "rewrite", "block"], height=110),
        "rate": rates(names, [_blocked(period.actions) for period in periods], links),
        "latency": _latency(names, periods, links),
        "failed": sum(period.errors for period in periods),
        "errors": stacked(_columns(names, errors, links), ["error"], height=80),
        "periods": list(zip(names, periods, links, strict=True)),
    }


def _filled(periods: Sequence[Period], first: float, now: float, step: float) -> list[Period]:
    """The periods with the empty ones between them."""
    known = {period.start: period for period in periods}
    starts = [first + step * number for number in range(int((now - first) // step) + 1)]
    return [known.get(start, Period(start, {}, {}, 0, (0.0, 0.0))) for start in starts]


def _columns(names: Sequence[str], counts: Iterable[Mapping[str, int]], links: Sequence[str]) -> list[Column]:
    return [Column(name, count, link) for name, count, link in zip(names, counts, links, strict=True)]


def _without(actions: Mapping[str, int], name: str) -> dict[str, int]:
    return {action: count for action, count in actions.items() if action != name}


def _blocked(actions: Mapping[str, int]) -> tuple[int, int]:
    return actions.get("block", 0), sum(actions.values())


@dataclass(frozen=True, slots=True)
class Trend:
    """A value of a field over the time: how many turns, how many of them blocked, its records, and two charts."""

    value: str
    turns: int
    blocked: int
    link: str
    volume: Chart
    rate: Chart


def _trends(trends: Trends, by: str, periods: Sequence[Period], query: Query, *, step: float) -> list[Trend]:
    """The most frequent values of a field over the time."""
    names = [clock(period.start, step) for period in periods]
    found: list[Trend] = []
    for value, by_period in sorted(trends.items(), key=lambda item: (-_turns(item[1]), item[0]))[:_VALUES]:
        own = {**query, by: [value]}
        links = [_between(own, period.start, step) for period in periods]
        counts = [by_period.get(period.start, {}) for period in periods]
        found.append(
            Trend(
                value,
                _turns(by_period),
                sum(_blocked(actions)[0] for actions in by_period.values()),
                address("/feed", {**own, "since": [f"@{periods[0].start!r}"]}),
                stacked(_columns(names, counts, links), [*reversed(ACTIONS)], width=360, height=60),
                rates(names, [*map(_blocked, counts)], links, width=360, height=36),
            )
        )
    return found


def _turns(by_period: Mapping[float, Mapping[str, int]]) -> int:
    return sum(sum(actions.values()) for actions in by_period.values())


def _latency(names: Sequence[str], periods: Sequence[Period], links: Sequence[str]) -> Chart:
    both = [period.latency_s if period.actions else (None, None) for period in periods]
    return lines(names, {"p95": [pair[1] for pair in both], "p50": [pair[0] for pair in both]}, links)


def _between(query: Query, start: float, step: float) -> str:
    bounds = {"since": [f"@{float(start)!r}"], "until": [f"@{float(start + step)!r}"]}
    return address("/feed", {**query, **bounds})


def _data(periods: Sequence[Period], facets: Facets) -> dict[str, Any]:
    rows = [
        {
            "start": period.start,
            "actions": dict(period.actions),
            "categories": dict(period.categories),
            "errors": period.errors,
            "latency_s": {"p50": period.latency_s[0], "p95": period.latency_s[1]},
        }
        for period in periods
    ]
    sample = {"passed_one_in": facets.sample.passed, "others_one_in": facets.sample.others}
    return {"periods": rows, "by": dict(facets.by), "sample": sample}


def _table(periods: Sequence[Period]) -> list[Sequence[Any]]:
    head = ["start", *ACTIONS, "errors", "latency_p50_s", "latency_p95_s"]
    return [
        head,
        *(
            [period.start, *(period.actions.get(name, 0) for name in ACTIONS), period.errors, *period.latency_s]
            for period in periods
        ),
    ]
