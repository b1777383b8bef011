"""Charts as SVG, made without script: numbers in, shapes out. The tables beside them carry the same numbers. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log10
from typing import Final

ACTIONS: Final = ("block", "rewrite", "flag", "pass")
"""The actions from the most severe one, as charts stack them."""
_LABEL: Final = 145.0  # the width of a label below a chart, with room beside it


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, in the units of its chart. `kind` chooses the colour, `title` says what it counts."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Boxes and lines in a frame of `width` by `height`; `ticks` lie on the vertical axis, `labels` below."""

    width: float
    height: float
    boxes: Sequence[Box] = ()
    ticks: Sequence[Tick] = ()
    labels: Sequence[Tick] = ()
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]] = ()
    """Kind and points of each line."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a stacked chart: counts by kind, its name, and the address that it leads to."""

    name: str
    counts: Mapping[str, int]
    link: str = ""


def stacked(columns: Sequence[Column], kinds: Sequence[str], width: float = 720, height: float = 180) -> Chart:
    """Columns of stacked counts, the first kind lowest."""
    most = max((sum(column.counts.get(kind, 0) for kind in kinds) for column in columns), default=0)
    top = round_up(most)
    step = width / max(len(columns), 1)
    gap = min(2.0, step / 5)
    boxes: list[Box] = []
    for index, column in enumerate(columns):
        y = height
        for kind in kinds:
            count = column.counts.get(kind, 0)
            size = height * count / top
            if count:
                y -= size
                title = f"{column.name}: {count:,} {kind}"
                boxes.append(Box(index * step + gap / 2, y, step - gap, size, kind, title, column.link))
    names = [column.name for column in columns]
    return Chart(width, height, boxes, _ticks(top, height), _labels(names, width))


def rates(
    names: Sequence[str],
    shares: Sequence[tuple[int, int]],
    links: Sequence[str] = (),
    *,
    width: float = 720,
    height: float = 110,
) -> Chart:
    """Columns of shares in percent, of (part, whole) for each name; nothing where the whole is 0."""
    top = round_up(max((100 * part / whole for part, whole in shares if whole), default=0.0))
    step = width / max(len(names), 1)
    gap = min(2.0, step / 5)
    boxes: list[Box] = []
    for index, (part, whole) in enumerate(shares):
        if part:
            percent = 100 * part / whole
            size = height * percent / top
            title = f"{names[index]}: {percent:.1f} %, {part:,} of {whole:,} blocked"
            link = links[index] if links else ""
            boxes.append(Box(index * step + gap / 2, height - size, step - gap, size, "block", title, link))
    ticks = [Tick(height, "0 %"), Tick(0.0, f"{top:g} %")]
    return Chart(width, height, boxes, ticks, _labels(names, width))


def lines(
    names: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    links: Sequence[str] = (),
    *,
    width: float = 720,
    height: float = 120,
) -> Chart:
    """Lines over the same names; every series has a value for each name, None where nothing is known.

    The whole height above a name leads to its address in `links`.
    """
    top = max((value for values in series.values() for value in values if value is not None), default=0.0) or 1.0
    step = width / max(len(names), 1)
    drawn = [
        (
            kind,
            [((i + 0.5) * step, height - height * value / top) for i, value in enumerate(values) if value is not None],
        )
        for kind, values in series.items()
    ]
    ticks = [Tick(height, "0"), Tick(0.0, f"{1000 * top:.0f} ms" if top < 1 else f"{top:.1f} s")]
    targets = [
        Box(index * step, 0.0, step, height, "target", names[index], link)
        for index, link in enumerate(links)
        if any(values[index] is not None for values in series.values())
    ]
    return Chart(width, height, targets, ticks, _labels(names, width), drawn)


def _labels(names: Sequence[str], width: float) -> list[Tick]:
    """As many names as have room below a chart, none of them cut at its sides."""
    step = width / max(len(names), 1)
    every = max(1, ceil(len(names) * _LABEL / width))
    ticks = [Tick((index + 0.5) * step, names[index]) for index in range(every // 2, len(names), every)]
    return [tick for tick in ticks if _LABEL / 4 <= tick.at <= width - _LABEL / 4]


def _ticks(top: float, height: float) -> list[Tick]:
    middle = [Tick(height / 2, f"{top / 2:g}")] if top > 1 else []
    return [Tick(height, "0"), *middle, Tick(0.0, f"{top:g}")]


def round_up(most: float) -> float:
    """The next number that a scale may end at: 1, 2 or 5 times a power of ten."""
    if most <= 1:
        return 1.0
    unit = 10.0 ** int(log10(most))
    return next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= most)


def histogram(scores: Mapping[str, Sequence[float]], bins: int = 25) -> dict[str, list[int]]:
    """How many scores in [0, 1] lie in each of `bins` equal bins, by kind; 1.0 lies in the last one."""
    counted: dict[str, list[int]] = {}
    for kind, values in scores.items():
        counts = [0] * bins
        for value in values:
            counts[min(int(value * bins), bins - 1)] += 1
        counted[kind] = counts
    return counted
