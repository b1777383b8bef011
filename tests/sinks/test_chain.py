"""The chain reveals every edit, removal or move of rows, even if other hashes are recomputed to hide it."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.sinks.database.chain import (
    GENESIS,
    ChainProblem,
    ChainVerifier,
    Head,
    Link,
    content_hash,
    erasure_entry,
    row_hash,
    seal,
    spans,
)

NOTHING = "{}"


def chained(contents: list[str]) -> list[Link]:
    """Return a chain of these contents."""
    links: list[Link] = []
    for seq, content in enumerate(contents, 1):
        links.append(seal(seq, links[-1].hash if links else GENESIS, content, f"{seq:032x}"))
    return links


def problems(links: list[Link], head: Head) -> list[ChainProblem]:
    """Return the problems of these rows, checked in the order of their numbers as the store does."""
    verifier = ChainVerifier()
    for link in sorted(links, key=lambda link: link.seq):
        verifier.feed(link)
    return verifier.finish(head)


def _edit(link: Link) -> Link:
    return replace(link, content='{"text":"something else"}')


def _edit_and_rehash_content(link: Link) -> Link:
    link = _edit(link)
    return replace(link, content_hash=content_hash(link.salt or "", link.content or ""))


def _edit_and_rehash_row(link: Link) -> Link:
    link = _edit_and_rehash_content(link)
    return replace(link, hash=row_hash(link.seq, link.previous, link.content_hash))


def _clear(link: Link) -> Link:
    return replace(link, content=None, salt=None)


EDITS = [
    _edit,
    _edit_and_rehash_content,
    _edit_and_rehash_row,
    _clear,
    lambda link: replace(link, hash="f" * 64),
    lambda link: replace(link, previous="f" * 64),
    lambda link: replace(link, salt="other"),
    lambda link: replace(link, content_hash="f" * 64),
]


@given(contents=st.lists(st.just(NOTHING), max_size=8))
def test_untouched(contents: list[str]) -> None:
    """A chain as it was written has no problem."""
    links = chained(contents)
    head = Head(links[-1].seq, links[-1].hash) if links else Head(0, GENESIS)
    assert problems(links, head) == []


@pytest.mark.parametrize("edit", EDITS)
@given(size=st.integers(1, 8), place=st.integers(0, 7))
def test_edits(edit: Callable[[Link], Link], size: int, place: int) -> None:
    """An edited row is reported, or the row after it if the edited row was hashed again."""
    links = chained([NOTHING] * size)
    head = Head(links[-1].seq, links[-1].hash)
    place %= size
    links[place] = edit(links[place])
    found = problems(links, head)
    assert found
    assert {problem.seq for problem in found} <= {place + 1, place + 2}


@given(size=st.integers(1, 10), gone=st.sets(st.integers(1, 10), min_size=1))
def test_removals(size: int, gone: set[int]) -> None:
    """The first row of every gap is reported, including a gap at the end."""
    links = chained([NOTHING] * size)
    head = Head(links[-1].seq, links[-1].hash)
    gone = {min(number, size) for number in gone}
    found = problems([link for link in links if link.seq not in gone], head)
    assert {problem.seq for problem in found} == {first for first, _ in spans(sorted(gone))}


@given(order=st.permutations(range(6)))
def test_moves(order: list[int]) -> None:
    """Rows that were swapped, with their numbers or only their contents, are reported."""
    links = chained([f'{{"text":"{place}"}}' for place in range(6)])
    head = Head(links[-1].seq, links[-1].hash)
    moved = {place + 1 for place, origin in enumerate(order) if place != origin}
    renumbered = [replace(links[origin], seq=place + 1) for place, origin in enumerate(order)]
    refilled = [
        replace(link, content=links[origin].content, salt=links[origin].salt)
        for link, origin in zip(links, order, strict=True)
    ]
    for rows in (renumbered, refilled):
        found = {problem.seq for problem in problems(rows, head)}
        assert moved <= found
        assert bool(found) == bool(moved)


@given(size=st.integers(1, 10), cleared=st.sets(st.integers(1, 10), min_size=1), named=st.sets(st.integers(1, 10)))
def test_erasures(size: int, cleared: set[int], named: set[int]) -> None:
    """A row without content is a problem unless an erasure entry names it."""
    cleared = {min(number, size) for number in cleared}
    links = chained([NOTHING] * size)
    links = [_clear(link) if link.seq in cleared else link for link in links]
    links.append(seal(size + 1, links[-1].hash, erasure_entry(1.0, "request", sorted(named)), "0" * 32))
    found = problems(links, Head(links[-1].seq, links[-1].hash))
    unexplained = cleared - named
    assert bool(found) == bool(unexplained)
    assert {problem.seq for problem in found} <= unexplained


@given(numbers=st.sets(st.integers(1, 50)))
def test_spans(numbers: set[int]) -> None:
    """Spans contain exactly the numbers that they were made from."""
    made = spans(sorted(numbers))
    assert [number for first, last in made for number in range(first, last + 1)] == sorted(numbers)
    assert all(second[0] > first[1] + 1 for first, second in pairwise(made))
