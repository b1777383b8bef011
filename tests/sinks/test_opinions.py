"""Second opinions and rationales: rows of the chain, sealed and erased as the texts that they speak of."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import text

from guardproxy.observe.records import masked_rationale, masked_record
from guardproxy.reviews import Label, Opinion
from guardproxy.sinks.database import Filter, Keep, ReviewStore, StoreKeys
from guardproxy.sinks.database.schema import open_engine, parse_address
from guardproxy.sinks.shared import from_dict, to_dict
from guardproxy.types import Record, Verdict
from tests.sinks.kit import HOSTILE, record

WHY = "It says how to build a kite, and its secret is 4711."


def reasoned(number: int = 0) -> Record:
    """A record whose verdict has a reason and is a label."""
    plain = record(number)
    assert plain.verdict is not None
    findings = tuple(replace(one, kind="label", probability=1.0) for one in plain.verdict.findings)
    return replace(plain, verdict=replace(plain.verdict, findings=findings, kind="label", rationale=WHY))


def opinion(name: str = "record-1", **changed: Any) -> Opinion:
    """An opinion on a record."""
    found = (("violence", 1.0), ("fraud", 0.0))
    given = Opinion(name, "model", "policy_text@ab12", "ann", 10.0, "label", 1.0, found, exact=True, rationale=WHY)
    return replace(given, **changed)


def using(address: str, action: Callable[[ReviewStore], Awaitable[Any]], keys: StoreKeys | None = None) -> None:
    """Run `action` on a store with three records."""

    async def run() -> None:
        store = ReviewStore(address, keys=keys)
        try:
            await store.write([reasoned(i) for i in range(3)])
            await action(store)
            assert (await store.verify()).problems == ()
        finally:
            await store.close()

    asyncio.run(run())


async def stored_bytes(address: str) -> str:
    """Everything that the table of rows holds."""
    engine = open_engine(parse_address(address))
    async with engine.connect() as connection:
        rows = (await connection.execute(text("SELECT * FROM guardproxy_records"))).all()
    await engine.dispose()
    return repr(rows)


def test_an_opinion_stands_beside_the_labels(address: str) -> None:
    """It is read back as it was given, also with a hostile reason, and changes no label and no record."""

    async def run(store: ReviewStore) -> None:
        label = Label("record-1", "correct", "bob", 9.0)
        await store.label([label])
        before = await store.query()
        second = opinion(by="bob", kind="probability", unsafe=0.25, exact=False, rationale=HOSTILE)
        await store.opine(opinion())
        await store.opine(second)
        assert await store.opinions(["record-1", "record-2"]) == {"record-1": (opinion(), second)}
        assert await store.labels() == {"record-1": (label,)}
        assert await store.query() == before
        assert (await store.verify()).rows == 6

    using(address, run)


def test_a_rationale_is_read_back_and_hidden_without_texts(address: str) -> None:
    """The reason of a verdict belongs to the text: who does not read texts does not read it."""

    async def run(store: ReviewStore) -> None:
        (stored,) = await store.get("record-1")
        assert stored.record == reasoned(1)
        bare = [data["verdict"]["rationale"] async for _, data in store.contents(texts=False)]
        assert bare == ["", "", ""]

    using(address, run)


def test_opinions_are_erased_with_their_record(address: str) -> None:
    """Nothing of them is left, and the chain still verifies."""

    async def run(store: ReviewStore) -> None:
        await store.opine(opinion())
        assert await store.erase(Filter(request_id="request-1")) == 1
        assert await store.opinions(["record-1"]) == {}
        assert (await store.verify()).erased == 2
        with pytest.raises(ValueError, match="was erased"):
            await store.opine(opinion())

    using(address, run)


def test_reasons_are_erased_with_the_texts(address: str) -> None:
    """`keep.text` erases what may quote the text: the reasons of verdicts and of opinions. Labels 0 and 1 stay."""

    async def run(store: ReviewStore) -> None:
        await store.opine(opinion())
        assert "4711" in await stored_bytes(address)
        assert (await store.retain(Keep(text=1.0), 2_000_000.0)).texts == 3
        assert "4711" not in await stored_bytes(address)
        (stored,) = await store.get("record-1")
        assert stored.record.verdict is not None
        assert (stored.record.text, stored.record.verdict.rationale, stored.record.verdict.kind) == ("", "", "label")
        assert await store.opinions(["record-1"]) == {"record-1": (opinion(rationale=""),)}
        with pytest.raises(ValueError, match="was erased"):
            await store.opine(opinion())

    using(address, run)


def test_reasons_are_encrypted_as_texts_are(address: str) -> None:
    """With a key, and after a change of the key."""
    keys = [Fernet.generate_key().decode() for _ in range(2)]

    async def run(store: ReviewStore) -> None:
        await store.opine(opinion())
        assert "4711" not in await stored_bytes(address)
        assert await store.opinions(["record-1"]) == {"record-1": (opinion(),)}

    async def rekeyed(store: ReviewStore) -> None:
        assert await store.rekey() == 4
        assert (await store.opinions(["record-1"]))["record-1"][0] == opinion()

    using(address, run, StoreKeys(None, (keys[0],)))
    using(address, rekeyed, StoreKeys(None, (keys[1], keys[0])))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            "UPDATE guardproxy_records SET sealed_text = 'x' || substr(sealed_text, 2) WHERE kind = 'opinion'",
            "its text",
        ),
        ("UPDATE guardproxy_opinions SET record = 'record-2'", "table of opinions"),
        ("DELETE FROM guardproxy_opinions", "table of opinions"),
    ],
)
def test_a_changed_opinion_is_found(address: str, change: str, problem: str) -> None:
    """The chain covers the reason, and the copy is compared with it."""

    async def run() -> None:
        store = ReviewStore(address)
        await store.write([reasoned(1)])
        await store.opine(opinion())
        engine = open_engine(parse_address(address)).execution_options(guardproxy_write=True)
        async with engine.begin() as connection:
            await connection.execute(text(change))
        await engine.dispose()
        assert [problem in one.message for one in (await store.verify()).problems] == [True]
        await store.close()

    asyncio.run(run())


@pytest.mark.parametrize("wrong", [opinion("record-9"), opinion(by=" ")])
def test_an_opinion_on_nothing_or_by_nobody_is_refused(address: str, wrong: Opinion) -> None:
    """Nothing is stored."""

    async def run(store: ReviewStore) -> None:
        with pytest.raises(ValueError, match=r"erased|nobody"):
            await store.opine(wrong)
        assert (await store.head()).seq == 3

    using(address, run)


def test_reasons_are_masked_as_texts_are() -> None:
    """Under `hash` and `none` none is stored; personal data in it are masked under `redacted`."""
    verdict = Verdict(
        1.0, (), "model", kind="label", rationale="Mail ann@example.com the key sk-ant-api03-abcdefghijkl"
    )
    given = replace(record(), verdict=verdict)
    shown = {rule: masked_record(given, rule).verdict for rule in ("full", "redacted", "hash", "none")}  # type: ignore[arg-type]
    reasons = {rule: one.rationale for rule, one in shown.items() if one}
    assert "ann@example.com" in reasons["full"]
    assert "ann@example.com" not in reasons["redacted"]
    assert not any("abcdefghijkl" in reason for reason in reasons.values())
    assert reasons["hash"] == reasons["none"] == ""
    personal = masked_record(given, "redacted", lambda found: found.replace("Mail", "[word]")).verdict
    assert personal is not None
    assert personal.rationale.startswith("[word]")
    assert masked_rationale("Mail", "full", lambda _: "") == "Mail"


def test_records_of_older_versions_have_probabilities() -> None:
    """A row without `kind` and `rationale` is read."""
    data = json.loads(json.dumps(to_dict(record())))
    del data["verdict"]["kind"], data["verdict"]["rationale"]
    for finding in data["verdict"]["findings"]:
        del finding["kind"]
    assert from_dict(data) == record()
