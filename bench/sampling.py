"""A part of the labelled texts, drawn at random with a seed, so that a measurement takes minutes."""

import argparse
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from guardproxy.evaluation.datasets import LabelledRow
from guardproxy.guards.cache import check_key

T = TypeVar("T")


def add_options(parser: argparse.ArgumentParser, rows: int, what: str) -> None:
    """Add the options --rows, with its default, and --seed; `what` says what --rows counts."""
    parser.add_argument("--rows", type=int, default=rows, help=f"{what} (default {rows})")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the draw (default 0)")


def stratified(groups: Sequence[Sequence[T]], number: int, seed: int, key: Callable[[T], bytes]) -> list[T]:
    """At most `number` items, of each group a share by its size (largest remainders), in the order of the groups.

    The draw depends on the seed and on the keys, not on the order of the items.
    """
    total = sum(len(group) for group in groups)
    if total <= number:
        return [item for group in groups for item in group]
    exact = [number * len(group) / total for group in groups]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(groups)), key=lambda at: counts[at] - exact[at])
    for at in by_remainder[: number - sum(counts)]:
        counts[at] += 1
    draw = random.Random(seed)
    return [
        item for group, count in zip(groups, counts, strict=True) for item in draw.sample(sorted(group, key=key), count)
    ]


def by_label(rows: Sequence[LabelledRow], number: int, seed: int) -> list[LabelledRow]:
    """At most `number` of the rows with a label, of each label its share."""
    groups = [[row for row in rows if row.unsafe is label] for label in (True, False)]
    return stratified(groups, number, seed, lambda row: check_key(row.check))
