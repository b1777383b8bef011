"""What a turn may not say to a guard: the marks by which prompts tell one turn from the next.

Control tokens in a turn are encoded as ordinary text, so they have no power; these marks *are* ordinary text, and a
turn that holds one could close the conversation block, forge a turn or answer in the guard's place. They are found
whatever their case, width, spacing or invisible filling, and made harmless in the guard's copy alone: the brackets
of `<END CONVERSATION>` become single guillemets, and a role at the start of a line is set in them. A text without a
mark is left exactly as it is.

`<s>`, `</s>` and `<think>` are no marks: HTML and reasoning models write them, and as ordinary text they do nothing.
"""

import re
import unicodedata

from guardproxy.types import Finding

INJECTION = "guard_injection"

# A turn with more different marks than this is reported by the first ones.
MAX_REPORTED = 8

# A line may begin after any of these, or at the start of the text. Quantifiers are possessive: time stays linear.
_LINE = r"(?<![^\n\r\v\f\x1c-\x1e\x85\u2028\u2029])[ \t]*+"
_BLOCK = r"(?:begin|end)\s++(?:conversation|unsafe\s++content\s++categories|(?:safety|refusal)\s++policy)"
_TURN = r"(?:start|end)_of_(?:turn|conversation|risk_definition|role)"
_ROLE = (
    r"(?:user|agent|assistant|human\s++user|ai\s++assistant|human\s++question|chatbot\s++response"
    r"|(?:user|assistant)\s++message|harmful\s++(?:request|response)|response\s++refusal"
    r"|safety(?=\s*+:\s*+(?:safe|unsafe|controversial)\b)|refusal(?=\s*+:\s*+(?:yes|no)\b))"
)
_PHRASE = (
    r"provide\s++your\s++safety\s++assessment|task:\s++check\s++if\s++there\s++is\s++unsafe\s++content"
    r"|our\s++safety\s++(?:principle|risk\s++definition)\s++is\s++defined"
)
_MARK = re.compile(
    rf"<\s*+/?+\s*+(?:{_BLOCK}|{_TURN})\s*+>"
    r"|<\|[a-z][a-z0-9_]*+\|>"
    r"|<(?:bos|eos|pad)>"
    r"|\[\s*+/?+\s*+inst\s*+\]|<<\s*+/?+\s*+sys\s*+>>"
    rf"|(?P<phrase>{_PHRASE})"
    rf"|{_LINE}\*{{0,2}}(?P<role>{_ROLE})\*{{0,2}}\s*+:",
    re.IGNORECASE,
)

# Single guillemets and quilled brackets: like the originals to a reader, other characters to a tokenizer.
_SOFT = str.maketrans("<>[]", "\u2039\u203a\u2045\u2046")


def markers(text: str) -> tuple[str, ...]:
    """The marks in `text`, each once, in lower case and single-spaced, in the order in which they stand."""
    folded = _fold(text)
    found = (" ".join(match.group().lower().split()) for match in _MARK.finditer(folded))
    return tuple(dict.fromkeys(found))


def neutralise(text: str) -> str:
    """`text` with its marks made harmless; the same string where it has none."""
    pieces: list[str] = []
    done = 0
    for first, last, _ in _spans(text):
        pieces += [text[done:first], _soften(text[first:last])]
        done = last
    return "".join([*pieces, text[done:]]) if pieces else text


def neutralise_both(before: str, text: str) -> tuple[str, str]:
    """Two texts that stand on neighbouring lines of a prompt, also without the marks that only both together hold."""
    edge = len(before)
    for first, last, end in _spans(f"{before}\n{text}") if before else ():
        if first < edge and end > edge + 1:
            tail = text[: max(0, last - edge - 1)]
            softened = _soften(before[first:last]) + before[last:]
            return neutralise(before[:first]) + softened, (tail and _soften(tail)) + neutralise(text[len(tail) :])
    return neutralise(before), neutralise(text)


def _spans(text: str) -> list[tuple[int, int, int]]:
    """Where the marks begin and end, of a role its name alone; and where all that makes it a mark ends."""
    folded = _fold(text)
    found = list(_MARK.finditer(folded))
    places = _places(text, folded) if found else ()
    spans = ((*(match.span("role") if match["role"] else match.span()), match.end()) for match in found)
    return [(places[start], places[stop - 1] + 1, places[end - 1] + 1) for start, stop, end in spans]


def injections(text: str) -> tuple[Finding, ...]:
    """One finding of `guard_injection` for each mark in the judged text, its `label` the mark."""
    return tuple(Finding(INJECTION, 1.0, label=mark) for mark in markers(text)[:MAX_REPORTED])


def _soften(mark: str) -> str:
    """The mark, or its part, with look-alike brackets; a phrase with its words run together; a role in brackets."""
    kept = unicodedata.normalize("NFKC", mark).translate(_SOFT)
    if kept[0] in "\u2039\u2045" or kept[-1] in "\u203a\u2046":
        return kept
    return "·".join(kept.split()) if " " in kept else f"\u2039{kept}\u203a"


def _fold(text: str) -> str:
    """`text` as a reader sees it: compatibility forms resolved, marks and invisible characters left out."""
    return text if text.isascii() else text.translate({ord(char): _shape(char) for char in set(text)})


def _shape(char: str) -> str:
    if char.isascii():
        return char
    return "".join(part for part in unicodedata.normalize("NFKD", char) if not _invisible(part))


def _invisible(char: str) -> bool:
    if char in "\u115f\u1160\u3164":  # fillers that count as letters
        return True
    return unicodedata.category(char) in {"Mn", "Me", "Cf", "Cc"} and not char.isspace()


def _places(text: str, folded: str) -> range | list[int]:
    """For each character of `folded`, the index in `text` that it comes from."""
    if folded is text:
        return range(len(text))
    widths = {char: len(_shape(char)) for char in set(text)}
    return [index for index, char in enumerate(text) for _ in range(widths[char])]
