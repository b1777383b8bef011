"""The texts in a tool call, and in other JSON that a message has beside what it says. Pure, time linear in the text.

A guard reads a sentence among names, brackets and quotes as code, and harm in it as less likely. So every string that
reads like a sentence is a text by itself, and so are the short ones together: a sentence can be a list of words. What
may have been cut off, as in a stream, is read as far as it has come.
"""

import json
import re
from collections.abc import Iterable, Iterator

from guardproxy.types import Part

# Fewer characters say too little by themselves. Most windows of a guard on more characters have nothing but the text.
LEAST, MOST = 20, 1000
# Fewer words together, each of a short string or of a name, are the usual values of a call.
_WORDS = 5
_DEPTH = 3  # of JSON in the strings of JSON

_JSON = re.compile(r"^[ \t]*[\[{]", re.MULTILINE)
_STRING = re.compile(r'"((?:[^"\\]++|\\.)*+)(?:"\s*+(:?)|\\?\Z)', re.DOTALL)
_SPACE = re.compile(r"\s")
_SIGNS = re.compile(r"[_\-.:/]+")
_CONTENT = re.compile(r"(?:^|\.)(?:content|parts)(?:\[\d+\])?(?:\.text)?$")


def is_content(part: Part) -> bool:
    """Whether a part is what the message says, in any protocol, and not a call, an id, an annotation or the like."""
    return part.kind == "text" and _CONTENT.search(part.path) is not None


def may_have_strings(part: Part) -> bool:
    """Whether `strings` may find anything in a part. It takes no time worth measuring."""
    return part.kind == "tool_call" or (part.kind == "text" and not is_content(part) and _is_json(part.text))


def strings(part: Part) -> Iterator[str]:
    """Yield the texts of a part that `may_have_strings`: a call's name, strings of LEAST to MOST characters, the rest.

    The rest are the shorter values, together, with spaces between them. Strings of ASCII without white space, such as
    addresses and data, are no texts; the words of a name are separated at signs.
    """
    start = _JSON.search(part.text)
    if start is None:
        return
    short: list[str] = []
    values = _literals(part.text[start.start() :], _DEPTH)
    for value, is_key in ((_words_of(part.text[: start.start()].strip()), True), *values):
        if LEAST <= len(value) <= MOST and (not value.isascii() or _SPACE.search(value.strip())):
            yield value
        elif len(value) < LEAST and not is_key:
            short.append(value)
    if sum(word.isalpha() for word in " ".join(short).split()) >= _WORDS:
        yield from _together(short)


def _is_json(text: str) -> bool:
    return text.lstrip()[:1] in {"[", "{"}


def _words_of(name: str) -> str:
    """The words of a call's name; empty if they are few, as they usually are."""
    words = name if _SPACE.search(name) else _SIGNS.sub(" ", name).strip()
    return words if words.count(" ") >= _WORDS - 1 else ""


def _together(short: Iterable[str]) -> Iterator[str]:
    """The texts with spaces between them, in pieces of at most MOST characters and at least LEAST."""
    piece = ""
    for text in short:
        if len(piece) + 1 + len(text) > MOST:
            yield piece
            piece = ""
        piece += f" {text}" if piece else text
    if len(piece) >= LEAST:
        yield piece


def _literals(text: str, depth: int) -> Iterator[tuple[str, bool]]:
    """The string literals of a JSON text and of the JSON texts in them, and whether each is a key."""
    for found in _STRING.finditer(text):
        value = _unescaped(found[1])
        if depth > 1 and _is_json(value):
            yield from _literals(value, depth - 1)
        else:
            yield value, bool(found[2])


def _unescaped(literal: str) -> str:
    try:
        value = str(json.loads(f'"{literal}"', strict=False))
    except ValueError:  # it is no JSON, or its last escape is cut off
        return literal
    # A guard cannot be given half of a pair, such as an emoji of which only the first escape has come.
    return value.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "replace")
