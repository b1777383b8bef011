"""Records of the very same text: counted, labelled together, and one item of the queue."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import pytest
from cryptography.fernet import Fernet

from guardproxy.reviews import Label
from guardproxy.sinks.database import Filter, Keep, ReviewStore, SameText, StoreKeys
from guardproxy.sinks.database.words import stored_hash
from guardproxy.types import Record
from tests.sinks.kit import HOSTILE, PASSED, record

T = TypeVar("T")
SPAM = "buy cheap pills " + HOSTILE


def with_store(address: str, records: Sequence[Record], work: Callable[[ReviewStore], Awaitable[T]], *keys: str) -> T:
    """The result of `work` on a store with these records, encrypted with the keys if there are any."""

    async def run() -> T:
        store = ReviewStore(address, keys=StoreKeys(encrypt=keys))
        try:
            await store.write(records)
            result = await work(store)
            assert (await store.verify()).problems == ()
            return result
        finally:
            await store.close()

    return asyncio.run(run())


def spam() -> list[Record]:
    """Six records of one text: three alike, one on the other side, one that passed, one of a shadow policy."""
    alike = [record(n, text=SPAM, exact=True) for n in range(3)]
    others = [{"side": "assistant"}, {"decision": PASSED, "outcome": "pass"}, {"shadow": True}]
    return [*alike, *(replace(record(3 + n, text=SPAM, exact=True), **one) for n, one in enumerate(others))]  # type: ignore[arg-type]


async def kinds(store: ReviewStore) -> dict[str, list[str]]:
    """The labels in force, by the id of the record."""
    return {name: [f"{one.by}:{one.kind}" for one in given] for name, given in (await store.labels()).items()}


def test_a_label_for_every_record_of_the_text(address: str) -> None:
    """Each gets a row of its own; records with another side or decision, or another text, get none."""

    async def work(store: ReviewStore) -> None:
        assert await store.same_text((await store.get("record-1"))[0]) == SameText(alike=2, otherwise=3)
        assert await store.label_same([Label("record-1", "false_positive", "ann", 5.0, "violence", "spam")]) == 3
        assert await kinds(store) == {f"record-{n}": ["ann:false_positive"] for n in range(3)}
        assert (await store.head()).seq == 7 + 3
        history = await store.label_history(["record-2"])
        assert history["record-2"] == (Label("record-2", "false_positive", "ann", 5.0, "violence", "spam"),)

    with_store(address, [*spam(), record(6, text=f"{SPAM} ", exact=True)], work)


def test_other_records_of_the_text(address: str) -> None:
    """The newest come first, whatever was decided about them; those of another text are none."""

    async def work(store: ReviewStore) -> None:
        stored = (await store.get("record-1"))[0]
        found = await store.of_same_text(stored, 4)
        assert [row.record.id for row in found] == [f"record-{n}" for n in (5, 4, 3, 2)]
        assert await store.of_same_text((await store.get("record-6"))[0], 4) == []

    with_store(address, [*spam(), record(6, text=f"{SPAM} ", exact=True)], work)


def test_records_named_twice_are_labelled_once(address: str) -> None:
    """Two records of the same text stand for the same records."""

    async def work(store: ReviewStore) -> None:
        given = [Label(f"record-{n}", "correct", "ann", 5.0) for n in (0, 2, 3)]
        assert await store.label_same(given) == 4
        assert (await store.head()).seq == 6 + 4

    with_store(address, spam(), work)


def test_taking_back_what_was_labelled_together(address: str) -> None:
    """What the person had said before holds again; other people's labels, and those of another time, stay."""

    async def work(store: ReviewStore) -> None:
        await store.label(
            [Label("record-0", "correct", "ann", 1.0, note="first"), Label("record-2", "correct", "bo", 1.0)]
        )
        await store.label_same([Label("record-1", "false_positive", "ann", 5.0)])
        await store.label([Label("record-2", "false_positive", "ann", 6.0)])
        assert await store.labelled_together("record-1", "ann") == 2
        assert await store.take_back("record-1", "ann") == 2
        assert await kinds(store) == {
            "record-0": ["ann:correct"],
            "record-2": ["bo:correct", "ann:false_positive"],
        }
        assert (await store.labels())["record-0"][0].note == "first"
        assert await store.take_back("record-1", "ann") == await store.labelled_together("record-1", "ann") == 0
        assert await store.take_back("record-2", "ann") == 1

    with_store(address, spam(), work)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"exact": False}, "its text is masked"),
        ({"text": "", "exact": False}, "its text is not stored"),
    ],
)
def test_texts_that_are_not_kept_exactly(address: str, changed: dict[str, object], why: str) -> None:
    """Of masked texts, and of texts that are not stored, nobody knows whether they were the same: none is labelled."""

    async def work(store: ReviewStore) -> None:
        assert why in (await store.same_text((await store.get("record-0"))[0])).unknown
        with pytest.raises(ValueError, match="cannot tell which records have the same text as record record-0"):
            await store.label_same([Label("record-0", "correct", "ann", 1.0)])
        assert await kinds(store) == {}
        assert len(await store.texts(Filter())) == 2

    with_store(address, [record(n, **changed) for n in range(2)], work)


def test_texts_that_are_kept_as_hashes(address: str) -> None:
    """A hash tells which texts were the same, also those that were stored before as they are."""
    whole = record(0, text="how is a kite built?", exact=True)
    hashed = record(1, text=stored_hash(whole.text), exact=False)

    async def work(store: ReviewStore) -> None:
        assert await store.label_same([Label("record-1", "correct", "ann", 1.0)]) == 3
        assert sorted(await kinds(store)) == ["record-0", "record-1", "record-2"]

    with_store(address, [whole, hashed, replace(hashed, id="record-2")], work)


def test_an_encrypted_store_does_not_tell_equal_texts(address: str) -> None:
    """A key of an encrypted text would tell what it says: records have none, also once they are encrypted later."""
    key = Fernet.generate_key().decode()

    async def work(store: ReviewStore) -> None:
        assert (await store.same_text((await store.get("record-0"))[0])).unknown == "its text is encrypted"

    with_store(address, spam(), work, key)


def test_encrypting_and_erasing_remove_the_keys(address: str) -> None:
    """Neither leaves anything of a text behind."""

    async def erase_texts(store: ReviewStore) -> None:
        await store.retain(Keep(text=1.0), now=2_000_000.0)
        assert (await store.same_text((await store.get("record-0"))[0])).unknown == "its text is erased"

    with_store(address, spam(), erase_texts)

    async def encrypt(store: ReviewStore) -> None:
        await store.write([record(10, text="late", exact=True)])
        await store.rekey()

    with_store(address, [record(9, text=SPAM, exact=True)], encrypt, Fernet.generate_key().decode())


def test_records_of_one_text_are_one_item_of_the_queue(address: str) -> None:
    """Only the newest that the filter selects; a copy that is labelled or outside of the filter hides none."""
    late = [record(7, text=SPAM, exact=True, user="eve"), record(8, text="another", exact=True)]

    async def ids(store: ReviewStore, chosen: Filter, **at: int) -> list[str]:
        return [row.record.id for row in await store.texts(chosen, **at)]

    async def work(store: ReviewStore) -> None:
        acting = Filter(shadow="without")
        assert await ids(store, acting) == ["record-8", "record-7", "record-4", "record-3"]
        assert await ids(store, acting, before=7) == ["record-4", "record-3"]
        assert await ids(store, acting, after=4) == ["record-8", "record-7", "record-4"]
        assert await ids(store, replace(acting, user="")) == ["record-8", "record-4", "record-3", "record-2"]
        assert await ids(store, replace(acting, text="pills", side="user")) == ["record-7", "record-4"]
        await store.label([Label("record-7", "correct", "ann", 1.0)])
        assert (await ids(store, replace(acting, label="none")))[-1] == "record-2"
        await store.label_same([Label("record-2", "correct", "ann", 1.0)])
        assert await ids(store, replace(acting, label="none")) == ["record-8", "record-4", "record-3"]

    with_store(address, [*spam(), *late], work)


def test_a_claim_covers_every_record_of_the_text(address: str) -> None:
    """While somebody looks at a text, nobody gets another record of it, also one that came later."""

    async def work(store: ReviewStore) -> None:
        assert await store.claim(["record-2", "record-3"], "ann", 60) == "record-2"
        assert await store.claim(["record-1", "record-0"], "bo", 60) is None
        await store.write([record(9, text=SPAM, exact=True)])
        assert await store.claim(["record-9", "record-3"], "bo", 60) == "record-3"
        assert await store.claim(["record-9"], "ann", 60) == "record-9"

    with_store(address, spam(), work)
