"""Labelled data from files: guardproxy's own JSON lines, OpenAI's moderation set, ToxicChat, and plain CSV.

What a file holds is recognised by its first row, and every other row must be of the same kind. A label that is not
there is unknown, never negative: None for the whole, absent for a category.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from guardproxy.errors import ConfigError
from guardproxy.types import Check, Conversation, Message, Part, Role, Side

# Mistakes told of one file before the reader gives up on it.
MISTAKES = 20

# The longest cell of a CSV file, in characters.
CELL = 10_000_000

# Columns of a plain CSV file that are read without being named, besides those that are no category.
CATEGORIES = (
    "violence_hate",
    "sexual_content",
    "criminal_planning",
    "guns_illegal_weapons",
    "regulated_substances",
    "suicide_self_harm",
    "jailbreak",
)
COLUMNS = ("id", "side", "prompt", "text", "unsafe")

# github.com/openai/moderation-api-release, README: the eight labels of samples-1680.jsonl.gz.
OPENAI_LABELS = ("S", "H", "V", "HR", "SH", "S3", "H2", "V2")

_ROLES: tuple[str, ...] = get_args(Role)
_SIDES: tuple[str, ...] = get_args(Side)
_CELLS: Mapping[str, bool | None] = {
    "": None,
    "0": False,
    "0.0": False,
    "false": False,
    "1": True,
    "1.0": True,
    "true": True,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled text: the check to ask, and what is known of its answer. `place` is `file:line`."""

    id: str
    place: str
    dataset: str
    check: Check
    unsafe: bool | None
    labels: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Dataset:
    """The rows of one file, its kind, and the columns of it that say nothing to this reader."""

    name: str
    kind: str
    rows: tuple[Row, ...]
    unread: tuple[str, ...] = ()


class _Wrong(Exception):
    """What is wrong with one row."""


Record = Mapping[str, Any]
_Known = tuple[Check, bool | None, dict[str, bool]]


@dataclass(frozen=True, slots=True)
class _Reader:
    """How rows of one kind are read, and the columns that it leaves unread."""

    kind: str
    parse: Callable[[Record], _Known]
    unread: tuple[str, ...] = ()


def read(path: Path, columns: Mapping[str, str] | None = None, limit: int | None = None) -> Dataset:
    """The labelled rows of `path` (`.jsonl` or `.csv`, either with `.gz`), the first `limit` of them.

    `columns` names the columns of a plain CSV file: ours to the file's, categories included. Raises ConfigError with
    the first mistakes, each as `file:line: what is wrong`, also where there is no row at all.
    """
    name, kind = _kind_of(path)
    named = columns or {}
    problems: list[str] = []
    rows: list[Row] = []
    reader: _Reader | None = None
    with _opened(path) as file:
        for line, record in _records(file, kind):
            place = f"{path}:{line}"
            try:
                if isinstance(record, _Wrong):
                    raise record
                reader = reader or _reader(path, kind, record, named)
                check, unsafe, labels = reader.parse(record)
                given = record.get(named.get("id", "id"))
                rows.append(Row(str(given or line), place, name, check, unsafe, labels))
            except _Wrong as wrong:
                problems.append(f"{place}: {wrong}")
            if len(problems) >= MISTAKES or len(rows) == limit:
                break
    if reader is None and not problems:
        problems.append(f"{path}: has no rows")
    if reader is None or problems:
        raise ConfigError(problems)
    return Dataset(name, reader.kind, tuple(rows), reader.unread)


def _kind_of(path: Path) -> tuple[str, str]:
    """The set's name, and `jsonl` or `csv`."""
    base = path.name.removesuffix(".gz")
    for ending, kind in ((".jsonl", "jsonl"), (".csv", "csv")):
        if base.endswith(ending):
            return base.removesuffix(ending), kind
    raise ConfigError(f"{path}: the name must end in .jsonl, .csv, .jsonl.gz or .csv.gz")


@contextmanager
def _opened(path: Path) -> Iterator[Iterable[bytes]]:
    """The file's lines. Raises ConfigError where it cannot be opened or unpacked."""
    try:
        with path.open("rb") as file:
            if path.suffix == ".gz":
                with gzip.open(file) as unpacked:
                    yield unpacked
            else:
                yield file
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _records(file: Iterable[bytes], kind: str) -> Iterator[tuple[int, Record | _Wrong]]:
    """Each record with the line that it begins in, or what is wrong there."""
    lines = _Lines(file)
    try:
        yield from _json_records(lines) if kind == "jsonl" else _csv_records(lines)
    except UnicodeDecodeError as error:
        yield lines.at, _Wrong(f"is not UTF-8: {error.reason}")
    except csv.Error as error:
        yield lines.at, _Wrong(f"is no CSV: {error}")


def _json_records(lines: "_Lines") -> Iterator[tuple[int, Record | _Wrong]]:
    for text in lines:
        if not text.strip():
            continue
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield lines.at, _Wrong(f"is no JSON: {error}")
            continue
        wrong = _Wrong(f"must be a JSON object, not {type(found).__name__}")
        yield lines.at, found if isinstance(found, dict) else wrong


def _csv_records(lines: "_Lines") -> Iterator[tuple[int, Record | _Wrong]]:
    csv.field_size_limit(CELL)
    reader = csv.DictReader(lines, strict=True)
    header = reader.fieldnames or ()
    for record in reader:
        cells = list(record.values())
        if len(record) != len(header) or None in cells:
            yield lines.at, _Wrong(f"must have {len(header)} cells, as the header has")
        else:
            yield lines.at - sum(cell.count("\n") for cell in cells), record


class _Lines:
    """The lines of a file as text, a byte order mark at its head left out; `at` is the number of the last one read."""

    def __init__(self, file: Iterable[bytes]) -> None:
        self.at = 0
        self._file = iter(file)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self.at += 1
        return line.decode("utf-8-sig" if self.at == 1 else "utf-8")


def _reader(path: Path, kind: str, first: Record, columns: Mapping[str, str]) -> _Reader:
    """What the file holds, by its first record. Raises ConfigError for columns, _Wrong for a record of no kind."""
    if kind == "jsonl":
        if columns:
            raise ConfigError(f"{path}: columns can be named in a .csv file only")
        if "messages" in first:
            return _Reader("guardproxy", _ours)
        if "prompt" in first and any(label in first for label in OPENAI_LABELS):
            return _Reader("openai_moderation", _openai)
        raise _Wrong(f"a row needs `messages` (ours), or `prompt` with any of {', '.join(OPENAI_LABELS)}")
    if not columns and {"user_input", "toxicity"} <= set(first):
        return _Reader("toxicchat", _toxicchat)
    return _plain(path, first, columns)


# --- the kinds of row ------------------------------------------------------------------------------------------------


def _ours(record: Record) -> _Known:
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _Wrong("messages: must be a list of one message or more")
    read_messages = tuple(_message(index, message) for index, message in enumerate(messages))
    spoken = "assistant" if read_messages[-1].role == "assistant" else "user"
    side = record.get("side", spoken)
    if side != spoken:
        raise _Wrong(f"side: {side!r} does not fit the last message, which is of role {read_messages[-1].role!r}")
    labels = record.get("labels", {})
    if not isinstance(labels, dict):
        raise _Wrong("labels: must be an object of category: 1 or 0")
    known = {category: _flag(f"labels.{category}", value) for category, value in labels.items()}
    if "jailbreaking" in record:
        known.setdefault("jailbreak", _flag("jailbreaking", record["jailbreaking"]))
    if not read_messages[-1].text.strip():
        raise _Wrong("messages: the last one, which is judged, is empty")
    check = Check(Conversation(read_messages), cast(Side, side))
    return check, _flag("unsafe", record.get("unsafe")), _given(known)


def _message(index: int, message: object) -> Message:
    where = f"messages[{index}]"
    if not isinstance(message, dict):
        raise _Wrong(f"{where}: must be an object with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise _Wrong(f"{where}.role: {role!r} is not one of {', '.join(_ROLES)}")
    if not isinstance(content, str):
        raise _Wrong(f"{where}.content: must be a string, not {type(content).__name__}")
    return Message(role, (Part(f"{where}.content", content),))


def _openai(record: Record) -> _Known:
    """A sample of OpenAI's set. Its overall label is that of the published protocol: any of the eight is 1. Where none
    of them is known, neither is it.

    violence_hate takes in hate, violence and harassment, and is known to be absent only where hate and violence both
    are; the other two follow their own label.
    """
    text = record.get("prompt")
    if not isinstance(text, str):
        raise _Wrong("prompt: must be a string")
    given = {label: _flag(label, record.get(label)) for label in OPENAI_LABELS}
    labels = {
        "violence_hate": _any(given, ("H", "V", "H2", "V2", "HR"), ("H", "V")),
        "sexual_content": _any(given, ("S", "S3"), ("S",)),
        "suicide_self_harm": given["SH"],
    }
    known = [value for value in given.values() if value is not None]
    return _question(text), any(known) if known else None, _given(labels)


def _any(given: Mapping[str, bool | None], members: Sequence[str], decisive: Sequence[str]) -> bool | None:
    """True where any member is; False where the decisive ones are known not to be; else unknown."""
    if any(given[label] for label in members):
        return True
    return False if all(given[label] is False for label in decisive) else None


def _toxicchat(record: Record) -> _Known:
    """A row of lmsys/toxic-chat: the user's text, `toxicity` for the whole, `jailbreaking` where it is given."""
    jailbreak = _cell("jailbreaking", record.get("jailbreaking"))
    return _question(record["user_input"]), _cell("toxicity", record["toxicity"]), _given({"jailbreak": jailbreak})


def _plain(path: Path, first: Record, columns: Mapping[str, str]) -> _Reader:
    """A reader of CSV by column name: `text`, and where they are there `id`, `side`, `prompt`, `unsafe`, categories."""
    header = tuple(first)
    named = {ours: theirs for ours in (*COLUMNS, *CATEGORIES) if (theirs := columns.get(ours, ours)) in header}
    named |= columns
    problems = [f"{path}:1: has no column {theirs!r}" for theirs in columns.values() if theirs not in header]
    if "text" not in named:
        problems.append(f"{path}:1: no column is named text: name the one that is judged (text=COLUMN)")
    if problems:
        raise ConfigError([f"{problem}; it has {', '.join(header)}" for problem in problems])
    categories = {ours: theirs for ours, theirs in named.items() if ours not in COLUMNS}

    def parse(record: Record) -> _Known:
        side = record[named["side"]] if "side" in named else "user"
        if side not in _SIDES:
            raise _Wrong(f"side: {side!r} is neither user nor assistant")
        before = record[named["prompt"]] if "prompt" in named else ""
        labels = _given({ours: _cell(theirs, record[theirs]) for ours, theirs in categories.items()})
        unsafe = _cell(named["unsafe"], record[named["unsafe"]]) if "unsafe" in named else None
        return _turn(record[named["text"]], cast(Side, side), before), unsafe, labels

    unread = tuple(name for name in header if name not in named.values())
    return _Reader("csv", parse, unread)


def _question(text: str) -> Check:
    return _turn(text, "user", "")


def _turn(text: str, side: Side, before: str) -> Check:
    """A check of `text`; what came before it was said by the other side."""
    if not text.strip():
        raise _Wrong("the text that is judged is empty")
    other: Side = "assistant" if side == "user" else "user"
    spoken = [(other, before)] if before else []
    messages = tuple(
        Message(role, (Part(f"messages[{index}].content", content),))
        for index, (role, content) in enumerate([*spoken, (side, text)])
    )
    return Check(Conversation(messages), side)


def _flag(name: str, value: object) -> bool | None:
    """A label of JSON: 1, 0, true, false, or null for unknown."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    raise _Wrong(f"{name}: {value!r} is no label: 1, 0, or null where it is unknown")


def _cell(name: str, value: str | None) -> bool | None:
    """A label of CSV: 1, 0, true, false, or nothing for unknown."""
    text = (value or "").strip().lower()
    if text not in _CELLS:
        raise _Wrong(f"{name}: {value!r} is no label: 1, 0, or nothing where it is unknown")
    return _CELLS[text]


def _given(labels: Mapping[str, bool | None]) -> dict[str, bool]:
    return {category: value for category, value in labels.items() if value is not None}
