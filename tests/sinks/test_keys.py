"""A store with keys: its chain cannot be computed again without the key, and its texts are encrypted."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from guardproxy.errors import ConfigError
from guardproxy.reviews import Label
from guardproxy.sinks.database import AuditStore, Filter, FilterError, Keep, StoreKeys
from guardproxy.sinks.database.chain import GENESIS, content_hash, row_hash
from guardproxy.types import Coverage, Finding, Verdict
from tests.sinks.kit import HOSTILE, record

CHAIN = "c" * 64
FIRST, SECOND = Fernet.generate_key().decode(), Fernet.generate_key().decode()
WHERE = "--config FILE or"


def using(address: str, action: Callable[[AuditStore], Awaitable[Any]], **keys: Any) -> Any:
    """Run `action` on the store at `address`, opened with these keys, and return its result."""

    async def run() -> Any:
        store = AuditStore(address, keys=StoreKeys(**keys))
        try:
            return await action(store)
        finally:
            await store.close()

    return asyncio.run(run())


def write(address: str, *numbers: int, **keys: Any) -> None:
    """Write these records."""
    using(address, lambda store: store.write([record(number) for number in numbers]), **keys)


def test_a_chain_gets_a_key(address: str) -> None:
    """Rows from before the key verify, those behind it need it, and it holds after an erasure."""
    write(address, 1, 2)
    write(address, 3, chain=CHAIN)

    async def run(store: AuditStore) -> None:
        await store.write([record(4)])
        noted = await store.head()
        await store.label([Label("record-3", "correct", "ann", 1.0)])
        await store.erase(Filter(request_id="request-2"))
        await store.erase(Filter(request_id="request-3"))
        await store.retain(Keep(text=1.0), 2_000_000.0)
        found = await store.verify(noted)
        # Two records without a key, its entry, two with it, a label, and three entries for erasures.
        assert (found.rows, found.problems) == (9, ())

    using(address, run, chain=CHAIN)


@pytest.mark.parametrize(
    ("keys", "problem"), [({}, "has a key: set audit.chain_key"), ({"chain": "d" * 40}, "another")]
)
def test_the_key_of_the_chain_is_needed(address: str, keys: dict[str, str], problem: str) -> None:
    """Without it, or with another one, nothing is written, erased or verified; reading needs no key."""
    write(address, 1, chain=CHAIN)

    async def run(store: AuditStore) -> None:
        for call in (store.write([]), store.write([record(2)]), store.verify(), store.erase(Filter(client="c11e47"))):
            with pytest.raises(ConfigError, match=problem):
                await call
        assert len(await store.query()) == 1

    using(address, run, **keys)


def _forge(path: Path, row: int) -> None:
    """Edit a row and compute the chain again from it on, as anybody can who has no key."""
    with sqlite3.connect(path) as database:
        previous = GENESIS
        for seq, salt, content, before in database.execute(
            "SELECT seq, salt, content, previous FROM guardproxy_records ORDER BY seq"
        ).fetchall():
            previous = previous if seq > row else before
            edited = content.replace("0.91", "0.11") if seq == row else content
            inner = content_hash(salt, edited)
            own = row_hash(seq, previous, inner)
            if seq >= row:
                database.execute(
                    "UPDATE guardproxy_records SET content = ?, content_hash = ?, previous = ?, hash = ? WHERE seq = ?",
                    (edited, inner, previous, own, seq),
                )
                database.execute("UPDATE guardproxy_audit SET hash = ?", (own,))
            previous = own
        database.execute("UPDATE guardproxy_scores SET probability = 0.11 WHERE seq = ? AND probability = 0.91", (row,))
    database.close()


@pytest.mark.parametrize("row", [1, 4])
def test_who_has_no_key_cannot_forge(tmp_path: Path, row: int) -> None:
    """A chain that was computed again verifies without a key, and does not with one, before its entry and behind it."""
    path = tmp_path / "plain.sqlite3"
    write(f"sqlite:///{path}", *range(5))
    _forge(path, row)
    assert using(f"sqlite:///{path}", lambda store: store.verify()).problems == ()
    keyed = tmp_path / "keyed.sqlite3"
    write(f"sqlite:///{keyed}", 0, 1)
    write(f"sqlite:///{keyed}", 2, 3, 4, chain=CHAIN)
    _forge(keyed, row)
    problems = using(f"sqlite:///{keyed}", lambda store: store.verify(), chain=CHAIN).problems
    assert problems
    assert problems[0].seq == max(row, 3)


def test_rows_with_the_key_cannot_be_cut_off_unseen(tmp_path: Path) -> None:
    """If no row uses the key any more, `verify` says so."""
    path = tmp_path / "keyed.sqlite3"
    write(f"sqlite:///{path}", 0, 1)
    write(f"sqlite:///{path}", 2, chain=CHAIN)
    with sqlite3.connect(path) as database:
        for table in ("records", "scores"):
            database.execute(f"DELETE FROM guardproxy_{table} WHERE seq > 2")
        database.execute("DELETE FROM guardproxy_texts WHERE rowid > 2")
        database.execute("UPDATE guardproxy_blocks SET latest = (SELECT max(time) FROM guardproxy_records)")
        database.execute(
            "UPDATE guardproxy_audit SET seq = 2, key_id = NULL, "
            "hash = (SELECT hash FROM guardproxy_records WHERE seq = 2)"
        )
    database.close()
    problems = using(f"sqlite:///{path}", lambda store: store.verify(), chain=CHAIN).problems
    assert [str(problem) for problem in problems] == [
        "row 2: no row uses the given key: nobody has written with it yet, or the rows that use it are gone"
    ]


QUOTING = record(
    7,
    text=f"an elephant {HOSTILE}",
    error="the guard read: zebra",
    coverage=(Coverage("messages[0].giraffe", "user", "text", 3, judged=False, why="opaque: hippo"),),
    verdict=Verdict(0.7, (Finding("violence", 0.91, "rhino"), Finding("jailbreak", 0.62)), "embedded"),
)
QUOTED = (b"elephant", b"zebra", b"giraffe", b"hippo", b"rhino")


def test_texts_are_encrypted(tmp_path: Path) -> None:
    """Nothing on the disk quotes a client; with the key, records are as they were, and the chain verifies."""
    address = f"sqlite:///{tmp_path}/audit.sqlite3"

    async def run(store: AuditStore) -> None:
        await store.write([QUOTING, record(8, verdict=None)])
        await store.write([QUOTING])
        held = b"".join(await asyncio.to_thread(lambda: [file.read_bytes() for file in tmp_path.iterdir()]))
        assert [word for word in QUOTED if word in held] == []
        assert [stored.record for stored in await store.query()] == [record(8, verdict=None), QUOTING]
        assert (await store.verify()).problems == ()
        with pytest.raises(FilterError, match="text: the texts of the store are encrypted"):
            await store.query(Filter(text="elephant"))
        await store.retain(Keep(text=1.0), 2_000_000.0)
        (stored,) = await store.query(Filter(request_id="request-7"))
        assert (stored.record.text, stored.record.error, stored.text_erased) == ("", QUOTING.error, True)
        assert (await store.verify()).problems == ()
        await store.erase(Filter(request_id="request-7"))
        assert (await store.verify()).problems == ()

    using(address, run, encrypt=(FIRST,))


@pytest.mark.parametrize(
    ("keys", "problem"),
    [({}, rf"is encrypted \(row 1\): give its key with {WHERE}"), ({"encrypt": (SECOND,)}, "another")],
)
def test_the_key_of_the_texts_is_needed(address: str, keys: dict[str, Any], problem: str) -> None:
    """Without it, or with another one, no record is read, and the error says where to give it; counting needs none."""
    write(address, 1, encrypt=(FIRST,))

    async def run(store: AuditStore) -> None:
        for call in (store.query(), store.get("1"), store.verify()):
            with pytest.raises(ConfigError, match=problem):
                await call
        assert (await store.stats()).total == 1
        assert await store.erase(Filter(request_id="request-1")) == 1

    using(address, run, **keys)


def test_keys_change(address: str) -> None:
    """New rows use the first key, old ones are read with the others; `rekey` needs them for the last time."""
    write(address, 1)
    write(address, 2, encrypt=(FIRST,))
    write(address, 3, encrypt=(SECOND, FIRST))

    async def check(store: AuditStore) -> None:
        assert [stored.record for stored in await store.query()] == [record(3), record(2), record(1)]
        assert (await store.verify()).problems == ()

    using(address, check, encrypt=(SECOND, FIRST))
    assert using(address, lambda store: store.rekey(), encrypt=(SECOND, FIRST)) == 3
    using(address, check, encrypt=(SECOND,))
    with pytest.raises(ConfigError, match="no key to encrypt with"):
        using(address, lambda store: store.rekey())


def test_rekey_leaves_no_plain_text(tmp_path: Path) -> None:
    """A store that was not encrypted is afterwards, with its index of texts."""
    address = f"sqlite:///{tmp_path}/audit.sqlite3"
    using(address, lambda store: store.write([record(1, text="the elephant sleeps at noon " * 300)]))
    using(address, lambda store: store.rekey(), encrypt=(FIRST,))
    assert not any(b"elephant" in file.read_bytes() for file in tmp_path.iterdir())


def test_malformed_keys_are_not_shown(tmp_path: Path) -> None:
    """An error about a key does not quote it."""
    for keys in (StoreKeys(chain="hunter2"), StoreKeys(encrypt=("hunter2",))):
        with pytest.raises(ConfigError, match="make one with") as caught:
            AuditStore(f"sqlite:///{tmp_path}/audit.sqlite3", keys=keys)
        assert "hunter2" not in str(caught.value)
        assert "hunter2" not in repr(keys)
