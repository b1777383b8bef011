"""Texts of configurations: settings, or mistakes with a line and a column. An input is the text."""

import json
import re
from functools import cache
from pathlib import Path

from guardproxy.app import catalogue
from guardproxy.errors import ConfigError
from guardproxy.settings import Catalogue, load_text
from tests.fuzz.choices import Choices
from tests.settings.test_load import TOKENS
from tests.settings.test_mistakes import PLANTED

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "config").glob("*.yaml"))
MORE = [
    *("&a [*a, *a]", "*a", "<<: *a", "[" * 40, "{a: " * 40, "- " * 40, "? ", "!!python/object:os.system x", "!!set {}"),
    *("1e400", "-0", ".inf", "0x10", "0o17", "1_000", "9" * 18, "9" * 300, "on", "1:30", "2026-01-01", "'", '"', "|\n"),
    *("${env:HOME}", "${env:}", "${env:NO SUCH}", "\u0000", "\ud800", "\ufeff", "\u2028", "\t", "embedded", "demo"),
    *(
        "7d",
        "-1",
        "0",
        "1.5",
        "true",
        "[]",
        "{}",
        "null",
        "[a, a]",
        "{a: 1, a: 2}",
        "module:attribute",
        "/no/such/file",
    ),
]
PLACE = re.compile(r"f\.yaml:(\d+):(\d+): .+")


@cache
def _lines() -> list[str]:
    """The lines of the files with every option, without the comments."""
    texts = [PLANTED, *(path.read_text() for path in FILES)]
    return [
        line for text in texts for line in text.splitlines(keepends=True) if line.strip() and line.strip()[0] != "#"
    ]


@cache
def _names() -> Catalogue:
    return catalogue(builtin_only=True)


def draw(choices: Choices) -> str:
    """Tokens of YAML and of the format; or a file with every option in which some stretches are others."""
    kind = choices.number(4)
    if kind == 0:
        return choices.text([*TOKENS, *MORE], 60)
    if kind == 1:
        return "".join(choices.one_of(_lines()) for _ in range(choices.number(40)))
    text = PLANTED if kind == 2 else choices.one_of(FILES).read_text()
    for _ in range(1 + choices.number(5)):
        start = choices.number(len(text) + 1)
        if choices.is_one_in(2):  # the value of a whole line
            start = text.find(": ", start) + 2
            end = text.find("\n", start)
        else:
            end = start + choices.number(24)
        text = text[:start] + choices.one_of([*TOKENS, *MORE, json.dumps(choices.text(MORE, 3))]) + text[end:]
    return text


def check(text: str) -> None:
    """Assert that the text is read, or that every mistake is one line with a place in the text."""
    lines = re.split("\r\n|[\n\r\x85\u2028\u2029]", text.removeprefix("\ufeff"))
    for problem in _problems(text):
        place = PLACE.fullmatch(problem)
        assert place, f"no place, or several lines: {problem!r}"
        assert 1 <= int(place[1]) <= len(lines), problem
        assert 1 <= int(place[2]) <= len(lines[int(place[1]) - 1]) + 1, problem


def _problems(text: str) -> list[str]:
    try:
        load_text(text, "f.yaml", {"HOME": "/root"}, _names())
    except ConfigError as error:
        return error.problems or ["no reason is given"]
    return []
