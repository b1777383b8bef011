"""Writes docs/faults.md from the table of faults: `python -m tests.faults`."""

from pathlib import Path

from tests.faults.table import PAGE, Fault

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "faults.md"
INTRODUCTION = """\
# Every fault has an answer

What clients, records and metrics show of each fault. `python -m tests.faults` writes this page from the table that
`pytest tests/faults` tests: a running `guardproxy serve`, an upstream over raw sockets, a guard's service in a process
of its own, a store in SQLite or PostgreSQL. After each fault the proxy goes on: nothing of an unjudged text has passed,
and its sockets, the tasks of its event loop and the bytes that it holds are what they were before.

Metrics begin with `guardproxy_`. A stream that fails after it has begun ends with the protocol's error as its last
event, and its connection closes before the end of the body, so that no client takes it for a whole answer. A refusal
is an answer in the client's protocol with its stop reason for filtered content. "Incomplete" is a reply that was not
read to its end.
"""


def page() -> str:
    """The text of docs/faults.md."""
    parts = [INTRODUCTION]
    for title, lead, faults in PAGE:
        parts.append(f"\n## {title}\n\n{lead}\n\n| fault | client | records | metrics | |\n|---|---|---|---|---|\n")
        parts += [_row(fault) for fault in faults]
    return "".join(parts)


def _row(fault: Fault) -> str:
    records = "; ".join(fault.records) or "none"
    metrics = ", ".join(f"`{name}`" for name in fault.metrics) or "none"
    return f"| {fault.what} | {fault.client} | {records} | {metrics} | {fault.note} |\n"


if __name__ == "__main__":
    FILE.write_text(page())
