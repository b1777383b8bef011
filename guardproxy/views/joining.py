"""Joining: the texts that readers make of the parts of a turn. Pure, time linear in the text.

The guard reads the parts as lines. Servers, chat templates and clients join the items of one list (content parts,
messages, output items) with nothing, a space or a newline, and leave out the parts of other kinds between them. Readers
of a stream also show the pieces of several texts in the order of their arrival, of all kinds or of some. A part is read
by itself as well, such as the arguments of a call behind a text, and so are the texts in it (`strings`): harm must not
be diluted by what is beside it.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, pairwise

from guardproxy.types import Message, Part
from guardproxy.views.strings import LEAST, is_content, may_have_strings, may_quote, quoted, strings

_INDEX = re.compile(r"\[\d+\]")
# The text of a list's item is joined whatever its key is.
_ITEM = re.compile(r"\[\](?:\.(?:text|input_text|output_text|refusal))?$")
# A call's arguments are never joined with those of another call.
_NEVER_JOINED = ("tool_call", "tool_definition")
# The end of a sentence after a word. Behind it, no separator makes other words or completes an encoding.
_SENTENCE = re.compile(r"[^\W\d_]{3}[.!?:…]+[\"'\u2019\u201d]*\Z")
_BRACKETS = ("]})>", "[{(<")
_TAIL = 16
# Fewer characters say too little by themselves; so does a text that announces a tool call.
_LEAST, _LEAST_ANNOUNCING = 20, 80
# Of more parts, or strings in parts, several adjacent ones are read together.
MOST_PARTS = 64
# The separators between the parts of one message, and between messages. The guard reads ("\n", "\n") anyway.
_SEPARATORS = (("", ""), ("", "\n"), (" ", " "))


def joined(message: Message) -> tuple[str, ...]:
    """Return the texts that readers make of the message's parts, other than `message.text`; without repetition.

    At most three: joined with nothing, with nothing inside each message of a turn, and with spaces; as many again if a
    list has reasoning and text, without the reasoning between texts. At a joint where every separator gives the same
    words (behind a sentence, at a line break, between brackets), all have a line break. Texts that have arrived in
    alternation follow in the order of arrival, once for every combination of the kinds that a reader tells apart.
    """
    parts = [part for part in message.parts if part.kind != "opaque" and part.text]
    texts = dict.fromkeys([message.text])
    for lists in _groupings(parts) if len(parts) > 1 else ():
        joints = [_joints(items) for items in lists]
        for inside, between in _SEPARATORS:
            texts["\n".join(_text(*pair, inside, between) for pair in zip(lists, joints, strict=True))] = None
    texts.update(dict.fromkeys(without_ends(interleaved(message.arrived), parts)))
    return tuple(texts)[1:]


def may_have_apart(message: Message) -> bool:
    """Whether `apart` may find anything. It takes no time worth measuring."""
    parts = message.parts
    return len(parts) > 1 or any(may_have_strings(part) or _may_have_values(message, part) for part in parts)


def apart(message: Message) -> tuple[str, ...]:
    """Return the texts of the message's parts, each by itself, the `strings` in them, and what they have `quoted`.

    Of the parts at most MOST_PARTS, none if a single part has text or all are short: more parts are taken together in
    groups of neighbours, one per line. Then come the short parts as one text, in lines and without a break, if together
    they are long enough. Of the strings, and of the texts with what a part has quoted, likewise at most MOST_PARTS. No
    text comes twice.
    """
    parts = [part for part in message.parts if part.kind != "opaque" and part.text.strip()]
    inside = [text for part in parts if may_have_strings(part) for text in strings(part)]
    values = [quoted(part.text) for part in parts if _may_have_values(message, part)]
    values = [text for text in values if len(text) >= LEAST]
    return tuple(dict.fromkeys([*_by_themselves(parts), *_grouped(inside), *_grouped(values)]))


def _may_have_values(message: Message, part: Part) -> bool:
    """Whether a part may quote texts that count: results of tools are mostly JSON, with prose from elsewhere."""
    quotes = part.kind == "text" and not may_have_strings(part) and may_quote(part.text)
    return quotes and message.role != "tool"


def _by_themselves(parts: Sequence[Part]) -> list[str]:
    announcing = _LEAST_ANNOUNCING if any(part.kind == "tool_call" for part in parts) else _LEAST
    texts: list[str] = []
    short: dict[int, list[str]] = {}
    for part in parts if len(parts) > 1 else ():
        least = announcing if is_content(part) else _LEAST
        (texts if len(part.text) >= least else short.setdefault(least, [])).append(part.text)
    if not texts:
        return []
    together = [(least, separator.join(some)) for least, some in short.items() for separator in ("\n", "") if some[1:]]
    return [*_grouped(texts), *(text for least, text in together if len(text) >= least)]


def _grouped(texts: Sequence[str]) -> list[str]:
    """At most MOST_PARTS texts: neighbours together if there are more, one per line."""
    size = -(-len(texts) // MOST_PARTS) or 1
    return ["\n".join(texts[start : start + size]) for start in range(0, len(texts), size)]


def interleaved(pieces: Sequence[Part]) -> tuple[str, ...]:
    """Return the texts of pieces in the order of arrival, one for every combination of their kinds."""
    kinds = dict.fromkeys(piece.shown_as for piece in pieces if piece.kind != "opaque")
    some = (shown for number in range(1, len(kinds) + 1) for shown in combinations(kinds, number))
    return tuple("".join(piece.text for piece in pieces if piece.shown_as in shown) for shown in some)


def without_ends(texts: Iterable[str], parts: Sequence[Part]) -> Iterator[str]:
    """Yield the texts with which no part ends."""
    return (text for text in texts if not any(part.text.endswith(text) for part in parts))


def _groupings(parts: Sequence[Part]) -> list[list[list[Part]]]:
    """Return the parts by the list that they are items of, and also without the reasoning among them.

    Gemini's clients leave out thoughts between two texts. No grouping in which every part is alone is returned.
    """
    lists: dict[str, list[Part]] = {}
    apart: dict[tuple[str, bool], list[Part]] = {}
    for part in parts:
        key = part.path if part.kind in _NEVER_JOINED else _list_of(part.path)
        lists.setdefault(key, []).append(part)
        apart.setdefault((key, part.kind == "reasoning"), []).append(part)
    groupings = [[*lists.values()]] if len(apart) == len(lists) else [[*lists.values()], [*apart.values()]]
    return [grouping for grouping in groupings if len(grouping) < len(parts)]


def _list_of(path: str) -> str:
    """Return the list that the part at `path` is an item of: the same for all items, whatever their messages."""
    return _ITEM.sub("", _INDEX.sub("[]", path))


def _joints(items: Sequence[Part]) -> list[str]:
    """Return, for each two adjacent items, how they meet: `line`, `space`, `inside` a message or `between` messages."""
    return [_joint(first, second) for first, second in pairwise(items)]


def _joint(first: Part, second: Part) -> str:
    left, right = first.text[-_TAIL:], second.text[0]
    if left[-1] == "\n" or right == "\n" or left[-1] in _BRACKETS[0] or right in _BRACKETS[1] or _SENTENCE.search(left):
        return "line"
    if left[-1].isspace() or right.isspace():
        return "space"
    return "inside" if _message_of(first.path) == _message_of(second.path) else "between"


def _message_of(path: str) -> str:
    return path[: path.find("]") + 1]


def _text(items: Sequence[Part], joints: Sequence[str], inside: str, between: str) -> str:
    separators = {"line": "\n", "space": "", "inside": inside, "between": between}
    out = [items[0].text]
    for part, joint in zip(items[1:], joints, strict=True):
        out += (separators[joint], part.text)
    return "".join(out)
