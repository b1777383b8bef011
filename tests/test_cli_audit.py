"""`guardproxy audit` on a real store."""

import argparse
import asyncio
import contextlib
import csv
import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guardproxy.cli import audit
from guardproxy.cli.audit_filters import add_filters
from guardproxy.cli.audit_table import Table, cell
from guardproxy.errors import ConfigError, GuardproxyError
from guardproxy.observe.masking import short_hash
from guardproxy.plaintext import is_visible, printable
from guardproxy.sinks.database import COUNT_BY, KEYS, AuditStore, Head, default_store_url
from guardproxy.types import Coverage, Decision, Record, ReplyInfo
from tests.sinks.kit import HOSTILE, PASSED, record

ROOT = Path(__file__).parent.parent
NOW = time.time()
RECORDS = [
    record(1, time=NOW - 90_000, text="first\nof all", decision=PASSED),
    record(2, time=NOW - 3600, text=HOSTILE, model=HOSTILE),
    record(3, time=NOW - 60, side="assistant", shadow=True, request_id="request-2"),
    record(4, time=NOW, verdict=None, decision=Decision("block", "", (), "guard_error"), error="no answer in 2 s"),
]


def write(folder: Path, records: list[Record]) -> None:
    """Put records into the embedded store of a data directory."""

    async def run() -> None:
        store = AuditStore(default_store_url(str(folder)))
        await store.write(records)
        await store.close()

    asyncio.run(run())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data directory with a store."""
    write(tmp_path, RECORDS)
    return tmp_path


def call(*arguments: str | Path) -> int:
    """Run the command as the command line does; return its exit status."""
    parser = argparse.ArgumentParser()
    audit.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["audit", *map(str, arguments)])
    status: int = args.run(args)
    return status


def printed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must succeed; return its output."""
    assert call(*arguments) == 0
    return capsys.readouterr().out


def test_list(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest record comes first; probabilities, shadow decisions and guard errors look different."""
    monkeypatch.setenv("COLUMNS", "160")
    lines = printed(capsys, "list", "--shadow", "with", "--data-dir", folder).splitlines()
    assert [line.split()[0] for line in lines] == ["no.", "4", "3", "2", "1"]
    assert "guard_error" in lines[1]
    assert "~block" in lines[2]
    assert "violence 0.91, jailbreak 0.62" in lines[3]
    assert lines[4].endswith("first\\nof all")


@pytest.mark.parametrize("columns", [60, 80, 119, 120, 200])
def test_table_fits_the_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """No line is wider than the terminal, and no character of a text can control it."""
    monkeypatch.setenv("COLUMNS", str(columns))
    out = printed(capsys, "list", "--data-dir", folder)
    assert all(len(line) <= max(columns, 75) for line in out.splitlines())
    assert not {"\x1b", "\0", "\u202e"} & set(out)
    out.encode("utf-8")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--since", "2h"], [4, 2]),
        (["--since", "2h", "--shadow", "with"], [4, 3, 2]),
        (["--until", "1d"], [1]),
        (["--since", "1970-01-01", "-n", "1"], [4]),
        (["--side", "assistant"], []),
        (["--action", "pass"], [1]),
        (["--category", "jailbreak"], [2]),
        (["--request-id", "request-2", "--shadow", "with"], [3, 2]),
        (["--route", "default", "--policy", "default", "--model", "small-model"], [4, 1]),
        (["--text", "first all"], [1]),
        (["--min-score", "violence=0.9", "--shadow", "without"], [2, 1]),
        (["--max-score", "violence=0.9"], []),
        (["--error"], [4]),
        (["--shadow", "only"], [3]),
        (["--label", "none", "--user", "", "--session", "", "--client", "c11e47"], [4, 2, 1]),
    ],
)
def test_filters_and_json(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: list[int]
) -> None:
    """Filters select records; `--json` prints a whole record per line."""
    out = printed(capsys, "list", "--json", "--data-dir", folder, *arguments)
    records = [json.loads(line) for line in out.splitlines()]
    assert [stored["seq"] for stored in records] == expected
    assert all(stored["origin"]["wire"] == "openai_chat" for stored in records)


def test_nothing_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a matching record, the message names the store."""
    assert f"no matching records in sqlite:///{folder}" in printed(capsys, "list", "--data-dir", folder, "--route", "x")
    printed(capsys, "list", "--data-dir", folder, "--side", "assistant")
    call("list", "--data-dir", folder, "--side", "assistant")
    assert "--shadow with lists them" in capsys.readouterr().err
    assert call("show", "nobody", "--data-dir", folder) == 1
    assert "no record or request 'nobody'" in capsys.readouterr().err


def test_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A number or id shows all fields of its record, a request id all records of the request."""
    out = printed(capsys, "show", "2", "--data-dir", folder)
    assert out == printed(capsys, "show", "record-2", "--data-dir", folder)
    for part in (
        "request-2 (stream)",
        "policy     default@0a1b2c",
        "block: violence 0.9100 reaches 0.5\n",
        "flag: jailbreak 0.6200 reaches 0.5 with unsafe >= 0.25\n",
        "jailbreak 0.6200  in the base64 view",
        "17 tokens computed and 4 reused",
        "judged: messages[2].content (user, text, 20 characters)",
        "NUL \\x00, lone surrogates \\ud800 \\udfff, 🙂",
        "\\x1b[31m",
    ):
        assert part in out
    both = printed(capsys, "show", "request-2", "--data-dir", folder)
    assert both.startswith(out.rstrip("\n"))
    assert "(shadow: it did not act)" in both
    assert "none: the guard did not answer" in printed(capsys, "show", "4", "--data-dir", folder)
    found = printed(capsys, "show", "request-2", "--json", "--data-dir", folder).splitlines()
    assert [json.loads(line)["seq"] for line in found] == [2, 3]


def test_show_what_rewrites_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That a turn was steered, and which of several replies a record is of."""
    steered = record(1, decision=Decision("rewrite", "steer", ()), outcome="steer")
    write(tmp_path, [steered, record(2, side="assistant", reply=ReplyInfo("c1", "m", attempt=2))])
    out = printed(capsys, "show", "1", "--data-dir", tmp_path)
    assert "decision   rewrite (steer)" in out
    assert "outcome    steer: the text went on unchanged, with an instruction for the model" in out
    assert "id c1, attempt 2" in printed(capsys, "show", "2", "--data-dir", tmp_path)


def test_stats(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`stats` prints counts by side and category, as tables or as JSON."""
    out = printed(capsys, "stats", "--data-dir", folder)
    assert "3 records from" in out
    assert re.search(r"^user +1 +0 +0 +2$", out, re.MULTILINE)
    assert re.search(r"^violence +0 +0 +0 +1$", out, re.MULTILINE)
    assert re.search(r"^ +guard_error +1$", out, re.MULTILINE)
    assert json.loads(printed(capsys, "stats", "--json", "--data-dir", folder))["total"] == 3
    assert "no records" in printed(capsys, "stats", "--data-dir", folder, "--route", "x")


def test_tail(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without `-f`, `tail` prints the latest records, newest last."""
    out = printed(capsys, "tail", "-n", "2", "--json", "--data-dir", folder)
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [2, 4]


RUN = (
    "import argparse, sys; from guardproxy.cli import audit; p = argparse.ArgumentParser();"
    " audit.add_parser(p.add_subparsers()); a = p.parse_args(['audit', *sys.argv[1:]]); sys.exit(a.run(a))"
)


def test_tail_follows(folder: Path) -> None:
    """With `-f`, `tail` prints the records of another process as they are written."""
    command = [sys.executable, "-c", RUN, "tail", "-f", "-n", "1", "--json", "--data-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as following:
        try:
            assert following.stdout is not None
            assert json.loads(following.stdout.readline())["seq"] == 4
            write(folder, [record(i) for i in range(10, 15)])
            assert [json.loads(following.stdout.readline())["seq"] for _ in range(5)] == [5, 6, 7, 8, 9]
        finally:
            following.kill()


def test_list_while_another_process_writes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A writer in the middle of a transaction does not block readers."""

    async def run() -> None:
        store = AuditStore(default_store_url(str(folder)))
        async with store._database.writing():
            assert await asyncio.to_thread(call, "list", "--data-dir", folder) == 0
            assert await asyncio.to_thread(call, "verify", "--data-dir", folder) == 0
        await store.close()

    asyncio.run(run())
    assert "violence 0.91" in capsys.readouterr().out


def test_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unedited store verifies, also against an earlier head; `verify` names an edited row and exits with 1."""
    head = printed(capsys, "verify", "--data-dir", folder).split()[-1]
    write(folder, [record(9)])
    assert "5 rows, 0 of them erased" in printed(capsys, "verify", "--head", head, "--data-dir", folder)
    other = str(Head(4, "0" * 64))
    assert call("verify", "--head", other, "--data-dir", folder) == 1
    assert "row 4: does not have the given hash" in capsys.readouterr().out
    with contextlib.closing(sqlite3.connect(folder / "audit.sqlite3")) as connection, connection:
        connection.execute("UPDATE guardproxy_records SET action = 'pass' WHERE seq = 2")
    assert call("verify", "--json", "--data-dir", folder) == 1
    result = json.loads(capsys.readouterr().out)
    assert [problem["row"] for problem in result["problems"]] == [2]


def test_export(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`export` writes records, oldest first, to standard output or to a new file that only its owner can read."""
    out = printed(capsys, "export", "--data-dir", folder)
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [1, 2, 3, 4]
    target = tmp_path / "out.jsonl"
    assert "3 records in" in printed(capsys, "export", "--since", "3h", "-o", target, "--data-dir", folder)
    assert [json.loads(line)["id"] for line in target.read_text().splitlines()] == ["record-2", "record-3", "record-4"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with pytest.raises(GuardproxyError, match="File exists"):
        call("export", "-o", target, "--data-dir", folder)


def test_delete(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Erasing asks for confirmation, or needs --yes without a terminal; afterwards the store verifies."""
    of_request = ("delete", "--request-id", "request-2", "--data-dir", folder)
    with pytest.raises(GuardproxyError, match=r"erase 2 records of request request-2 for good.*--yes"):
        call(*of_request)
    assert printed(capsys, *of_request, "--yes") == "2 records erased\n"
    assert call(*of_request, "--yes") == 1
    assert "no records of request request-2 in" in capsys.readouterr().err
    old = ("delete", "--until", "1d", "--action", "pass", "--data-dir", folder)
    with pytest.raises(GuardproxyError, match=r"erase 1 records from before 20.*, with action pass for good"):
        call(*old)
    assert printed(capsys, *old, "--yes") == "1 records erased\n"
    assert "6 rows, 3 of them erased: no row" in printed(capsys, "verify", "--data-dir", folder)


def test_delete_needs_a_filter(folder: Path) -> None:
    """Without a filter nothing is erased, not even with --yes."""
    with pytest.raises(ConfigError, match="needs a filter, such as --request-id"):
        call("delete", "--yes", "--data-dir", folder)
    with pytest.raises(GuardproxyError, match=r"erase 4 records from \d\d\d\d-.* on for good"):
        call("delete", "--since", "3d", "--data-dir", folder)


def test_no_store(tmp_path: Path) -> None:
    """Without a store, the error names its address, and none is created."""
    with pytest.raises(ConfigError) as caught:
        call("list", "--data-dir", tmp_path / "nowhere")
    assert f"there is no audit store at sqlite:///{tmp_path}/nowhere/audit.sqlite3" in caught.value.problems[0]
    assert "--store" in caught.value.problems[1]
    assert not (tmp_path / "nowhere").exists()


def test_no_database(tmp_path: Path) -> None:
    """A file that is not a database, or a server that does not answer, is an error without traceback or password."""
    (tmp_path / "audit.sqlite3").write_text("not a database at all, but long enough to look at " * 10)
    with pytest.raises(GuardproxyError, match=r"cannot be used: .*not a database"):
        call("list", "--data-dir", tmp_path)
    with pytest.raises(GuardproxyError, match="cannot be used") as caught:
        call("list", "--store", "postgresql://somebody:pa55@127.0.0.1:9/x")
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "-n", "0"],
        ["stats", "--by", "colour"],
        ["label", "1", "wrong", "--by", "ann"],
        ["label", "1", "correct"],
        ["list", "--store", "sqlite:////x", "--data-dir", "/x"],
        ["verify", "--head", "12"],
        ["prune", "--before", "1d"],
        [],
    ],
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument is an error with exit status 2."""
    with pytest.raises(SystemExit) as caught:
        call(*arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--since", "soon"], "--since: 'soon' is no time"),
        (["--side", "system"], "--side: 'system' is not one of user, assistant"),
        (["--side", "user", "--side", "assistant"], "--side: has 2 values"),
        (
            ["--category", "violense"],
            "--category: no record in the store has the category 'violense'; it has jailbreak",
        ),
        (["--min-score", "violence=2"], "--min-score: 'violence=2' is not CATEGORY=PROBABILITY"),
        (["--text", "..."], "--text: has no word"),
    ],
)
def test_wrong_filters(folder: Path, arguments: list[str], problem: str) -> None:
    """A filter that cannot be used is an error that names the option."""
    for command in ("list", "stats", "tail", "export"):
        with pytest.raises(ConfigError) as caught:
            call(command, "--data-dir", folder, *arguments)
        assert caught.value.problems[0].startswith(problem)
        assert len(caught.value.problems) == 1


def test_stats_by(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`stats --by` counts by what it names, the most frequent first."""
    out = printed(capsys, "stats", "--by", "category", "--data-dir", folder)
    assert re.search(r"^violence +0 +0 +0 +1$", out, re.MULTILINE)
    out = printed(capsys, "stats", "--by", "model", "--data-dir", folder, "-n", "1")
    assert [line.split()[0] for line in out.splitlines()] == ["model", "small-model", "1"]
    counts = json.loads(printed(capsys, "stats", "--by", "label", "--data-dir", folder, "--json"))
    assert counts == {"none": {"block": 2, "pass": 1}}
    assert "no records" in printed(capsys, "stats", "--by", "day", "--data-dir", folder, "--route", "x")


def test_counts_are_by_what_the_store_offers() -> None:
    """The choices of `stats --by` and the filters of the commands are those of the store."""
    assert audit._COUNT_BY == COUNT_BY
    parser = argparse.ArgumentParser()
    add_filters(parser)
    assert {action.option_strings[0].lstrip("-") for action in parser._actions} - {"h"} == set(KEYS)


def test_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`label` labels records, `none` withdraws; `show` has the whole history, `export` what is in force."""
    key = "sk-" + "a1B2c3D4" * 5
    note = f"a film title, {key}"
    labelled = ("label", "1", "record-2", "false_positive", "--data-dir", folder, "--by", "ann", "--note", note)
    assert printed(capsys, *labelled) == "2 records labelled false_positive by ann\n"
    found = printed(capsys, "list", "--label", "false_positive", "--json", "--data-dir", folder)
    assert [json.loads(line)["seq"] for line in found.splitlines()] == [2, 1]
    assert json.loads(found.splitlines()[0])["labels"][0]["by"] == "ann"
    withdrawn = printed(capsys, "label", "1", "none", "--by", "ann", "--data-dir", folder)
    assert withdrawn == "the labels of ann on 1 record are withdrawn\n"
    for by, more, problem in (
        ("ann", (), "nothing was withdrawn: ann has no label on record 1"),
        ("bo", (), "nothing was withdrawn: bo has no label on records 1, 2"),
        ("ann", ("--note", "x"), "leave --category and --note out"),
    ):
        with pytest.raises(GuardproxyError, match=problem):
            call("label", "1", *(["2"] if by == "bo" else []), "none", "--by", by, *more, "--data-dir", folder)
    shown = printed(capsys, "show", "1", "--data-dir", folder)
    assert "false_positive, by ann: a film title, [api key]" in shown
    assert "withdrawn, by ann" in shown
    exported = printed(capsys, "export", "--data-dir", folder).splitlines()
    assert [len(json.loads(line)["labels"]) for line in exported] == [0, 1, 0, 0]
    for name, problem in (("99", "no record '99'"), ("request-2", "the request 'request-2' has the records 2, 3")):
        with pytest.raises(GuardproxyError, match=problem):
            call("label", name, "correct", "--by", "ann", "--data-dir", folder)
    printed(capsys, "verify", "--data-dir", folder)


def test_labels_of_the_same_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--same-text` labels every record of the text and says which it leaves out; a masked text is named."""
    write(
        tmp_path,
        [
            *(record(n, text="buy pills", exact=True) for n in range(3)),
            record(3, text="buy pills", exact=True, side="assistant"),
            record(4, text="my card is ****", exact=False),
        ],
    )
    place = ("--data-dir", tmp_path)
    out = printed(capsys, "label", "2", "false_positive", "--same-text", "--by", "ann", *place)
    assert out == (
        "3 records labelled false_positive by ann\n"
        "1 more with the text of record 2 have another side or decision: not labelled\n"
    )
    assert len(printed(capsys, "list", "--label", "false_positive", "--json", *place).splitlines()) == 3
    out = printed(capsys, "label", "1", "none", "--same-text", "--by", "ann", *place)
    assert out.startswith("the labels of ann on 3 records are withdrawn\n")
    with pytest.raises(GuardproxyError, match=r"record 5: its text is masked, .* name each record"):
        call("label", "1", "5", "correct", "--same-text", "--by", "ann", *place)
    assert printed(capsys, "verify", *place).startswith("11 rows, 0 of them erased: no row")


def test_migrate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`migrate` leaves a store of the current version as it is, and says its version."""
    place = f"sqlite:///{folder}/audit.sqlite3"
    assert printed(capsys, "migrate", "--data-dir", folder) == f"{place} has version 5\n"


def test_show_conversation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--conversation`, `show` has all records of the request and of its session, in their order."""
    write(tmp_path, [record(i, request_id=f"request-{i // 2}", session="s" if i < 4 else f"t{i}") for i in range(6)])
    for name, expected in (("1", [1, 2, 3, 4]), ("request-1", [1, 2, 3, 4]), ("5", [5, 6])):
        out = printed(capsys, "show", name, "--conversation", "--json", "--data-dir", tmp_path)
        assert [json.loads(line)["seq"] for line in out.splitlines()] == expected


def test_export_as_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No cell begins as a formula does, no text has control characters, and every record is one row."""
    formula = '=HYPERLINK(1)\n\x1b[31m,"x"'
    write(tmp_path, [record(1, text=formula, user="@ann", model="-1", error="\uff1d1"), record(2, text="plain, text")])
    rows = list(csv.DictReader(printed(capsys, "export", "--format", "csv", "--data-dir", tmp_path).splitlines()))
    assert [row["number"] for row in rows] == ["1", "2"]
    assert rows[0]["text"] == '\'=HYPERLINK(1)\\n\\x1b[31m,"x"'
    assert (rows[0]["user"], rows[0]["model"], rows[0]["error"]) == ("'@ann", "'-1", "'\uff1d1")
    assert rows[1]["text"] == "plain, text"
    assert not [cell for row in rows for cell in row.values() if cell.startswith(tuple("=+-@"))]


def test_cells() -> None:
    """A cell is exactly as wide as asked, in terminal columns: a wide character takes two."""
    assert cell("abc", 5) == "abc  "
    assert cell("abcdef", 5) == "abcd…"
    assert cell("日本語の長い", 6) == "日本… "
    assert cell("\x1b" * 9, 6) == "\\x1b\\…"
    assert printable("a\u200bb\r\U000e0041") == "a\\u200bb\\r\\U000e0041"
    assert Table(80, []).header().split() == ["no.", "time", "side", "action", "categories", "text"]


TRICKS = (
    "\x1b]8;;http://evil.test\x1b\\click\x1b]8;;\x1b\\ \x1b[2J\x1b[1A\x9b31m \x07\x08\x7f\r over \x0b\x0c \x85"
    "\u2028\u2029 \u202egnp.exe\u202c \u2066x\u2069 \u200b\ufeff\U000e0041 \0 \ud800 \u115f\u3164\u2800 \ufffe"
)


@pytest.mark.parametrize("command", ["list", "show", "conversation", "stats", "tail", "csv", "jsonl"])
def test_no_record_controls_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Whatever a client put into a record, every line that is printed is visible text."""
    tricky = record(
        1,
        **dict.fromkeys(("text", "error", "model", "user", "session", "client", "route", "policy"), TRICKS),
        coverage=(Coverage(TRICKS, "user", "text", 5, judged=False, why=TRICKS),),
        reply=ReplyInfo(TRICKS, TRICKS),
        side="assistant",
    )
    write(tmp_path, [tricky])
    call("label", "1", "correct", "--by", TRICKS, "--note", TRICKS, "--data-dir", tmp_path)
    arguments = {
        "show": ("show", "1"),
        "conversation": ("show", "1", "--conversation"),
        "stats": ("stats", "--by", "user"),
        "csv": ("export", "--format", "csv"),
        "jsonl": ("export",),
    }.get(command, (command,))
    capsys.readouterr()
    for line in printed(capsys, *arguments, "--data-dir", tmp_path).split("\n"):
        assert [character for character in line if not is_visible(character)] == []
        line.encode()


def test_erasing_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An end user is found and erased by the name of which the store has the hash; a typing error is named."""
    place = ("--data-dir", tmp_path)
    write(tmp_path, [record(n, user=short_hash(b"alice@example.com") if n < 3 else "") for n in range(4)])
    assert len(printed(capsys, "export", "--user", "alice@example.com", *place).splitlines()) == 3
    assert "3 records from" in printed(capsys, "stats", "--user", "alice@example.com", *place)
    for command in (("list",), ("stats",), ("export",), ("delete", "--yes")):
        call(*command, "--user", "alcie", *place)
        assert f"no record has the user 'alcie', nor its hash {short_hash(b'alcie')}" in capsys.readouterr().err
    assert printed(capsys, "delete", "--user", "alice@example.com", "--yes", *place) == "3 records erased\n"
    assert printed(capsys, "verify", *place).startswith("5 rows, 3 of them erased: no row")
