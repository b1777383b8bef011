"""The chain reveals every edit, removal or move of rows, even if other hashes are recomputed to hide it."""

import hashlib
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
    erased_rows,
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


def _messages(links: list[Link], head: Head) -> list[str]:
    return [str(problem) for problem in problems(links, head)]


def test_an_empty_chain_begins_at_64_zeros() -> None:
    """The first row follows the hash that stands before every chain: stores that exist rely on it."""
    assert GENESIS == "0000000000000000000000000000000000000000000000000000000000000000"
    (link,) = chained([NOTHING])
    assert link.previous == GENESIS
    assert link.content_hash == hashlib.sha256(f"{link.salt}{NOTHING}".encode()).hexdigest()
    assert link.hash == hashlib.sha256(f"1\n{GENESIS}\n{link.content_hash}".encode()).hexdigest()
    assert str(Head(1, link.hash)) == f"1:{link.hash}"


def test_the_messages_name_the_rows() -> None:
    """A message says what is wrong with the row, and names the rows that are concerned."""
    links = chained([NOTHING] * 6)
    head = Head(6, links[-1].hash)
    assert _messages([*links[:2], *links[3:]], head) == ["row 3: is missing"]
    assert _messages([*links[:2], *links[4:]], head) == ["row 3: rows 3 to 4 are missing"]
    assert _messages(links[:4], head) == ["row 5: rows 5 to 6 are missing at the end"]
    assert _messages(links, Head(5, links[4].hash)) == ["row 6: is not the last row that the store noted, row 5"]
    broken = [*links[:2], replace(links[2], previous="f" * 64), *links[3:]]
    assert _messages(broken, head) == [
        "row 3: does not follow from row 2: one of the two rows was changed, moved or replaced",
        "row 3: its hash does not match the row, which was changed or moved",
    ]
    assert _messages([*links[:2], _edit(links[2]), *links[3:]], head) == ["row 3: its content was changed"]


def test_rows_without_content_are_grouped_by_their_numbers() -> None:
    """Consecutive rows without content are a single problem; the count is of rows."""
    links = [_clear(link) if link.seq in {1, 2, 3, 5, 7, 8} else link for link in chained([NOTHING] * 9)]
    verifier = ChainVerifier()
    for link in links:
        verifier.feed(link)
    assert (verifier.rows, verifier.erased) == (9, 6)
    assert [str(problem) for problem in verifier.finish(Head(9, links[-1].hash))] == [
        "row 1: rows 1 to 3 have no content, without an entry for the erasure",
        "row 5: has no content, without an entry for the erasure",
        "row 7: rows 7 to 8 have no content, without an entry for the erasure",
    ]


@pytest.mark.parametrize("gone", [{"content": None}, {"salt": None}])
def test_half_an_erasure_is_a_row_without_content(gone: dict[str, None]) -> None:
    """A row that lacks only its content, or only its salt, cannot be verified: it counts as erased."""
    links = chained([NOTHING] * 2)
    links[0] = replace(links[0], **gone)
    assert _messages(links, Head(2, links[-1].hash)) == ["row 1: has no content, without an entry for the erasure"]


def test_problems_are_in_the_order_of_rows() -> None:
    """A row without content is found at the end, and reported at its place."""
    links = [_clear(link) if link.seq == 1 else link for link in chained([NOTHING] * 4)]
    links[2] = _edit(links[2])
    assert [problem.seq for problem in problems(links, Head(4, links[-1].hash))] == [1, 3]


def test_an_erasure_entry() -> None:
    """An entry names time, reason and rows, in a fixed form because its hash is stored; a record names no rows."""
    entry = erasure_entry(1.5, "request", [1, 2, 5])
    assert entry == '{"erasure":{"time":1.5,"why":"request","rows":[[1,2],[5,5]]}}'
    assert erased_rows(entry) == [(1, 2), (5, 5)]
    assert erased_rows('{"text":"a"}') is None


@given(
    cleared=st.sets(st.integers(1, 12), min_size=1),
    named=st.lists(st.sets(st.integers(1, 12), min_size=1), max_size=4),
)
def test_several_erasures(cleared: set[int], named: list[set[int]]) -> None:
    """Entries may overlap and come in any order; the rows that none of them names are reported, and only these."""
    links = [_clear(link) if link.seq in cleared else link for link in chained([NOTHING] * 12)]
    for rows in named:
        links.append(seal(links[-1].seq + 1, links[-1].hash, erasure_entry(1.0, "r", sorted(rows)), "0" * 32))
    erased = spans(sorted(cleared))
    expected = [
        (first, f"rows {first} to {last} have" if last > first else "has")
        for start, end in erased
        for first, last in spans(sorted(set(range(start, end + 1)) - set().union(*named)))
    ]
    assert _messages(links, Head(links[-1].seq, links[-1].hash)) == [
        f"row {first}: {rows} no content, without an entry for the erasure" for first, rows in expected
    ]
