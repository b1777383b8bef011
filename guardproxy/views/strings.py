"""The texts in a tool call, in other JSON beside what a message says, and in data within that. Pure, in linear time.

A guard reads a sentence among names, brackets and quotes as code, and harm in it as less likely. So every string of a
call that reads like a sentence is a text by itself, and so are the short ones together: a sentence can be a list of
words. Those in the content of a message are one text: content is long, and comes piece by piece. What may have been cut
off, as in a stream, is read as far as it has come.
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice

from guardproxy.types import Part

# Fewer characters say too little by themselves. Most windows of a guard on more characters have nothing but the text.
LEAST, MOST = 20, 1000
# Fewer words together, each of a short string or of a name, are the usual values of a call.
_WORDS = 5
_DEPTH = 3  # of JSON in the strings of JSON

_JSON = re.compile(r"^[ \t]*[\[{]", re.MULTILINE)
_STRING = re.compile(r'"((?:[^"\\]++|\\.)*+)(?:"\s*+(:?)|\\?\Z)', re.DOTALL)
_SPACE = re.compile(r"\s")
_NO_BRACES = str.maketrans("", "", "{}")
# Each mark that may begin a string of JSON or code, with the mark that ends it; the last two are curved.
_ENDS = {'"""': '"""', "'''": "'''", '"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019"}
_MARKS = "".join(_ENDS) + "".join(_ENDS.values())
_MARK = re.compile("|".join(_ENDS))
# Two of a mark within a string are one in SQL and CSV.
_DOUBLED = ('"', "'")
_REST = {
    mark: re.compile(
        rf"((?:[^{end[0]}\\]++|\\.|{2 * end if mark in _DOUBLED else f'(?!{end}){end[0]}'})*+)(?:{end}|\\?\Z)",
        re.DOTALL,
    )
    for mark, end in _ENDS.items()
}
_STATEMENT_BEFORE = re.compile(r"(?:\A|[\n;{])[ \t]{0,64}(?:return|yield|raise|throw|echo|puts|print|say)[ \t]{1,8}\Z")
# A command of LaTeX, what stands in its brackets, and its argument unless that has commands itself.
_COMMAND = re.compile(r"\\([A-Za-z]++)\*?(?:\[([^]\n]{0,300})\])?(?:\{([^{}\\]*+)\}?+)?")
_LAYOUT = re.compile(r"\\(?:begin|item|chapter|(?:sub)*section|paragraph)\b")
_WORD = re.compile(r"\\(?!begin|end)[A-Za-z]++\*?\{[^\W\d_]{2,}[.,;:!?]?\}")
_CELL = re.compile(r"\\\\|&|\n")
_LETTERS_BEFORE = re.compile(r"(?<!\w)(?:[fFrRbBuU]{1,2}|String\.raw)\Z")
_NAME_BEFORE = re.compile(r"(?:\A|[{,(\n])[ \t]{0,64}[\w.$-]{1,64}\Z")
_COLON = re.compile(r"\s*+:")
_TAG = re.compile(r"</?[A-Za-z][^<>]*+>")
_BETWEEN_TAGS = re.compile(r"(?<=>)[^<>]++(?=<)")
_SIGNS = re.compile(r"[_\-.:/]+")
_CONTENT = re.compile(r"(?:^|\.)(?:content|parts|prompt|input|choices(?=\[\d+\]\.text$))(?:\[\d+\])?(?:\.text)?$")


def is_content(part: Part) -> bool:
    """Whether a part is what the message says, in any protocol, and not a call, an id, an annotation or the like."""
    return part.kind == "text" and _CONTENT.search(part.path) is not None


def may_have_strings(part: Part) -> bool:
    """Whether `strings` may find anything in a part. It takes no time worth measuring."""
    return part.kind == "tool_call" or (part.kind == "text" and not is_content(part) and _is_json(part.text))


def may_quote(text: str) -> bool:
    """Whether `quoted` may find anything in a text."""
    return any(sign in text for sign in (*_ENDS, "<", "\\"))


def quoted(text: str) -> str:
    """The texts that data or code in a text has as values, one per line; empty if none is longer than a few words.

    A value is a string behind a bracket, an operator, a statement such as `return`, or a comma or a colon that stands
    behind a string, a number or the name of a field; what stands between two tags; what a reader of LaTeX sees.
    What prose quotes is none: a threat in a story is no threat.
    """
    values = [value for value, is_key in _values(text, _DEPTH) if not is_key or _is_text(value)]
    if _TAG.search(text):
        values += [found.strip() for found in _BETWEEN_TAGS.findall(text) if _is_text(found.strip())]
    if "\\" in text:
        values += [found.strip() for found in _texts_of_latex(text) if _is_text(found.strip())]
    if any(map(_is_text, values)) or sum(word.isalpha() for value in values for word in value.split()) >= _WORDS:
        return "\n".join(values)
    return ""


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
        if len(value) <= MOST and _is_text(value):
            yield value
        elif len(value) < LEAST and not is_key:
            short.append(value)
    if sum(word.isalpha() for word in " ".join(short).split()) >= _WORDS:
        yield from _together(short)


def _is_text(value: str) -> bool:
    """Whether a string is long enough, with white space or other signs than ASCII: addresses and data are no texts."""
    return len(value) >= LEAST and (not value.isascii() or _SPACE.search(value.strip()) is not None)


def _values(text: str, depth: int) -> Iterator[tuple[str, bool]]:
    """The strings in JSON and code within a text, and in the JSON in them, and whether each is a key.

    One that another kind of quotation mark surrounds is read as well, so that a mark without an end hides none.
    """
    for begin, stop in _begins(text):
        if found := _REST[begin.group()].match(text, begin.end(), stop):
            mark, literal = begin.group(), found[1]
            if mark in _DOUBLED and 2 * mark in literal:
                literal = literal.replace(2 * mark, "'" if mark == "'" else '\\"')
            if mark != '"' and "\\" in literal:
                literal = literal.replace(f"\\{mark}", mark).replace('"', '\\"')
            value = _unescaped(literal)
            if depth > 1 and _is_json(value):
                yield from _values(value, depth - 1)
            else:
                yield value, _COLON.match(text, found.end()) is not None


def _begins(text: str) -> list[tuple[re.Match[str], int]]:
    """The marks that begin strings of JSON or code, and where each string ends at the latest.

    A string in curved marks ends where the next one begins: it may have no end, and would be read anew at each mark.
    """
    begins: list[tuple[re.Match[str], int]] = []
    marks = [begin for begin in _MARK.finditer(text) if _is_value(text, begin.start())]
    curved: dict[str, int] = {}
    for begin in reversed(marks):
        mark = begin.group()
        begins.append((begin, curved.get(mark, len(text))))
        if _ENDS[mark] != mark:
            curved[mark] = begin.start()
    return begins[::-1]


def _texts_of_latex(text: str) -> Iterator[str]:
    """Each line and cell that a reader of LaTeX sees; the long arguments of commands alone if nothing else is laid out.

    Long arguments are lines of their own. A text is laid out if it has a list, a section or the like, or if single
    words of it are arguments.
    """
    is_laid_out = _LAYOUT.search(text) is not None or next(islice(_WORD.finditer(text), _WORDS - 1, None), None)
    seen, end = [], 0
    for command in _COMMAND.finditer(text):
        name, option, argument = command.groups(default="")
        if is_laid_out:
            seen.append(text[end : command.start()])
            end = command.end()
        if name not in ("begin", "end"):
            seen += [f"\n{one}\n" if _is_text(one) else one for one in (option, argument)]
    if is_laid_out:
        seen.append(text[end:])
    yield from _CELL.split("".join(seen).translate(_NO_BRACES))


def _is_value(text: str, start: int) -> bool:
    """Whether the quotation mark at `start` begins a string of JSON or code, by what stands before it."""
    if (letters := _LETTERS_BEFORE.search(text, max(0, start - 12), start)) is not None:
        start = letters.start()
    end = _end_before(text, start)
    sign = text[end - 1 : end]
    if sign in (",", ":"):
        behind = _end_before(text, end - 1)
        before = text[behind - 1 : behind]
        named = sign == ":" and _NAME_BEFORE.search(text, max(0, behind - 130), behind) is not None
        return before != "" and (before in _MARKS or before in "]}" or before.isdigit() or named)
    if sign.isalpha():
        return end < start and _STATEMENT_BEFORE.search(text, max(0, start - 90), start) is not None
    return sign != "" and sign in "[({=+"


def _end_before(text: str, end: int) -> int:
    """The end of what stands before a place, without white space."""
    while end and text[end - 1].isspace():
        end -= 1
    return end


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
    if literal.isascii() and "\\" not in literal:
        return literal
    try:
        value = str(json.loads(f'"{literal}"', strict=False))
    except ValueError:  # it is no JSON, or its last escape is cut off
        return literal
    # A guard cannot be given half of a pair, such as an emoji of which only the first escape has come.
    return value.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "replace")
