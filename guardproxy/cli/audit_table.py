"""How audit records look on a terminal."""

import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guardproxy.sinks.database import AuditStats, StoredRecord
    from guardproxy.types import Record

_WIDE = 120  # from here on there is room for route and model


def printable(text: str) -> str:
    """`text` on one line; what would control the terminal, or cannot be seen, is written as an escape."""
    return "".join(c if _visible(c) else _escape(c) for c in text)


def _visible(c: str) -> bool:
    return c == " " or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _escape(c: str) -> str:
    code = ord(c)
    if c in "\n\t\r":
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}[c]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _columns(c: str) -> int:
    if unicodedata.combining(c):
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1


def _width(text: str) -> int:
    return sum(map(_columns, printable(text[:100])))


def cell(text: str, width: int) -> str:
    """`text` in exactly `width` columns, cut with an ellipsis where it is longer."""
    # Of a long text, no more than could be shown is read.
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
    """A time in seconds since the epoch, in the time zone of this machine."""
    return datetime.fromtimestamp(time).astimezone().strftime(form)


def reached(record: "Record") -> str:
    """The categories that reached a threshold with their probabilities; else what is known of the turn."""
    best: dict[str, float] = {}
    for reason in record.decision.reasons:
        best[reason.category] = max(reason.probability, best.get(reason.category, 0.0))
    if best:
        return ", ".join(f"{category} {best[category]:.2f}" for category in record.decision.categories)
    if record.error or record.decision.cause != "verdict":
        return record.decision.cause
    return f"(unsafe {record.verdict.unsafe:.2f})" if record.verdict else ""


class Table:
    """Rows of records in the width of the terminal, every row laid out alike.

    `sample` are records that will be shown: columns take the room these need, within bounds; the text has the rest.
    """

    def __init__(self, width: int, sample: Sequence["StoredRecord"]) -> None:
        self._wide = width >= _WIDE
        names = ["categories", *(["route", "model"] if self._wide else [])]
        found = [self._named(stored.record) for stored in sample]
        most = [30, 16, 16] if self._wide else [22]
        room = [
            min(most[place], max([len(name), *(_width(cells[place]) for cells in found)]))
            for place, name in enumerate(names)
        ]
        widths = [max([5, *(len(str(stored.seq)) for stored in sample)]), 14, 9, 8, *room]
        rest = width - sum(widths) - len(widths)
        self._names = ["no.", "time", "side", "action", *names, "text"]
        self._widths = [*widths, max(rest, 12)]

    def header(self) -> str:
        """The names of the columns."""
        return self._line([self._names[0].rjust(self._widths[0]), *self._names[1:]])

    def row(self, stored: "StoredRecord") -> str:
        """One record on one line. `~` marks what a shadow policy would have done."""
        record = stored.record
        action = f"~{record.decision.action}" if record.shadow else record.decision.action
        number = str(stored.seq).rjust(self._widths[0])
        time = local(record.time, "%m-%d %H:%M:%S")
        return self._line([number, time, record.side, action, *self._named(record), record.text])

    def _named(self, record: "Record") -> list[str]:
        return [reached(record), *([record.origin.route, record.origin.model] if self._wide else [])]

    def _line(self, cells: list[str]) -> str:
        return " ".join(cell(text, width) for text, width in zip(cells, self._widths, strict=True)).rstrip()


def details(stored: "StoredRecord") -> str:
    """Everything a record holds."""
    record, origin, decision = stored.record, stored.record.origin, stored.record.decision
    pairs = [
        ("record", f"{stored.seq}  {record.id}"),
        ("time", local(record.time, "%Y-%m-%d %H:%M:%S.%f %z")),
        ("request", f"{origin.request_id}{' (stream)' if origin.stream else ''}"),
        ("client", origin.client or "-"),
        ("route", f"{origin.route} ({origin.wire})"),
        ("upstream", f"{origin.upstream}, model {origin.model or '-'}"),
        ("turn", f"{record.side}, message {record.turn}, choice {record.choice}"),
        ("policy", f"{record.policy}@{record.policy_version}{' (shadow: it did not act)' if record.shadow else ''}"),
        ("decision", f"{decision.action}{f' ({decision.how})' if decision.how else ''}, because of {decision.cause}"),
        ("outcome", record.outcome),
        ("judged in", f"{record.latency_s * 1000:.1f} ms"),
    ]
    if record.error:
        pairs.append(("error", record.error))
    lines = [f"{name:<10} {printable(value)}" for name, value in pairs]
    lines += ["reasons", *_reasons(record)] if decision.reasons else []
    lines += _verdict(record) if record.verdict else ["verdict    none: the guard did not answer"]
    lines += ["coverage", *_coverage(record)] if record.coverage else []
    lines += (
        ["text", *(f"  {printable(line)}" for line in record.text.split("\n"))] if record.text else ["text       -"]
    )
    return "\n".join([*lines, f"hash       {stored.hash}"])


def _reasons(record: "Record") -> list[str]:
    return [
        f"  {reason.action}: {printable(reason.category)} {reason.probability:.4f} reaches {reason.threshold:g}"
        for reason in record.decision.reasons
    ]


def _verdict(record: "Record") -> list[str]:
    verdict = record.verdict
    if verdict is None:
        return []
    cost = verdict.usage
    lines = [
        f"verdict    unsafe {verdict.unsafe:.4f}, by {printable(verdict.guard)}, taxonomy {printable(verdict.taxonomy)}"
    ]
    for finding in sorted(verdict.findings, key=lambda one: -one.probability):
        view = "" if finding.view == "text" else f"  in the {finding.view} view"
        lines.append(f"  {printable(finding.category)} {finding.probability:.4f}{view}")
    lines.append(f"  not explored {verdict.leftover:.4f}, on neither verdict {verdict.outside:.4f}")
    if cost.cached:
        return [*lines, "  from the cache of verdicts"]
    tokens = f"{cost.tokens_computed} tokens read and {cost.tokens_reused} reused"
    times = f"waited {cost.queue_s * 1000:.1f} ms, tokenised {cost.tokenize_s * 1000:.1f} ms"
    lines.append(f"  {times}, computed {cost.forward_s * 1000:.1f} ms; {tokens}")
    return [*lines, f"  in a batch of {cost.batch}, windows {cost.windows}"]


def _coverage(record: "Record") -> list[str]:
    return [
        f"  {'judged' if part.judged else 'NOT judged'}: {printable(part.path)} ({part.role}, {part.kind}, "
        f"{part.characters} characters){f': {printable(part.why)}' if part.why else ''}"
        for part in record.coverage
    ]


def summary(stats: "AuditStats") -> str:
    """The counts of records, as small tables."""
    if stats.first is None or stats.last is None:
        return "no records" if not stats.shadow else "\n".join(["no records", *_counts("shadow", stats.shadow)])
    lines = [f"{stats.total} records from {local(stats.first)} to {local(stats.last)}"]
    half, most, longest = (f"{seconds * 1000:.1f} ms" for seconds in stats.latency_s)
    lines.append(f"judged in {half} (half), {most} (95 of 100), {longest} (longest)")
    tables = {"side": stats.sides, "category": stats.categories, "route": stats.routes, "shadow": stats.shadow}
    for name, counts in tables.items():
        lines += _counts(name, counts)
    causes = {cause: count for cause, count in stats.causes.items() if cause != "verdict"}
    if causes:
        lines += ["", "not decided by a verdict", *(f"  {cause}  {count}" for cause, count in sorted(causes.items()))]
    return "\n".join(lines)


def _counts(name: str, counts: dict[str, dict[str, int]]) -> list[str]:
    if not counts:
        return []
    actions = ("pass", "flag", "rewrite", "block")
    width = max(len(name), *(len(printable(row)) for row in counts))
    lines = ["", f"{name:<{width}}" + "".join(f"{action:>9}" for action in actions)]
    ordered = sorted(counts.items(), key=lambda item: -sum(item[1].values()))
    for row, found in ordered:
        lines.append(f"{printable(row):<{width}}" + "".join(f"{found.get(action, 0):>9}" for action in actions))
    return lines
