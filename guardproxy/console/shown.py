"""Texts, times and numbers as the page shows them. What a client wrote stays text: nothing of it acts. Pure."""

from dataclasses import dataclass
from datetime import datetime

from guardproxy.plaintext import is_visible
from guardproxy.types import SEVERITY, Decision, Reason, Span


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A stretch of a text: `hidden` for the name of a character that shows nothing or changes what is shown.

    `marked`: within the span that is pointed out. `left_out` says how many characters are not shown in this place.
    """

    text: str
    hidden: bool = False
    marked: bool = False
    left_out: int = 0


def pieces(text: str, span: Span | None = None, most: int | None = None) -> list[TextPiece]:
    """Divide a text at the bounds of a span and at characters that are not visible.

    Of a text of more than `most` characters only the beginning and what is around the beginning of the span are shown,
    each at most half as long.
    """
    start, end = span or (0, 0)
    found: list[TextPiece] = []
    last = 0
    for begin, stop in [*_stretches(len(text), start, most), (len(text), len(text))]:
        if begin > last:
            found.append(TextPiece("", left_out=begin - last))
        for low, high, marked in ((0, start, False), (start, end, True), (end, len(text), False)):
            found += _divided(text, max(begin, low), min(stop, high), marked)
        last = stop
    return [piece for piece in found if piece.text or piece.left_out]


def _stretches(length: int, start: int, most: int | None) -> list[Span]:
    """The stretches of a text that are shown."""
    if most is None or length <= most:
        return [(0, length)]
    half = most // 2
    second = min(max(half, start - half // 4), length - half)
    return [(0, half), (second, second + half)] if start > half else [(0, most)]


def _divided(text: str, begin: int, stop: int, marked: bool) -> list[TextPiece]:
    found: list[TextPiece] = []
    run = begin
    for at in range(begin, stop):
        if not _shows(text[at]):
            found += [TextPiece(text[run:at], False, marked), TextPiece(code(text[at]), True, marked)]
            run = at + 1
    return [*found, TextPiece(text[run:stop], False, marked)] if run < stop else found


def _shows(character: str) -> bool:
    """Whether a character is visible in a text of several lines."""
    return character in "\n\t" or is_visible(character)


def code(character: str) -> str:
    """The code point of a character, such as U+202E."""
    return f"U+{ord(character):04X}"


def plain(text: str) -> str:
    """A text on one line; characters that are not visible are written as their code points in brackets."""
    single = " ".join(text.split()) if text.isprintable() else text
    return "".join(_one_line(character) for character in single)


def _one_line(character: str) -> str:
    if character in "\n\t":
        return " "
    return character if _shows(character) else f"[{code(character)}]"


def excerpt(text: str, most: int = 140) -> str:
    """The beginning of a text on one line, and an ellipsis if there is more."""
    line = plain(text[: 2 * most]).strip()
    return line if len(line) <= most and len(text) <= 2 * most else f"{line[:most].rstrip()}…"


def worst_reasons(decision: Decision) -> list[Reason]:
    """For each category that reached a threshold the reason of its most severe action, most probable first."""
    worst: dict[str, Reason] = {}
    for reason in sorted(decision.reasons, key=lambda reason: SEVERITY[reason.action]):
        worst[reason.category] = reason
    return [worst[category] for category in decision.categories]


def moment(seconds: float) -> str:
    """A time in the zone of this machine."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def machine_time(seconds: float) -> str:
    """A time for programs (ISO 8601)."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def zone() -> str:
    """The name of this machine's time zone."""
    return datetime.now().astimezone().tzname() or "local time"


def chance(probability: float) -> str:
    """A probability with as many digits as it needs."""
    if 0 < probability < 0.001:
        return "<0.001"
    if 0.999 < probability < 1:
        return ">0.999"
    return f"{probability:.3f}" if probability < 0.1 else f"{probability:.2f}"


def share(part: float, whole: float) -> str:
    """A share in percent; empty without a whole."""
    if not whole:
        return ""
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{percent:.1f} %"


def seconds(value: float) -> str:
    """A length of time."""
    if value >= 10:
        return f"{value:.0f} s"
    return f"{value:.1f} s" if value >= 1 else f"{1000 * value:.0f} ms" if value >= 0.01 else f"{1000 * value:.1f} ms"


def clock(start: float, step: float) -> str:
    """The name of a period of `step` seconds: its day if it is one, else its time."""
    form = "%d %b" if step >= 86_400 else "%d %b %H:%M" if step > 3600 else "%H:%M"
    return datetime.fromtimestamp(start).astimezone().strftime(form)
