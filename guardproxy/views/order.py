"""The order in which a text with right-to-left overrides is displayed. Pure, time linear in the text.

This follows Unicode's bidirectional algorithm (UAX #9) for texts in left-to-right scripts. Each override, embedding and
isolate has a level; a right-to-left override has an odd level. Text of level n is reversed n times, together with the
deeper text inside it (rule L2).
"""

import re
from dataclasses import dataclass, field

_OVERRIDE = "\u202e"
_OPENING = "\u202a\u202b\u202d\u202e\u2066\u2067\u2068"
_PIECES = re.compile("[\u202a-\u202e\u2066-\u2069]|[^\u202a-\u202e\u2066-\u2069]+")
_PARAGRAPHS = re.compile("([\n\r\x1c-\x1e\x85\u2029])")
_MAX_LEVEL = 125  # max_depth of UAX #9: controls beyond it have no effect


@dataclass(slots=True)
class _Run:
    """Consecutive pieces of a level, and runs of deeper levels between them, in their order at this level."""

    level: int
    pieces: "list[str | _Run]" = field(default_factory=list)
    backwards: bool = False  # relative to the run that contains it


def displayed(text: str) -> str:
    """Return `text` as it is displayed, without bidirectional controls; unchanged if it has no override."""
    if _OVERRIDE not in text:
        return text
    return "".join(_shown(paragraph) if _OVERRIDE in paragraph else paragraph for paragraph in _PARAGRAPHS.split(text))


def _shown(paragraph: str) -> str:
    """Return a paragraph as it is displayed. Every control ends with its paragraph."""
    levels, beyond = [0], 0
    runs = [_Run(0)]
    for match in _PIECES.finditer(paragraph):
        piece = match[0]
        if piece[0] in _OPENING:
            level = levels[-1] + 2 - (levels[-1] + (piece == _OVERRIDE)) % 2
            if level > _MAX_LEVEL or beyond:
                beyond += 1
            else:
                levels.append(level)
        elif piece in "\u202c\u2069":
            if beyond:
                beyond -= 1
            elif len(levels) > 1:
                levels.pop()
        else:
            _settle(runs, levels[-1])
            runs[-1].pieces.append(piece)
    _settle(runs, 0)
    return _flat(runs[0])


def _settle(runs: list[_Run], level: int) -> None:
    """Close runs deeper than `level`, and open a run of `level` if needed, so that `runs` ends with such a run."""
    while runs[-1].level > level:
        inner = runs.pop()
        if runs[-1].level < level:
            runs.append(_Run(level))
        inner.backwards = (inner.level - runs[-1].level) % 2 == 1
        runs[-1].pieces.append(inner)
    if runs[-1].level < level:
        runs.append(_Run(level))


def _flat(run: _Run) -> str:
    out: list[str] = []
    stack: list[tuple[str | _Run, bool]] = [(run, False)]
    while stack:
        piece, backwards = stack.pop()
        if isinstance(piece, str):
            out.append(piece[::-1] if backwards else piece)
        else:
            backwards ^= piece.backwards
            stack.extend((inner, backwards) for inner in (piece.pieces if backwards else reversed(piece.pieces)))
    return "".join(out)
