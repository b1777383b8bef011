"""The order in which a text is displayed where a right-to-left override turns it round. Pure, linear in the text.

After Unicode's bidirectional algorithm (UAX #9) for texts whose letters are written from left to right: each override,
embedding and isolate has a level, one with a right-to-left override an odd one, and what stands in it is turned round
once for every level.
"""

import re
from dataclasses import dataclass, field

_OVERRIDE = "\u202e"
_OPENING = "\u202a\u202b\u202d\u202e\u2066\u2067\u2068"
_PIECES = re.compile("[\u202a-\u202e\u2066-\u2069]|[^\u202a-\u202e\u2066-\u2069]+")
_PARAGRAPHS = re.compile("([\n\r\x1c-\x1e\x85\u2029])")
_DEEPEST = 125  # of UAX #9: what would be deeper has no effect


@dataclass(slots=True)
class _Run:
    """Neighbouring pieces of a level and of deeper ones, in their order at this level."""

    level: int
    pieces: "list[str | _Run]" = field(default_factory=list)
    turned: bool = False  # within the run that it is a piece of


def displayed(text: str) -> str:
    """`text` as a reader sees it, without the controls of its direction; the same where nothing is overridden."""
    if _OVERRIDE not in text:
        return text
    return "".join(_shown(paragraph) if _OVERRIDE in paragraph else paragraph for paragraph in _PARAGRAPHS.split(text))


def _shown(paragraph: str) -> str:
    """One paragraph: a control holds until its end at most."""
    levels, beyond = [0], 0
    runs = [_Run(0)]
    for match in _PIECES.finditer(paragraph):
        piece = match[0]
        if piece[0] in _OPENING:
            level = levels[-1] + 2 - (levels[-1] + (piece == _OVERRIDE)) % 2
            if level > _DEEPEST or beyond:
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
    """Close the runs that are deeper than `level`, and open one of it: `runs` ends with a run of `level`."""
    while runs[-1].level > level:
        inner = runs.pop()
        if runs[-1].level < level:
            runs.append(_Run(level))
        inner.turned = (inner.level - runs[-1].level) % 2 == 1
        runs[-1].pieces.append(inner)
    if runs[-1].level < level:
        runs.append(_Run(level))


def _flat(run: _Run) -> str:
    out: list[str] = []
    waiting: list[tuple[str | _Run, bool]] = [(run, False)]
    while waiting:
        piece, turned = waiting.pop()
        if isinstance(piece, str):
            out.append(piece[::-1] if turned else piece)
        else:
            turned ^= piece.turned
            waiting.extend((one, turned) for one in (piece.pieces if turned else reversed(piece.pieces)))
    return "".join(out)
