"""How audit records look on a terminal.

To add a column to `audit list` (and `tail`), add a line to `_COLUMNS`; the field itself comes from the record.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from guardproxy.plaintext import printable

if TYPE_CHECKING:
    from guardproxy.sinks.database import AuditStats, Counts, StoredRecord
    from guardproxy.types import Record

# A terminal with this many columns has room for client, user, route and model beside 40 characters of the text.
_WIDE = 150


def _columns(c: str) -> int:
    if unicodedata.combining(c):
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1


def _width(text: str) -> int:
    return sum(map(_columns, printable(text[:100])))


def cell(text: str, width: int) -> str:
    """`text` in exactly `width` terminal columns; a longer text is cut and ends in an ellipsis."""
    # A text may be megabytes long: escape only the characters that may fit.
    shown = printable(text[: width + 1])
    columns = sum(map(_columns, shown))
    if len(text) <= width and columns <= width:
        return shown + " " * (width - columns)
    kept, used = "", 0
    for c in shown:
        if used + _columns(c) > width - 1:
            break
        kept, used = kept + c, used + _columns(c)
    return f"{kept}…{' ' * (width - 1 - used)}"


def local(time: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A time in seconds since the epoch as text, in the time zone of this machine."""
    return datetime.fromtimestamp(time).astimezone().strftime(form)


def reached(record: "Record") -> str:
    """The categories that reached a threshold, with probabilities; else the languages, the cause or P(unsafe)."""
    best: dict[str, float] = {}
    for reason in record.decision.reasons:
        best[reason.category] = max(reason.probability, best.get(reason.category, 0.0))
    if best:
        return ", ".join(f"{category} {best[category]:.2f}" for category in record.decision.categories)
    if record.decision.languages:
        return f"language: {', '.join(record.decision.languages)}"
    if record.error or record.decision.cause != "verdict":
        return record.decision.cause
    state = "excluded, " if record.exclusion else ""
    return f"({state}unsafe {record.verdict.unsafe:.2f})" if record.verdict else ""


@dataclass(frozen=True, slots=True)
class ListColumn:
    """A column of `audit list`: its name, the text of its cells, and how wide it is.

    A column is as wide as its longest cell, from `least` to `most` characters (`most_wide` on a wide terminal).
    """

    name: str
    content: Callable[["StoredRecord"], str]
    least: int
    most: int
    most_wide: int | None = None
    only_wide: bool = False
    right: bool = False


def _action(stored: "StoredRecord") -> str:
    action = stored.record.decision.action
    return f"~{action}" if stored.record.shadow else action


# A column less than its name would be cut: `least` is at least the length of the name.
_COLUMNS = (
    ListColumn("no.", lambda stored: str(stored.seq), 5, 20, right=True),
    ListColumn("time", lambda stored: local(stored.record.time, "%m-%d %H:%M:%S"), 14, 14),
    ListColumn("side", lambda stored: stored.record.side, 9, 9),
    ListColumn("action", _action, 8, 8),
    ListColumn("categories", lambda stored: reached(stored.record), 10, 22, most_wide=30),
    ListColumn("client", lambda stored: stored.record.origin.client, 6, 8, only_wide=True),
    ListColumn("user", lambda stored: stored.record.origin.user, 4, 8, only_wide=True),
    ListColumn("route", lambda stored: stored.record.origin.route, 5, 16, only_wide=True),
    ListColumn("model", lambda stored: stored.record.origin.model, 5, 16, only_wide=True),
)
# The text has the rest of the line, but never less than this.
_LEAST_TEXT = 12


class Table:
    """Rows of records as wide as the terminal, all with the same layout.

    The widths of the columns come from `sample`, records that will be shown. `~` marks the action of a shadow policy.
    """

    def __init__(self, width: int, sample: Sequence["StoredRecord"]) -> None:
        wide = width >= _WIDE
        self._columns = [column for column in _COLUMNS if wide or not column.only_wide]
        self._widths = [_column_width(column, sample, wide=wide) for column in self._columns]
        rest = width - sum(self._widths) - len(self._widths)
        self._text_width = max(rest, _LEAST_TEXT)

    def header(self) -> str:
        """The names of the columns."""
        return self._line([column.name for column in self._columns], "text")

    def row(self, stored: "StoredRecord") -> str:
        """A record on one line."""
        return self._line([column.content(stored) for column in self._columns], stored.record.text)

    def _line(self, contents: Sequence[str], text: str) -> str:
        aligned = [
            content.rjust(width) if column.right else content
            for column, content, width in zip(self._columns, contents, self._widths, strict=True)
        ]
        cells = [cell(content, width) for content, width in zip(aligned, self._widths, strict=True)]
        return " ".join([*cells, cell(text, self._text_width)]).rstrip()


def _column_width(column: ListColumn, sample: Sequence["StoredRecord"], *, wide: bool) -> int:
    most = column.most_wide if wide and column.most_wide is not None else column.most
    longest = max((_width(column.content(stored)) for stored in sample), default=0)
    return min(most, max(column.least, longest))


def summary(stats: "AuditStats") -> str:
    """The statistics of records: times, and a table of actions by side, category, route and shadow policy."""
    if stats.first is None or stats.last is None:
        return "no records" if not stats.shadow else "\n".join(["no records", *_counts("shadow", stats.shadow)])
    lines = [f"{stats.total} records from {local(stats.first)} to {local(stats.last)}"]
    median, p95, longest = (f"{seconds * 1000:.1f} ms" for seconds in stats.latency_s)
    lines.append(f"judged in {median} (median), {p95} (95th percentile), {longest} (longest)")
    tables = {"side": stats.sides, "category": stats.categories, "route": stats.routes, "shadow": stats.shadow}
    for name, counts in tables.items():
        lines += _counts(name, counts)
    causes = {cause: count for cause, count in stats.causes.items() if cause != "verdict"}
    if causes:
        lines += ["", "not decided by a verdict", *(f"  {cause}  {count}" for cause, count in sorted(causes.items()))]
    return "\n".join(lines)


def counts_table(name: str, counts: "Counts", limit: int) -> str:
    """Counts by action, the most frequent first or times in their order; at most `limit` lines."""
    shown = list(counts) if name in ("hour", "day") else sorted(counts, key=lambda row: -sum(counts[row].values()))
    lines = _counts(name, {row: counts[row] for row in shown[:limit]}, ordered=True)[1:]
    if len(shown) > limit:
        lines.append(f"{len(shown) - limit} more: --limit shows them")
    return "\n".join(lines) or "no records"


def _counts(name: str, counts: "Counts", *, ordered: bool = False) -> list[str]:
    if not counts:
        return []
    actions = ("pass", "flag", "rewrite", "block")
    shown = {row: printable(row) or "-" for row in counts}
    width = max(len(name), *map(len, shown.values()))
    lines = ["", f"{name:<{width}}" + "".join(f"{action:>9}" for action in actions)]
    rows = list(counts) if ordered else sorted(counts, key=lambda row: -sum(counts[row].values()))
    lines += [
        f"{shown[row]:<{width}}" + "".join(f"{counts[row].get(action, 0):>9}" for action in actions) for row in rows
    ]
    return lines
