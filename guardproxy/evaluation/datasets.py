"""Labelled data from files: guardproxy's own JSON lines, OpenAI's moderation set, ToxicChat, and plain CSV.

The first row decides the format, and every other row must have the same one. A missing label is unknown, never
negative: `unsafe` is None, and a category is absent.
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

# Mistakes reported per file before reading stops.
MAX_MISTAKES = 20

# The longest cell of a CSV file, in characters.
MAX_CELL = 10_000_000

# Category columns of a plain CSV file that are read without --columns, and the columns that are not categories.
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
_CELL_LABELS: Mapping[str, bool | None] = {
    "": None,
    "0": False,
    "0.0": False,
    "false": False,
    "1": True,
    "1.0": True,
    "true": True,
}


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """One labelled text: the check to ask, and the known part of its answer. `place` is `file:line`.

    In every measure the row counts as often as its `weight` says.
    """

    id: str
    place: str
    dataset: str
    check: Check
    unsafe: bool | None
    labels: Mapping[str, bool]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Dataset:
    """The rows of one file, its format (`kind`), and the columns that are not read."""

    name: str
    kind: str
    rows: tuple[LabelledRow, ...]
    unread: tuple[str, ...] = ()


# Keys that both forms of `guardproxy audit export` have.
_EXPORTED = frozenset({"id", "hash", "side", "outcome", "text"})
EXPORTED_CSV = (
    "as CSV an export lacks the probabilities of categories: use `guardproxy audit export --format jsonl -o FILE.jsonl`"
)


class _RowError(Exception):
    """A row cannot be read; the message says why."""


RawRow = Mapping[str, Any]
_Labelled = tuple[Check, bool | None, dict[str, bool]]


@dataclass(frozen=True, slots=True)
class _RowFormat:
    """How rows of one format are parsed, and the columns that are not read."""

    kind: str
    parse: Callable[[RawRow], _Labelled]
    unread: tuple[str, ...] = ()


def read(path: Path, columns: Mapping[str, str] | None = None, limit: int | None = None) -> Dataset:
    """The labelled rows of `path` (`.jsonl` or `.csv`, optionally `.gz`), at most the first `limit`.

    `columns` maps guardproxy's column names, categories included, to those of a plain CSV file. Raises ConfigError
    with up to MAX_MISTAKES mistakes, each as `file:line: what is wrong`; a file without rows is a mistake too.
    """
    name, kind = _name_and_kind(path)
    named = columns or {}
    problems: list[str] = []
    rows: list[LabelledRow] = []
    row_format: _RowFormat | None = None
    with _opened(path) as file:
        for line, raw in _raw_rows(file, kind):
            place = f"{path}:{line}"
            try:
                if isinstance(raw, _RowError):
                    raise raw
                row_format = row_format or _format_of(path, kind, raw, named)
                check, unsafe, labels = row_format.parse(raw)
                row_id = raw.get(named.get("id", "id"))
                rows.append(LabelledRow(str(row_id or line), place, name, check, unsafe, labels))
            except _RowError as error:
                problems.append(f"{place}: {error}")
            if len(problems) >= MAX_MISTAKES or len(rows) == limit:
                break
    if row_format is None and not problems:
        problems.append(f"{path}: has no rows")
    if row_format is None or problems:
        raise ConfigError(problems)
    return Dataset(name, row_format.kind, tuple(rows), row_format.unread)


def _name_and_kind(path: Path) -> tuple[str, str]:
    """The data set's name, and `jsonl` or `csv`. Raises ConfigError for any other ending."""
    base = path.name.removesuffix(".gz")
    for ending, kind in ((".jsonl", "jsonl"), (".csv", "csv")):
        if base.endswith(ending):
            return base.removesuffix(ending), kind
    raise ConfigError(f"{path}: the file name must end in .jsonl, .csv, .jsonl.gz or .csv.gz")


@contextmanager
def _opened(path: Path) -> Iterator[Iterable[bytes]]:
    """The file's lines. Raises ConfigError if it cannot be opened or decompressed."""
    try:
        with path.open("rb") as file:
            if path.suffix == ".gz":
                with gzip.open(file) as unpacked:
                    yield unpacked
            else:
                yield file
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _raw_rows(file: Iterable[bytes], kind: str) -> Iterator[tuple[int, RawRow | _RowError]]:
    """Each row with its first line's number, or the error of a row that cannot be parsed."""
    lines = _NumberedLines(file)
    try:
        yield from _json_rows(lines) if kind == "jsonl" else _csv_rows(lines)
    except UnicodeDecodeError as error:
        yield lines.number, _RowError(f"is not UTF-8: {error.reason}")
    except csv.Error as error:
        yield lines.number, _RowError(f"is not valid CSV: {error}")


def _json_rows(lines: "_NumberedLines") -> Iterator[tuple[int, RawRow | _RowError]]:
    for text in lines:
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield lines.number, _RowError(f"is not valid JSON: {error}")
            continue
        no_object = _RowError(f"must be a JSON object, not {type(value).__name__}")
        yield lines.number, value if isinstance(value, dict) else no_object


def _csv_rows(lines: "_NumberedLines") -> Iterator[tuple[int, RawRow | _RowError]]:
    csv.field_size_limit(MAX_CELL)
    reader = csv.DictReader(lines, strict=True)
    header = reader.fieldnames or ()
    for raw in reader:
        cells = list(raw.values())
        if len(raw) != len(header) or None in cells:
            yield lines.number, _RowError(f"must have {len(header)} cells, as the header has")
        else:
            # A quoted cell may span lines: the reader is at the row's last line.
            yield lines.number - sum(cell.count("\n") for cell in cells), raw


class _NumberedLines:
    """The lines of a file as text without its byte order mark; `number` is that of the last line read."""

    def __init__(self, file: Iterable[bytes]) -> None:
        self.number = 0
        self._file = iter(file)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self.number += 1
        return line.decode("utf-8-sig" if self.number == 1 else "utf-8")


def _format_of(path: Path, kind: str, first: RawRow, columns: Mapping[str, str]) -> _RowFormat:
    """The format of a file, by its first row.

    Raises ConfigError for wrong `columns` and for a file of `audit export`, _RowError for an unknown row.
    """
    if first.keys() >= _EXPORTED:
        lines = "read it with --from-audit" if kind == "jsonl" else EXPORTED_CSV
        raise ConfigError(f"{path}: is a file of `guardproxy audit export`; {lines}")
    if kind == "jsonl":
        if columns:
            raise ConfigError(f"{path}: --columns applies to .csv files only; leave it out")
        if "messages" in first:
            return _RowFormat("guardproxy", _parse_guardproxy)
        if "prompt" in first and any(label in first for label in OPENAI_LABELS):
            return _RowFormat("openai_moderation", _parse_openai)
        raise _RowError(f"a row needs `messages`, or `prompt` with any of {', '.join(OPENAI_LABELS)}")
    if not columns and {"user_input", "toxicity"} <= set(first):
        return _RowFormat("toxicchat", _parse_toxicchat)
    return _csv_format(path, first, columns)


# --- formats ---------------------------------------------------------------------------------------------------------


def _parse_guardproxy(raw: RawRow) -> _Labelled:
    items = raw.get("messages")
    if not isinstance(items, list) or not items:
        raise _RowError("messages: must be a list of at least one message")
    messages = tuple(_message(index, item) for index, item in enumerate(items))
    expected = "assistant" if messages[-1].role == "assistant" else "user"
    side = raw.get("side", expected)
    if side != expected:
        raise _RowError(f"side: {side!r} does not match the last message, whose role is {messages[-1].role!r}")
    labels = raw.get("labels", {})
    if not isinstance(labels, dict):
        raise _RowError("labels: must be an object of category: 1 or 0")
    known = {category: _json_label(f"labels.{category}", value) for category, value in labels.items()}
    if "jailbreaking" in raw:
        known.setdefault("jailbreak", _json_label("jailbreaking", raw["jailbreaking"]))
    if not messages[-1].text.strip():
        raise _RowError("messages: the last message, which is judged, is empty")
    check = Check(Conversation(messages), cast(Side, side))
    return check, _json_label("unsafe", raw.get("unsafe")), _without_unknown(known)


def _message(index: int, message: object) -> Message:
    where = f"messages[{index}]"
    if not isinstance(message, dict):
        raise _RowError(f"{where}: must be an object with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise _RowError(f"{where}.role: {role!r} is not one of {', '.join(_ROLES)}")
    if not isinstance(content, str):
        raise _RowError(f"{where}.content: must be a string, not {type(content).__name__}")
    return Message(role, (Part(f"{where}.content", content),))


def _parse_openai(raw: RawRow) -> _Labelled:
    """Parse a row of OpenAI's set. As in its published protocol, a row is unsafe if any of the eight labels is 1.

    If all eight labels are unknown, so is `unsafe`. violence_hate covers hate, violence and harassment, and is known
    to be absent only if both hate and violence are; the other two categories follow their own label.
    """
    text = raw.get("prompt")
    if not isinstance(text, str):
        raise _RowError("prompt: must be a string")
    values = {label: _json_label(label, raw.get(label)) for label in OPENAI_LABELS}
    labels = {
        "violence_hate": _any_label(values, ("H", "V", "H2", "V2", "HR"), ("H", "V")),
        "sexual_content": _any_label(values, ("S", "S3"), ("S",)),
        "suicide_self_harm": values["SH"],
    }
    known = [value for value in values.values() if value is not None]
    return _user_check(text), any(known) if known else None, _without_unknown(labels)


def _any_label(values: Mapping[str, bool | None], members: Sequence[str], decisive: Sequence[str]) -> bool | None:
    """True if any member is true, False if all `decisive` labels are known to be false, else None (unknown)."""
    if any(values[label] for label in members):
        return True
    return False if all(values[label] is False for label in decisive) else None


def _parse_toxicchat(raw: RawRow) -> _Labelled:
    """Parse a row of lmsys/toxic-chat: the user's text, `toxicity` as the overall label, `jailbreaking` if known."""
    labels = _without_unknown({"jailbreak": _csv_label("jailbreaking", raw.get("jailbreaking"))})
    return _user_check(raw["user_input"]), _csv_label("toxicity", raw["toxicity"]), labels


def _csv_format(path: Path, first: RawRow, columns: Mapping[str, str]) -> _RowFormat:
    """The format of plain CSV: the column `text`, and optionally `id`, `side`, `prompt`, `unsafe` and categories."""
    header = tuple(first)
    named = {ours: theirs for ours in (*COLUMNS, *CATEGORIES) if (theirs := columns.get(ours, ours)) in header}
    named |= columns
    problems = [f"{path}:1: has no column {theirs!r}" for theirs in columns.values() if theirs not in header]
    if "text" not in named:
        problems.append(f"{path}:1: no column is named text: name the column to judge with --columns text=COLUMN")
    if problems:
        raise ConfigError([f"{problem}; it has {', '.join(header)}" for problem in problems])
    categories = {ours: theirs for ours, theirs in named.items() if ours not in COLUMNS}

    def parse(raw: RawRow) -> _Labelled:
        side = raw[named["side"]] if "side" in named else "user"
        if side not in _SIDES:
            raise _RowError(f"side: {side!r} is neither user nor assistant")
        before = raw[named["prompt"]] if "prompt" in named else ""
        labels = _without_unknown({ours: _csv_label(theirs, raw[theirs]) for ours, theirs in categories.items()})
        unsafe = _csv_label(named["unsafe"], raw[named["unsafe"]]) if "unsafe" in named else None
        return _check(raw[named["text"]], cast(Side, side), before), unsafe, labels

    unread = tuple(name for name in header if name not in named.values())
    return _RowFormat("csv", parse, unread)


def _user_check(text: str) -> Check:
    return _check(text, "user", "")


def _check(text: str, side: Side, before: str) -> Check:
    """A check of `text`; the text `before` it, if any, is a message of the other side."""
    if not text.strip():
        raise _RowError("the text to judge is empty")
    other: Side = "assistant" if side == "user" else "user"
    earlier = [(other, before)] if before else []
    messages = tuple(
        Message(role, (Part(f"messages[{index}].content", content),))
        for index, (role, content) in enumerate([*earlier, (side, text)])
    )
    return Check(Conversation(messages), side)


def _json_label(name: str, value: object) -> bool | None:
    """A label of JSON: 1, 0, true, false, or null if unknown."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    raise _RowError(f"{name}: {value!r} is not a label; write 1, 0, or null if it is unknown")


def _csv_label(name: str, value: str | None) -> bool | None:
    """A label of CSV: 1, 0, true, false, or an empty cell if unknown."""
    text = (value or "").strip().lower()
    if text not in _CELL_LABELS:
        raise _RowError(f"{name}: {value!r} is not a label; write 1, 0, or leave it empty if it is unknown")
    return _CELL_LABELS[text]


def _without_unknown(labels: Mapping[str, bool | None]) -> dict[str, bool]:
    return {category: value for category, value in labels.items() if value is not None}
