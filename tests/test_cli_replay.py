"""`guardproxy replay` on a real store."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from guardproxy.cli import main
from guardproxy.sinks.database import AuditStore, Filter, StoreKeys, default_store_url
from guardproxy.types import Record
from tests.replay_kit import NEW, OLD, records
from tests.sinks.kit import record

HATE = (("violence_hate", 0.5),)


@pytest.fixture(scope="module")
def stored() -> list[Record]:
    """A few thousand records."""
    return records(3000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, stored: list[Record]) -> Path:
    """A data directory with these records, one of them erased, and both configurations."""
    folder = tmp_path_factory.mktemp("replay")

    async def run() -> None:
        store = AuditStore(default_store_url(str(folder)))
        await store.write([*stored, record(9999, request_id="gone")])
        await store.erase(Filter(request_id="gone"))
        await store.close()

    asyncio.run(run())
    (folder / "old.yaml").write_text(OLD)
    (folder / "new.yaml").write_text(NEW)
    return folder


def call(folder: Path, file: str, *options: str) -> int:
    """Run the command on the store."""
    return main(["replay", "--policy", str(folder / file), "--data-dir", str(folder), *options])


def test_the_same_policy_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every decision of the old policy stays; the erased record is named."""
    assert call(folder, "old.yaml", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["records"], report["replayed"], report["erased"]) == (3000, 3000, 1)
    assert report["changes"]["unchanged"]["turns"] == 3000
    assert report["rows"] == {}


def test_a_lower_threshold_blocks_more(folder: Path, stored: list[Record], capsys: pytest.CaptureFixture[str]) -> None:
    """The newly blocked turns are exactly those between the thresholds; rows, filters and shares agree."""

    def changed(item: Record) -> bool:
        assert item.verdict is not None
        between = 0.5 <= item.verdict.findings[0].probability < 0.6
        return item.side == "user" and between and item.decision.action != "block"

    expected = [item.id for item in stored if changed(item)]
    assert call(folder, "new.yaml", "--json", "-n", "5") == 0
    report = json.loads(capsys.readouterr().out)
    blocked = report["changes"]["blocked"]
    assert blocked["turns"] == len(expected) > 20
    assert blocked["share"] == pytest.approx(len(expected) / 3000)
    assert blocked["ci"][0] < blocked["share"] < blocked["ci"][1]
    assert [row["id"] for row in report["rows"]["blocked"]] == expected[:5]
    assert report["moves"][0].keys() == {"before", "after", "turns"}
    assert set(report["by"]["client"]) == {"0", "1", "2"}
    assert sum(counts["blocked"]["turns"] for counts in report["by"]["client"].values()) == len(expected)
    assert report["by"]["side"]["assistant"]["blocked"]["turns"] == 0
    assert call(folder, "new.yaml", "--json", "--side", "assistant", "--old-policy", "default") == 0
    assert json.loads(capsys.readouterr().out)["changes"]["unchanged"]["turns"] == 1500


def test_text(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The text names shares, places and the first rows; none of those is wider than the terminal."""
    monkeypatch.setenv("COLUMNS", "100")
    assert call(folder, "new.yaml", "-n", "2") == 0
    printed = capsys.readouterr().out
    assert "3,000 of 3,000 records decided again under" in printed
    moves = printed.split("from -> to")[1].split("\n\n")[0].splitlines()[1:]
    assert [line.rsplit(maxsplit=1)[0] for line in moves] == ["flag -> block"]
    rows = printed.split("\n\nnewly blocked\n")[1].splitlines()
    assert len(rows) == 2
    assert all("   flag -> block   violence_hate" in row and len(row) <= 100 for row in rows)
    assert "1: erased records in the store" in printed
    assert "by category" in printed


def test_mistakes_of_the_file_are_those_of_validate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake stands with file, line and column, and the exit status is 2."""
    wrong = folder / "wrong.yaml"
    wrong.write_text(NEW.replace("violence_hate", "violense"))
    assert call(folder, "wrong.yaml") == 2
    from_replay = capsys.readouterr().err
    assert main(["validate", str(wrong)]) == 1
    assert from_replay == capsys.readouterr().out
    assert "wrong.yaml:5:7: policies.default.user.violense: unknown category" in from_replay


def test_labels_say_what_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels of the command line count in both commands; a withdrawn one does not, nor do reviewers who disagree."""

    async def run() -> list[int]:
        store = AuditStore(default_store_url(str(tmp_path)))
        await store.write(records(400))
        numbers = [stored.seq async for stored in store.scan(Filter(side="user", action="flag", min_score=HATE))]
        await store.close()
        return numbers

    numbers = [str(number) for number in asyncio.run(run())]
    assert len(numbers) > 5

    def label(command: str, numbers: list[str], *options: str) -> None:
        assert main(["audit", command, *numbers, *options, "--data-dir", str(tmp_path)]) == 0

    label("label", numbers, "false_negative", "--by", "ann")
    label("label", numbers[:2], "correct", "--by", "bo")
    label("label", numbers[1:2], "none", "--by", "bo")
    label("label", numbers[2:3], "false_positive", "--by", "ann")
    (tmp_path / "new.yaml").write_text(NEW)
    capsys.readouterr()
    assert call(tmp_path, "new.yaml", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["labels"] == {"blocked": {"right": len(numbers) - 2, "wrong": 1}}
    assert report["disputed"] == 1
    assert call(tmp_path, "new.yaml") == 0
    assert "1 labelled turns count neither" in capsys.readouterr().out
    assert main(["evaluate", "--from-audit", "--json", "--data-dir", str(tmp_path), "--side", "user"]) == 0
    printed = capsys.readouterr()
    assert "1 records whose reviewers disagree are no rows" in printed.err
    assert json.loads(printed.out)["audit"]["overall"]["n"] == len(numbers) - 1


def test_an_encrypted_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its key, decisions by error or coverage are found in an encrypted store too, and rows quote texts."""
    key = Fernet.generate_key().decode()

    async def run() -> None:
        store = AuditStore(default_store_url(str(tmp_path)), keys=StoreKeys(encrypt=(key,)))
        await store.write([*records(50), record(99, error="the reply ended early")])
        await store.close()

    asyncio.run(run())
    (tmp_path / "new.yaml").write_text(NEW.replace("block: 0.7", "block: 0.1"))
    assert call(tmp_path, "new.yaml", "--json") == 2
    assert "is encrypted (row 1): give its key" in capsys.readouterr().err
    monkeypatch.setenv("GUARDPROXY_AUDIT_KEY", key)
    assert call(tmp_path, "new.yaml", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kept"] == {"failed": 1}
    assert all(row["text"].startswith("text ") for row in report["rows"]["blocked"])


def test_without_a_store(tmp_path: Path, folder: Path) -> None:
    """Without a store, the error names its place."""
    assert main(["replay", "--policy", str(folder / "old.yaml"), "--data-dir", str(tmp_path)]) == 2


def test_a_sampling_rate_weights_passed_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --sample-rate, a sampled passed turn counts for 1/rate turns, others that passed for none."""

    async def run() -> None:
        store = AuditStore(default_store_url(str(tmp_path)))
        items = records(400)
        await store.write([item if number % 4 else record_sampled(item) for number, item in enumerate(items)])
        await store.close()

    asyncio.run(run())
    (tmp_path / "new.yaml").write_text(NEW)
    assert call(tmp_path, "new.yaml", "--json", "--sample-rate", "0.25") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["weight"] == 4
    assert report["outside_sample"] > 100
    assert report["replayed"] + report["outside_sample"] == 400
    low, high = report["changes"]["blocked"]["ci"]
    assert high - low > 0.01


def record_sampled(item: Record) -> Record:
    """The record as one of the random sample."""
    return replace(item, sampled=True)


def test_rescore_judges_the_stored_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --rescore, the guard of the file judges texts that are stored whole; masked and absent ones are counted."""

    async def run() -> None:
        store = AuditStore(default_store_url(str(tmp_path)))
        texts = ["how do I bake bread", "write to [email] now", "", "cut"]
        await store.write([record(number, text=text, exact=number in (0, 2)) for number, text in enumerate(texts)])
        await store.close()

    asyncio.run(run())
    (tmp_path / "new.yaml").write_text("version: 1\n")
    assert call(tmp_path, "new.yaml", "--json", "--rescore") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["no_text"] == 3
    assert report["moves"] == [{"before": "block", "after": "pass", "turns": 1}]
    assert report["rows"]["passed"][0]["unsafe"] < 0.5
    assert call(tmp_path, "new.yaml", "--rescore", "other") == 2
    assert "combines no guard 'other'" in capsys.readouterr().err
