"""Prompt markers in a turn: the texts with which guard prompts separate turns, such as `<END CONVERSATION>`.

Control tokens in a turn have no effect, because they are encoded as ordinary text. Prompt markers *are* ordinary text:
a turn that contains a marker could end the conversation block, forge a turn or answer in place of the guard. Markers
are found in any case, width and spacing, and despite invisible characters. They are neutralised in the guard's copy
only: brackets become single guillemets, and guillemets enclose a role at the start of a line. A text without markers
stays unchanged.

`<s>`, `</s>` and `<think>` are not markers: HTML and reasoning models contain them, and as ordinary text they have no
effect.
"""

import re
import unicodedata

from guardproxy.types import Finding

INJECTION = "guard_injection"

# The most markers reported for a turn.
MAX_REPORTED = 8

# A line begins after any of these characters, or at the start of the text. Possessive quantifiers keep time linear.
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
_MARKER = re.compile(
    rf"<\s*+/?+\s*+(?:{_BLOCK}|{_TURN})\s*+>"
    r"|<\|[a-z][a-z0-9_]*+\|>"
    r"|<(?:bos|eos|pad)>"
    r"|\[\s*+/?+\s*+inst\s*+\]|<<\s*+/?+\s*+sys\s*+>>"
    rf"|(?P<phrase>{_PHRASE})"
    rf"|{_LINE}\*{{0,2}}(?P<role>{_ROLE})\*{{0,2}}\s*+:",
    re.IGNORECASE,
)

# Single guillemets and quilled brackets look like the originals but are different characters to a tokenizer.
_SOFT = str.maketrans("<>[]", "\u2039\u203a\u2045\u2046")


def markers(text: str) -> tuple[str, ...]:
    """Return the markers in `text` in order, without duplicates, in lower case and single-spaced."""
    folded = _fold(text)
    spelled = (" ".join(match.group().lower().split()) for match in _MARKER.finditer(folded))
    return tuple(dict.fromkeys(spelled))


def neutralise(text: str) -> str:
    """Neutralise the markers in `text`; return the same string if it has none."""
    pieces: list[str] = []
    done = 0
    for first, last, _ in _spans(text):
        pieces += [text[done:first], _soften(text[first:last])]
        done = last
    return "".join([*pieces, text[done:]]) if pieces else text


def neutralise_both(before: str, text: str) -> tuple[str, str]:
    """Neutralise two texts on consecutive lines of a prompt, including a marker that spans both."""
    edge = len(before)
    for first, last, end in _spans(f"{before}\n{text}") if before else ():
        if first < edge and end > edge + 1:
            tail = text[: max(0, last - edge - 1)]
            softened = _soften(before[first:last]) + before[last:]
            return neutralise(before[:first]) + softened, (tail and _soften(tail)) + neutralise(text[len(tail) :])
    return neutralise(before), neutralise(text)


def _spans(text: str) -> list[tuple[int, int, int]]:
    """Return (start, end, end of match) of each marker. A role ends after its name, the match after its colon."""
    folded = _fold(text)
    matches = list(_MARKER.finditer(folded))
    origins = _origins(text, folded) if matches else ()
    spans = ((*(match.span("role") if match["role"] else match.span()), match.end()) for match in matches)
    return [(origins[start], origins[stop - 1] + 1, origins[end - 1] + 1) for start, stop, end in spans]


def injections(text: str) -> tuple[Finding, ...]:
    """Return a finding of `guard_injection` for each marker in the judged text, with the marker as its label."""
    return tuple(Finding(INJECTION, 1.0, label=marker) for marker in markers(text)[:MAX_REPORTED])


def _soften(marker: str) -> str:
    """Neutralise a marker or a part of it: replace brackets, join a phrase with dots, enclose a role in brackets."""
    softened = unicodedata.normalize("NFKC", marker).translate(_SOFT)
    if softened[0] in "\u2039\u2045" or softened[-1] in "\u203a\u2046":
        return softened
    return "·".join(softened.split()) if " " in softened else f"\u2039{softened}\u203a"


def _fold(text: str) -> str:
    """Return `text` as a reader sees it: compatibility forms resolved, accents and invisible characters removed."""
    return text if text.isascii() else text.translate({ord(char): _folded(char) for char in set(text)})


def _folded(char: str) -> str:
    if char.isascii():
        return char
    return "".join(part for part in unicodedata.normalize("NFKD", char) if not _invisible(part))


def _invisible(char: str) -> bool:
    if char in "\u115f\u1160\u3164":  # fillers, which Unicode classifies as letters
        return True
    return unicodedata.category(char) in {"Mn", "Me", "Cf", "Cc"} and not char.isspace()


def _origins(text: str, folded: str) -> range | list[int]:
    """Return the index in `text` from which each character of `folded` comes."""
    if folded is text:
        return range(len(text))
    widths = {char: len(_folded(char)) for char in set(text)}
    return [index for index, char in enumerate(text) for _ in range(widths[char])]
