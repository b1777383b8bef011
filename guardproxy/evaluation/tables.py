"""Reports as tables, for a terminal or in Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from guardproxy.evaluation.metrics import MEASURES

LABELS: Mapping[str, str] = {
    "auprc": "AUPRC",
    "roc_auc": "ROC-AUC",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "fpr": "FPR",
    "recall_at_1pct_fpr": "recall at 1 % FPR",
    "recall_at_5pct_fpr": "recall at 5 % FPR",
    "ece": "ECE",
}
COSTS: Mapping[str, tuple[str, str]] = {
    "wall_ms_p50": ("time per check, median", "ms"),
    "wall_ms_p95": ("time per check, 95th percentile", "ms"),
    "compute_ms": ("model time per row", "ms"),
    "tokens_computed": ("tokens computed per row", ""),
    "tokens_reused": ("tokens reused per row", ""),
    "windows": ("windows per row", ""),
}
UNKNOWN = "-"

# The characters of a text that a table shows.
EXCERPT = 80

Rows = list[list[str]]


def tables(reports: Mapping[str, Mapping[str, Any]], *, markdown: bool = False) -> str:
    """The reports of several guards on the same rows as tables.

    Each data set and side has a table of every measure with its interval and a table of its categories; then follow
    the cost of a row and, if the reports have them, the mistakes of the policy.
    """
    render = _markdown if markdown else plain
    blocks: list[str] = []
    for title, parts in _slices(reports):
        blocks.append(f"{'### ' if markdown else ''}{title}")
        blocks.append(render(_overall(parts)))
        if categories := _categories(parts):
            blocks.append(render(categories))
    blocks += ["### Cost" if markdown else "cost", render(_costs(reports))]
    for unsafe, title in (
        (False, "benign rows stopped by the policy"),
        (True, "unsafe rows not stopped by the policy"),
    ):
        if len(rows := _mistakes(reports, unsafe)) > 1:
            blocks += [f"{'### ' if markdown else ''}{title}", render(rows)]
    return "\n\n".join(blocks)


def number(value: float | None, ci: Sequence[float] | None = None) -> str:
    """A value with three digits and its interval, if any; a dash for None."""
    if value is None:
        return UNKNOWN
    return f"{value:.3f} [{ci[0]:.3f}, {ci[1]:.3f}]" if ci else f"{value:.3f}"


def _slices(reports: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """For each table, its title and each guard's part of its report."""
    first = next(iter(reports.values()))
    for name in first.get("datasets", {}):
        yield from _sides(name, {guard: report["datasets"][name] for guard, report in reports.items()})
    yield from _sides("all rows", reports)


def _sides(title: str, parts: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    first = next(iter(parts.values()))
    sides = list(first["sides"])
    yield (f"{title} ({sides[0]} side)" if len(sides) == 1 else title), parts
    for side in sides if len(sides) > 1 else ():
        yield f"{title}, {side} side", {guard: part["sides"][side] for guard, part in parts.items()}


def _overall(parts: Mapping[str, Mapping[str, Any]]) -> Rows:
    rows = [["", *parts]]
    overall = [part["overall"] for part in parts.values()]
    for name, label in (("n", "rows"), ("positives", "unsafe rows")):
        rows.append([label, *(UNKNOWN if measured is None else f"{measured[name]:,}" for measured in overall)])
    for name in MEASURES:
        cells = [UNKNOWN if measured is None else number(measured[name], measured["ci"][name]) for measured in overall]
        rows.append([LABELS[name], *cells])
    for name, label in (
        ("unsafe", "unsafe rows stopped by the policy"),
        ("benign", "benign rows stopped by the policy"),
    ):
        rates = [part["policy"].get(name) for part in parts.values()]
        rows.append([label, *(UNKNOWN if rate is None else number(rate["rate"], rate["ci"]) for rate in rates)])
    return rows


def _categories(parts: Mapping[str, Mapping[str, Any]]) -> Rows:
    """A row for each guard and category, under a header; empty without categories."""
    head = ["guard", "category", "rows", "positive", "AUPRC 1-vs-all", "AUPRC 1-vs-benign", "ROC-AUC", "F1", "ECE"]
    rows = [head]
    for guard, part in parts.items():
        for category, measured in part["categories"].items():
            every, benign = measured["one_vs_all"], measured["one_vs_benign"]
            cells = [number(every["auprc"], every["ci"]["auprc"])]
            cells.append(UNKNOWN if benign is None else number(benign["auprc"], benign["ci"]["auprc"]))
            cells += [number(every[name], every["ci"][name]) for name in ("roc_auc", "f1", "ece")]
            rows.append([guard, category, f"{every['n']:,}", f"{every['positives']:,}", *cells])
    return rows if len(rows) > 1 else []


def _costs(reports: Mapping[str, Mapping[str, Any]]) -> Rows:
    costs = [report["cost"] for report in reports.values()]
    rows = [["", *reports]]
    for name, (label, unit) in COSTS.items():
        cells = [UNKNOWN if name not in cost else f"{cost[name]:,.1f} {unit}".strip() for cost in costs]
        rows.append([label, *cells])
    rows.append(["judged in this run", *(f"{cost['judged_now']:,} in {cost['seconds_now']:.0f} s" for cost in costs)])
    rows.append(["rows without a verdict", *(f"{report['failed']:,}" for report in reports.values())])
    return rows


def _mistakes(reports: Mapping[str, Mapping[str, Any]], unsafe: bool) -> Rows:
    """A row for each mistake on rows with this label, most probable first for each guard, under a header."""
    rows = [["guard", "set", "id", "P(unsafe)", "action", "categories", "text"]]
    for guard, report in reports.items():
        found = [mistake for mistake in report.get("mistakes", ()) if mistake["unsafe"] is unsafe]
        for mistake in sorted(found, key=lambda mistake: -mistake["probability"]):
            text = " ".join(mistake["text"].split())
            shown = text if len(text) <= EXCERPT else f"{text[: EXCERPT - 3]}..."
            named = ", ".join(mistake["categories"]) or UNKNOWN
            cells = [mistake["dataset"], mistake["id"], number(mistake["probability"]), mistake["action"], named, shown]
            rows.append([guard, *cells])
    return rows


def plain(rows: Rows) -> str:
    """The rows as lines of aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _markdown(rows: Rows) -> str:
    head, *body = rows
    lines = [head, ["---", *("---:" for _ in head[1:])], *body]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)
