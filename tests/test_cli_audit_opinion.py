"""`guardproxy audit second-opinion`, and what `audit show`, `validate` and `calibrate` say of labels."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from guardproxy.cli import main
from guardproxy.replay import stored_turn
from guardproxy.sinks.database import AuditStore, default_store_url
from guardproxy.sinks.shared import to_dict
from guardproxy.types import Finding, Record, Verdict
from tests.guards.chat_kit import MODEL, ChatServer, completion, config_file
from tests.kit import serve
from tests.sinks.kit import record

LABELLED = Verdict(1.0, (Finding("violence", 1.0, kind="label"),), MODEL, "mine@1", kind="label", rationale="A bomb.")


@pytest.fixture
def server() -> ChatServer:
    """What the guard of second opinions asks."""
    return ChatServer()


@pytest.fixture
def file(tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A configuration, beside a store with three records: of a probability, of a label, and without text."""
    monkeypatch.setenv("GUARD_KEY", "k-1")
    records: list[Record] = [
        record(1, time=time.time() - 9, text="how do I build a bomb", exact=True),
        record(2, time=time.time(), verdict=LABELLED),
        record(3, time=time.time() - 9, text=""),
    ]

    async def fill() -> None:
        store = AuditStore(default_store_url(str(tmp_path)))
        await store.write(records)
        await store.close()

    asyncio.run(fill())
    with serve(server.app()) as url:
        yield config_file(tmp_path, url)


def run(file: Path, *arguments: str) -> int:
    """Run a subcommand of `audit` on the store beside the file."""
    return main(["audit", *arguments, "--data-dir", str(file.parent), "--config", str(file)])


def test_an_opinion_is_asked_for_and_shown(file: Path, server: ChatServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Who asked whom, the label, its policy and its reason; the chain verifies."""
    assert run(file, "second-opinion", "1", "--by", "ann") == 0
    out = capsys.readouterr().out
    assert "label unsafe: guns_illegal_weapons; by openai/gpt-oss-safeguard-20b, taxonomy gpt_oss_safeguard@" in out
    assert "reason: It asks for a bomb." in out
    assert run(file, "show", "1") == 0
    shown = capsys.readouterr().out
    assert "opinions\n" in shown
    assert "asked by ann\n    reason: It asks for a bomb." in shown
    assert run(file, "show", "1", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["opinions"][0]["unsafe"], data["labels"]) == (1.0, [])
    assert run(file, "verify") == 0
    assert server.authorization == ["Bearer k-1"]


def test_a_failed_opinion_is_an_error(file: Path, server: ChatServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is stored, and the exit status says so."""
    server.answers.append(completion("safe"))
    assert run(file, "second-opinion", "1", "--by", "ann") != 0
    assert "the answer is no JSON object" in capsys.readouterr().err
    assert run(file, "second-opinion", "3", "--by", "ann") != 0
    assert "record 3 has no text: it had none, it was erased, or" in capsys.readouterr().err
    assert run(file, "show", "1") == 0
    assert "opinions" not in capsys.readouterr().out


def test_it_needs_a_guard(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a configuration, or without the setting, the message says what to write."""
    assert main(["audit", "second-opinion", "1", "--by", "ann", "--data-dir", str(file.parent)]) != 0
    assert "--config FILE is missing" in capsys.readouterr().err
    file.write_text("version: 1\npolicies: {default: {unsafe: {block: 0.5}}}\n")
    assert run(file, "second-opinion", "1", "--by", "ann") != 0
    assert "audit.second_opinion is not set" in capsys.readouterr().err


def test_a_label_is_shown_as_a_label(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody takes it for a probability."""
    assert run(file, "show", "2") == 0
    shown = capsys.readouterr().out
    assert f"unsafe 1.0000 (a label, no probability), by {MODEL}" in shown
    assert "reason: A bomb." in shown


def test_labels_are_not_calibrated(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither of a guard that gives them, nor of records that hold them."""
    text = file.read_text().replace("guards:\n  reasoner:", "guard:").replace("    ", "  ")
    own = tmp_path / "own.yaml"
    own.write_text(text.replace("audit: {second_opinion: reasoner}\n", ""))
    assert main(["validate", str(own)]) == 0
    assert "gives labels, 0 or 1, and no probability" in capsys.readouterr().out
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "a", "unsafe": true}\n')
    assert main(["calibrate", str(data), "--config", str(own), "--target-fpr", "0.01"]) != 0
    assert "there is nothing to calibrate" in capsys.readouterr().err
    assert run(file, "label", "2", "correct", "--by", "ann") == 0
    asked = ["calibrate", "--from-audit", "--store", default_store_url(str(tmp_path)), "--target-fpr", "0.01"]
    assert main(asked) != 0
    assert "1 records, such as 2, hold labels" in capsys.readouterr().err


def test_the_kind_survives_a_replay() -> None:
    """A policy with a calibration leaves stored labels as they are."""
    turn = stored_turn(1, to_dict(replace(record(), verdict=LABELLED)))
    assert turn.verdict is not None
    assert (turn.verdict.kind, turn.verdict.findings[0].kind) == ("label", "label")
