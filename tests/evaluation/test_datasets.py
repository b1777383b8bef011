"""The readers of labelled data: every format, unknown labels, and mistakes with their line."""

import contextlib
import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.errors import ConfigError
from guardproxy.evaluation.datasets import read

OURS = {"id": "a", "side": "user", "messages": [{"role": "user", "content": "hello"}], "unsafe": 0, "labels": {}}


def written(folder: Path, name: str, *rows: Any) -> Path:
    """Write a file of JSON lines, compressed if its name ends in .gz."""
    data = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def mistakes(path: Path, **more: Any) -> list[str]:
    """The mistakes that reading a file reports, without the file's folder."""
    with pytest.raises(ConfigError) as caught:
        read(path, **more)
    return [problem.replace(f"{path.parent}/", "") for problem in caught.value.problems]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_our_own_rows(tmp_path: Path, name: str) -> None:
    """The reader gives conversation, side, and labels, which are true, false or unknown."""
    reply = {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}],
        "side": "assistant",
        "unsafe": None,
        "labels": {"violence_hate": 1, "sexual_content": 0, "criminal_planning": None},
        "jailbreaking": 1,
    }
    found = read(written(tmp_path, name, OURS, reply))
    assert (found.name, found.kind) == ("rows", "guardproxy")
    first, second = found.rows
    assert (first.id, first.unsafe, first.check.side, first.check.turn.text) == ("a", False, "user", "hello")
    assert (second.id, second.unsafe, second.check.side) == ("2", None, "assistant")
    assert [message.text for message in second.check.conversation.messages] == ["q", "r"]
    assert second.labels == {"violence_hate": True, "sexual_content": False, "jailbreak": True}


def test_openai_rows(tmp_path: Path) -> None:
    """The overall label is the published protocol's; a category is known only if its labels are."""
    known = {"S": 0, "H": 0, "V": 0, "HR": 0, "SH": 0, "S3": 0, "H2": 0, "V2": 0}
    rows = (
        {"prompt": "safe", **known},
        {"prompt": "harassing", "HR": 1},
        {"prompt": "half known", "H": 0, "SH": 0},
        {"prompt": "a minor", **known, "S": 1, "S3": 1},
        {"prompt": "unknown", **dict.fromkeys(known)},
    )
    found = read(written(tmp_path, "samples-1680.jsonl.gz", *rows))
    assert found.kind == "openai_moderation"
    assert [row.unsafe for row in found.rows] == [False, True, False, True, None]
    no = dict.fromkeys(("violence_hate", "sexual_content", "suicide_self_harm"), False)
    assert [row.labels for row in found.rows] == [
        no,
        {"violence_hate": True},
        {"suicide_self_harm": False},
        {**no, "sexual_content": True},
        {},
    ]


def test_toxicchat_rows(tmp_path: Path) -> None:
    """The reader gives the user's text with its toxicity and jailbreak label; no category is known."""
    path = tmp_path / "toxic-chat.csv"
    path.write_text(
        "conv_id,user_input,model_output,human_annotation,toxicity,jailbreaking,openai_moderation\n"
        '1,"a, ""b""\nc",out,True,1,0,"[]"\n2,d,out,False,0,,"[]"\n'
    )
    found = read(path)
    assert found.kind == "toxicchat"
    assert [(row.check.turn.text, row.unsafe, row.labels) for row in found.rows] == [
        ('a, "b"\nc', True, {"jailbreak": False}),
        ("d", False, {}),
    ]
    assert [row.place.rpartition(":")[2] for row in found.rows] == ["2", "4"]


def test_plain_csv_by_our_names(tmp_path: Path) -> None:
    """Columns with guardproxy's names are read, the others are listed as unread."""
    path = tmp_path / "own.csv"
    path.write_bytes(
        "\ufefftext,prompt,side,unsafe,violence_hate,note\nyes,how?,assistant,True,1.0,x\nhi,,user,,,y\n".encode()
    )
    found = read(path)
    assert (found.kind, found.unread) == ("csv", ("note",))
    first, second = found.rows
    assert [message.text for message in first.check.conversation.messages] == ["how?", "yes"]
    assert (first.check.side, first.unsafe, first.labels) == ("assistant", True, {"violence_hate": True})
    assert (second.check.side, second.unsafe, second.labels) == ("user", None, {})


def test_plain_csv_by_its_own_names(tmp_path: Path) -> None:
    """`columns` can name any column, also of the user's own categories, and overrides ToxicChat's format."""
    path = tmp_path / "own.csv"
    path.write_text("user_input,toxicity,spam\nhi,0,1\n")
    found = read(path, {"text": "user_input", "unsafe": "toxicity", "unwanted": "spam"})
    (row,) = found.rows
    assert (found.kind, row.unsafe, row.labels) == ("csv", False, {"unwanted": True})


def test_only_the_first_rows(tmp_path: Path) -> None:
    """Reading stops at the limit, so later mistakes are not reported."""
    assert len(read(written(tmp_path, "rows.jsonl", OURS, OURS, "{"), limit=2).rows) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "is not valid JSON"),
        ("5", "must be a JSON object, not int"),
        ({**OURS, "messages": []}, "messages: must be a list"),
        ({**OURS, "messages": [5]}, "messages[0]: must be an object"),
        ({**OURS, "messages": [{"role": "bot", "content": "x"}]}, "messages[0].role: 'bot' is not one of"),
        ({**OURS, "messages": [{"role": "user", "content": None}]}, "messages[0].content: must be a string"),
        ({**OURS, "messages": [{"role": "user", "content": " "}]}, "the last message, which is judged, is empty"),
        ({**OURS, "side": "assistant"}, "side: 'assistant' does not match the last message"),
        ({**OURS, "unsafe": "yes"}, "unsafe: 'yes' is not a label"),
        ({**OURS, "unsafe": 2}, "unsafe: 2 is not a label"),
        ({**OURS, "labels": [1]}, "labels: must be an object"),
        ({**OURS, "labels": {"x": 0.5}}, "labels.x: 0.5 is not a label"),
    ],
)
def test_mistakes_of_a_row_name_its_line(tmp_path: Path, row: Any, message: str) -> None:
    """Each mistake is reported with file and line."""
    (problem,) = mistakes(written(tmp_path, "rows.jsonl", OURS, row, OURS))
    assert problem.startswith("rows.jsonl:2: ")
    assert message in problem


def test_all_mistakes_at_once_up_to_twenty(tmp_path: Path) -> None:
    """Reading continues after a mistake and stops after twenty."""
    path = written(tmp_path, "rows.jsonl", OURS, *["{"] * 30)
    assert [problem.split(":")[1] for problem in mistakes(path)] == [str(line) for line in range(2, 22)]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("rows.txt", b"", "rows.txt: the file name must end in"),
        ("rows.jsonl", b"", "rows.jsonl: has no rows"),
        ("rows.jsonl", b'{"text": "a"}\n', "rows.jsonl:1: a row needs `messages`"),
        ("rows.jsonl", json.dumps(OURS).encode() + b"\n\xff\n", "rows.jsonl:2: is not UTF-8"),
        ("rows.jsonl.gz", b"no gzip", "rows.jsonl.gz: cannot be read"),
        ("rows.jsonl.gz", gzip.compress(b"{}" * 500, mtime=0)[:-9], "rows.jsonl.gz: cannot be read"),
        ("rows.csv", b"", "rows.csv: has no rows"),
        ("rows.csv", b"comment,unsafe\nx,1\n", "rows.csv:1: no column is named text"),
        ("rows.csv", b"text,unsafe\na,1\nb\n", "rows.csv:3: must have 2 cells"),
        ("rows.csv", b"text,unsafe\na,1\nb,1,2\n", "rows.csv:3: must have 2 cells"),
        ("rows.csv", b'text,unsafe\na,1\n"b"c,1\n', "rows.csv:3: is not valid CSV"),
        ("rows.csv", b"text,unsafe\na,1\nb,maybe\n", "rows.csv:3: unsafe: 'maybe' is not a label"),
        ("rows.csv", b"text,side\na,user\nb,system\n", "rows.csv:3: side: 'system' is neither"),
        ("rows.csv", b"text\na\n\xff\n", "rows.csv:3: is not UTF-8"),
        ("rows.csv", b"text\na\n  \n", "rows.csv:3: the text to judge is empty"),
    ],
)
def test_files_that_are_not_data(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    """Wrong names, formats, encodings and cells are reported with their place."""
    path = tmp_path / name
    path.write_bytes(data)
    assert mistakes(path)[0].startswith(message)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file is an error."""
    assert "cannot be read" in mistakes(tmp_path / "rows.jsonl")[0]


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    """A named column must exist, and JSON has no columns."""
    path = tmp_path / "rows.csv"
    path.write_text("text\nx\n")
    assert mistakes(path, columns={"unsafe": "bad"}) == ["rows.csv:1: has no column 'bad'; it has text"]
    assert (
        "--columns applies to .csv files only"
        in mistakes(written(tmp_path, "rows.jsonl", OURS), columns={"text": "x"})[0]
    )


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, st.sampled_from([None, 0, 1]), st.sampled_from([None, 0, 1])), min_size=1))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, ...]]) -> None:
    """Any texts and labels survive a round trip through JSON lines and CSV."""
    folder = tmp_path_factory.mktemp("data")
    ours = [
        {
            "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}],
            "unsafe": unsafe,
            "labels": {"violence_hate": label},
        }
        for prompt, text, unsafe, label in rows
    ]
    table = io.StringIO(newline="")
    writer = csv.writer(table, quoting=csv.QUOTE_ALL)
    writer.writerow(["prompt", "text", "unsafe", "violence_hate", "side"])
    writer.writerows([*row, "assistant"] for row in rows)
    path = folder / "rows.csv"
    path.write_bytes(table.getvalue().encode())
    for found in (read(written(folder, "rows.jsonl", *ours)), read(path)):
        got = [
            (
                *(message.text for message in row.check.conversation.messages),
                row.unsafe,
                row.labels.get("violence_hate"),
            )
            for row in found.rows
        ]
        assert got == [tuple(row) for row in rows]


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["a.jsonl", "a.csv", "a.jsonl.gz", "a.csv.gz"]))
def test_any_bytes_are_rows_or_a_mistake(tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str) -> None:
    """For any content of a file, the reader returns rows or raises ConfigError."""
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with contextlib.suppress(ConfigError):
        assert read(path).rows
