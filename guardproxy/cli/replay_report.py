"""How the comparison of two policies looks: as JSON values, and as text."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from guardproxy.cli.audit_table import cell, local
from guardproxy.plaintext import printable

if TYPE_CHECKING:
    from guardproxy.evaluation.metrics import Rate
    from guardproxy.replay import Change, Counts, Kept, ReplayedTurn, ReplayReport

_NAMES: "dict[Change, str]" = {
    "blocked": "newly blocked",
    "rewritten": "newly rewritten",
    "flagged": "newly flagged",
    "passed": "newly passed",
    "unchanged": "unchanged",
}
_KEPT: "dict[Kept, str]" = {
    "shadow": "decisions of shadow policies, which never act",
    "failed": "the guard failed or was overloaded, or the reply could not be read",
    "excluded": "an exclusion says that the text is harmless",
    "floor": "the guard read no categories, because P(unsafe) was below every threshold of then",
    "taxonomy": "the guard gave no probability of a category that a new rule names",
}
_NOTES = {
    "erased": "erased records in the store, of which nothing is known",
    "no_text": "records whose text is masked or not stored, so it cannot be judged again",
    "no_verdict": "texts that got no verdict when they were judged again",
}
_COLUMN = 26
_MOST = 20  # names in a table


def as_dict(report: "ReplayReport", version: str, weight: float, notes: Mapping[str, int]) -> dict[str, Any]:
    """The report as JSON values. `weight` is how many turns each passed turn stands for, if they are a sample."""
    return {
        "version": version,
        "records": report.records,
        "replayed": report.changes.total(),
        "weight": weight,
        "changes": _changes(report.changes, weight),
        "moves": [
            {"before": before, "after": after, "turns": turns} for (before, after), turns in report.moves.items()
        ],
        "by": {
            dimension: {name: _changes(counts, weight) for name, counts in sorted(names.items())}
            for dimension, names in report.by.items()
        },
        "labels": {
            change: {"right": counts[True], "wrong": counts[False]} for change, counts in report.labelled.items()
        },
        "disputed": report.disputed,
        "kept": dict(report.kept),
        "missing_categories": [
            {"taxonomy": taxonomy, "category": category, "turns": turns}
            for (taxonomy, category), turns in report.missing.items()
        ],
        "undecided_routes": dict(report.undecided),
        "shortened": report.shortened,
        "outside_sample": report.outside,
        **notes,
        "rows": {change: [_row(row) for row in rows] for change, rows in report.rows.items()},
    }


def _changes(counts: "Counts", weight: float) -> dict[str, Any]:
    """By change: the records, and the share of all turns that they stand for, with its interval."""
    out: dict[str, Any] = {}
    for change in _NAMES:
        share = share_of(counts, change, weight)
        turns = sum(number for group, number in counts.items() if group.change == change)
        out[change] = {"turns": turns, "share": share.value if share.n else None, "ci": list(share.interval)}
    return out


def share_of(counts: "Counts", change: "Change", weight: float) -> "Rate":
    """The share of a change among all turns that the counted ones stand for."""
    import numpy as np

    from guardproxy.evaluation.metrics import rate_of

    groups, numbers = list(counts), list(counts.values())
    hits = np.array([group.change == change for group in groups], dtype=np.bool_)
    weights = np.array([weight if group.weighted else 1.0 for group in groups])
    return rate_of(np.repeat(hits, numbers), np.repeat(weights, numbers))


def _row(row: "ReplayedTurn") -> dict[str, Any]:
    turn, verdict = row.turn, row.turn.verdict
    return {
        "number": turn.number,
        "id": turn.id,
        "time": turn.time,
        "side": turn.side,
        "route": turn.route,
        "client": turn.client,
        "policy": row.policy,
        "unsafe": verdict.unsafe if verdict else None,
        "before": {"action": turn.decision.action, "how": turn.decision.how, "categories": turn.decision.categories},
        "after": {"action": row.after.action, "how": row.after.how, "categories": row.after.categories},
        "text": turn.text,
    }


# --- text ------------------------------------------------------------------------------------------------------------


def summary(report: "ReplayReport", file: str, weight: float, notes: Mapping[str, int], width: int) -> str:
    """The report as text of at most `width` columns in the rows that quote texts."""
    from guardproxy.evaluation.tables import plain

    replayed = report.changes.total()
    blocks = [f"{replayed:,} of {report.records:,} records decided again under {file}"]
    if replayed:
        blocks.append(plain(_overall(report, weight)))
        if moves := _moves(report):
            blocks.append(plain(moves))
        blocks += [plain(table) for table in _tables(report)]
    blocks += _blocks(report, notes)
    for change, rows in report.rows.items():
        lines = [_NAMES[change], *(_line(row, width) for row in rows)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _overall(report: "ReplayReport", weight: float) -> list[list[str]]:
    labelled = report.labelled
    head = ["", "turns", "share of all turns, 95 %", *(["labelled right", "labelled wrong"] if labelled else [])]
    rows = [head]
    for change, name in _NAMES.items():
        share = share_of(report.changes, change, weight)
        low, high = share.interval
        cells = [f"{100 * share.value:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"]
        if labelled:
            cells += [f"{labelled[change][right]:,}" for right in (True, False)]
        rows.append([name, f"{_turns(report.changes, change):,}", *cells])
    return rows


def _moves(report: "ReplayReport") -> list[list[str]]:
    """How many turns change from which action to which, most first: what is newly flagged may have been blocked."""
    moved = [(pair, turns) for pair, turns in report.moves.most_common() if pair[0] != pair[1]]
    return (
        [["from -> to", "turns"], *([f"{old} -> {new}", f"{turns:,}"] for (old, new), turns in moved)] if moved else []
    )


def _turns(counts: "Counts", change: "Change") -> int:
    return sum(number for group, number in counts.items() if group.change == change)


def _tables(report: "ReplayReport") -> Iterator[list[list[str]]]:
    """For each dimension with a change, the turns of each of its values that has one, most changed first."""
    for dimension, names in report.by.items():
        changed = {name: counts for name, counts in names.items() if counts.total() > _turns(counts, "unchanged")}
        rows = [[f"by {dimension}", "turns", *_NAMES.values()]]
        ranked = sorted(changed.items(), key=lambda item: _turns(item[1], "unchanged") - item[1].total())
        for name, counts in ranked[:_MOST]:
            shown = cell(name or "(none)", _COLUMN).rstrip()
            rows.append([shown, f"{counts.total():,}", *(f"{_turns(counts, change):,}" for change in _NAMES)])
        if len(ranked) > _MOST:
            rows.append([f"and {len(ranked) - _MOST} more, see --json", *[""] * (len(rows[0]) - 1)])
        if changed:
            yield rows


def _blocks(report: "ReplayReport", notes: Mapping[str, int]) -> Iterator[str]:
    """What was not decided again, and what the scores leave open."""
    kept = [f"  {turns:,}: {_KEPT[why]}" for why, turns in report.kept.most_common()]
    kept += [f"  {turns:,}: {_NOTES[name]}" for name, turns in notes.items() if turns]
    if report.outside:
        kept.append(f"  {report.outside:,}: passed turns outside of the random sample")
    if kept:
        yield "\n".join(["not decided again, so kept as they were:", *kept])
    if report.disputed:
        yield f"{report.disputed:,} labelled turns count neither as right nor as wrong: their reviewers disagree"
    if report.missing:
        lines = [
            f"  {turns:,}: {printable(category)} (taxonomy {printable(taxonomy) or 'unknown'})"
            for (taxonomy, category), turns in report.missing.most_common()
        ]
        yield "\n".join(["categories without a probability:", *lines])
    for route, turns in report.undecided.most_common():
        yield (
            f"{turns:,} turns may belong to the route {printable(route)}: records hold neither path nor headers, so "
            "they were decided as if it did not match"
        )
    if report.shortened:
        yield (
            f"{report.shortened:,} streamed replies would no longer be stopped; the guard has not seen the rest of them"
        )


def _line(row: "ReplayedTurn", width: int) -> str:
    turn = row.turn
    names = ", ".join(row.after.categories or turn.decision.categories) or row.after.cause
    start = (
        f"  {turn.number:>6} {local(turn.time, '%m-%d %H:%M:%S')} {turn.side:<9} "
        f"{turn.decision.action:>7} -> {row.after.action:<7} {cell(names, _COLUMN)} "
    )
    return (start + cell(turn.text, max(12, width - len(start)))).rstrip()
