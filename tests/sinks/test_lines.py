"""Records as lines: JSON, a JSON lines file, the log."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from guardproxy.errors import ConfigError
from guardproxy.registry import load
from guardproxy.sinks import REGISTRY
from guardproxy.sinks.jsonl import open_sink
from guardproxy.sinks.log import open_sink as open_log
from guardproxy.sinks.shared import from_json, to_json
from guardproxy.types import Decision, Finding, Verdict
from tests.sinks.kit import HOSTILE, record

CHARACTERS = st.text(st.characters(), max_size=20)  # surrogates too


@given(text=CHARACTERS, probability=st.floats(0, 1))
def test_json_keeps_everything(text: str, probability: float) -> None:
    """A record survives a round trip through JSON, for any text."""
    one = record(1, text=text, model=text, latency_s=probability)
    line = to_json(one)
    assert line.isascii()
    assert "\n" not in line
    # A surrogate pair is read back as the character that it encodes.
    paired = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert from_json(line) == record(1, text=paired, model=paired, latency_s=probability)


@pytest.mark.parametrize("value", [0.0, 1e-7, 5e-324, 1e22, float("inf"), float("nan")])
def test_json_keeps_every_number(value: float) -> None:
    """Numbers are read back as they were, also those that only Python's JSON has."""
    one = record(1, latency_s=value, verdict=Verdict(value, (Finding("violence", value),), "embedded"))
    assert repr(from_json(to_json(one))) == repr(one)
    assert "kite" not in to_json(one, without=("text",))


def test_records_without_second_conditions_are_read() -> None:
    """A record from before rules had `with_unsafe` is read as one whose rules have none."""
    old = json.loads(to_json(record(1)))
    for reason in old["decision"]["reasons"]:
        del reason["with_unsafe"]
    reasons = from_json(json.dumps(old)).decision.reasons
    assert [(reason.category, reason.with_unsafe) for reason in reasons] == [("violence", 0.0), ("jailbreak", 0.0)]


def test_file_grows(tmp_path: Path) -> None:
    """Each write appends whole lines, even after a truncated line, to a file that only its owner can read."""
    path = tmp_path / "new folder" / "audit.jsonl"
    sink = open_sink(f"jsonl://{tmp_path}/new%20folder/audit.jsonl")
    asyncio.run(sink.write([]))
    asyncio.run(sink.write([record(1), record(2, text=HOSTILE)]))
    with path.open("a") as file:
        file.write('{"id": "cut')
    asyncio.run(sink.write([record(3)]))
    lines = path.read_text("ascii").splitlines()
    assert [from_json(lines[place]) for place in (0, 1, 3)] == [record(1), record(2, text=HOSTILE), record(3)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_file_may_be_rotated(tmp_path: Path) -> None:
    """After the file was moved away, the next write creates a new file."""
    path = tmp_path / "audit.jsonl"
    sink = open_sink(f"jsonl://{path}")
    asyncio.run(sink.write([record(1)]))
    path.rename(tmp_path / "audit.1.jsonl")
    asyncio.run(sink.write([record(2)]))
    assert from_json(path.read_text()) == record(2)


def test_file_that_cannot_be_written(tmp_path: Path) -> None:
    """If the path is a folder, a write raises OSError."""
    with pytest.raises(OSError, match="directory"):
        asyncio.run(open_sink(f"jsonl://{tmp_path}").write([record(1)]))


@pytest.mark.parametrize("address", ["jsonl://", "/var/log/audit.jsonl"])
def test_addresses_that_are_none(address: str) -> None:
    """An address without a path is an error that shows the correct form."""
    with pytest.raises(ConfigError, match="jsonl:///path"):
        open_sink(address)


def test_log_lines() -> None:
    """Each record is one log line with the decision and its reasons, and with the text only if configured."""
    with capture_logs() as lines:
        asyncio.run(open_log().write([record(1), record(2)]))
        asyncio.run(open_log(text=True).write([record(3)]))
    assert [line["event"] for line in lines] == ["decision"] * 3
    assert [line["record"] for line in lines] == ["record-1", "record-2", "record-3"]
    assert "text" not in lines[0]
    assert lines[0]["reasons"][0].startswith("violence ")
    assert lines[2]["text"] == "how is a kite built?"
    json.dumps(lines)


@pytest.mark.parametrize("name", REGISTRY)
def test_registered(name: str) -> None:
    """Every name in the registry has an `open_sink`."""
    assert load(name, REGISTRY, "sink").__name__ == "open_sink"


def test_the_languages_of_a_decision_are_kept() -> None:
    """A record has the languages that caused its decision; records from before them are read as well."""
    decision = Decision("flag", "", (), "language", ("zh", "other"))
    one = replace(record(1), decision=decision)
    assert from_json(to_json(one)) == one
    before = json.loads(to_json(record(1)))
    del before["decision"]["languages"]
    assert from_json(json.dumps(before)) == record(1)
