"""Exclusions in the store."""

from dataclasses import replace

import pytest

from guardproxy.reviews import Exclusion
from guardproxy.sinks.database import AuditStore, Filter, ReviewStore
from tests.sinks.kit import record
from tests.sinks.test_erasing import _sql
from tests.sinks.test_same_texts import with_store
from tests.sinks.test_store import using

SONG = Exclusion("0a1b", "a" * 64, "violence", "a song", "ann", 2000.0, 1000.0, "record-1")
FILM = Exclusion("2c3d", "b" * 64, "*", "a film", "bob", 3000.0, 1001.0, "record-2")


def test_exclusions_are_kept(address: str) -> None:
    """Exclusions come back as they were until they end; the last row of an id counts; all are rows of the chain."""

    async def run(store: AuditStore) -> None:
        await store.write([record(1)])
        await store.exclude(SONG)
        await store.exclude(FILM)
        assert await store.exclusions(1999.9) == [SONG, FILM]
        assert await store.exclusions(2000.0) == [FILM]
        ended = replace(FILM, by="cid", until=1500.0, time=1500.0)
        await store.exclude(ended)
        assert await store.exclusions(1500.0) == [SONG]
        assert await store.exclusions(0.0) == [SONG, ended]
        assert [stored.record.id for stored in await store.query()] == ["record-1"]
        found = await store.verify()
        assert (found.rows, found.problems) == (4, ())

    using(address, run)


def test_exclusions_of_one_text(address: str) -> None:
    """Those of the text, or made from the record, or with these ids; each as its last row says."""
    again = replace(SONG, id="4e5f", category="jailbreak", record="record-3")
    moved = replace(FILM, text="c" * 64)

    async def run(store: ReviewStore) -> None:
        await store.exclude(SONG, FILM, again)
        assert await store.exclusions_about(SONG.text, "record-1", 0.0) == [SONG, again]
        assert await store.exclusions_about("", "record-1", 0.0) == [SONG]
        assert await store.exclusions_about("d" * 64, "record-2", 0.0) == [FILM]
        assert await store.exclusions_named(["0a1b", "2c3d", "nothing"], 0.0) == [SONG, FILM]
        await store.exclude(replace(SONG, until=1500.0, by="cid"), moved)
        assert await store.exclusions_about(SONG.text, "record-1", 1500.0) == [again]
        assert await store.exclusions_about(FILM.text, "", 0.0) == []
        assert await store.exclusions_about(moved.text, "", 0.0) == [moved]
        assert (await store.verify()).problems == ()

    with_store(address, [], run)


def test_an_exclusion_outlives_its_record(address: str) -> None:
    """An erasure of the record leaves the exclusion, which has only a hash of the text."""

    async def run(store: AuditStore) -> None:
        await store.write([record(1)])
        await store.exclude(SONG)
        await store.erase(Filter(request_id="request-1"))
        assert await store.exclusions(0.0) == [SONG]
        assert (await store.verify()).problems == ()

    using(address, run)


@pytest.mark.parametrize(
    ("exclusion", "problem"),
    [
        (replace(SONG, by=" "), "empty name of the person"),
        (replace(SONG, reason=""), "empty reason"),
        (replace(SONG, category=""), "empty category"),
        (replace(SONG, reason="x" * 10_001), "reason .* 10001 characters"),
    ],
)
def test_an_exclusion_needs_a_name_and_a_reason(address: str, exclusion: Exclusion, problem: str) -> None:
    """Without them nothing is stored."""

    async def run(store: AuditStore) -> None:
        with pytest.raises(ValueError, match=problem):
            await store.exclude(exclusion)
        assert (await store.verify()).rows == 0

    using(address, run)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE guardproxy_exclusions SET until = 9e9 WHERE seq = 2",
        "UPDATE guardproxy_exclusions SET id = '2c3d' WHERE seq = 2",
        "UPDATE guardproxy_exclusions SET text = 'b' WHERE seq = 2",
        "UPDATE guardproxy_exclusions SET record = 'record-2' WHERE seq = 2",
        "DELETE FROM guardproxy_exclusions WHERE seq = 2",
        "UPDATE guardproxy_records SET content = replace(content, '2000.0', '9000.0') WHERE seq = 2",
        "UPDATE guardproxy_records SET kind = 'label' WHERE seq = 2",
        "UPDATE guardproxy_records SET content = NULL, salt = NULL WHERE seq = 2",
        "DELETE FROM guardproxy_records WHERE seq = 2",
    ],
)
def test_tampering_with_exclusions_is_found(address: str, statement: str) -> None:
    """`verify` reports an exclusion that was changed, prolonged or removed."""

    async def run(store: AuditStore) -> None:
        await store.write([record(1)])
        await store.exclude(SONG)
        await store.write([record(2)])
        await _sql(address, statement)
        assert 2 in {problem.seq for problem in (await store.verify()).problems}

    using(address, run)
