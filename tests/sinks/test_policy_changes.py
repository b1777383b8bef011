"""Saved thresholds: rows of their own in the chain, in the order in which they were saved."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from guardproxy.cli import main
from guardproxy.reviews import ChangedRule, PolicyChange
from guardproxy.sinks.database import Filter, ReviewStore, default_store_url
from guardproxy.sinks.database.schema import open_engine, parse_address
from tests.sinks.kit import HOSTILE, record
from tests.sinks.test_same_texts import with_store

CHANGE = PolicyChange(
    by="olga",
    time=1_000_100.0,
    policy="default",
    before="0a1b2c",
    after="1a2b3c",
    policy_before="aa",
    policy_after="bb",
    file="/etc/guardproxy.yaml",
    rules=(ChangedRule("user", "violence", "block", "0.7", "0.62"), ChangedRule("user", "guns", "flag", "", "0.2")),
)
LATER = replace(CHANGE, by=f"eve {HOSTILE}", time=1_000_200.0, before="1a2b3c", after="2a2b3c")


def test_changes_are_listed_and_stay(address: str) -> None:
    """The newest comes first; no filter finds or erases one, and one without a name is refused."""

    async def work(store: ReviewStore) -> None:
        await store.note_policy_change(CHANGE)
        await store.note_policy_change(LATER)
        assert await store.policy_changes(10) == [LATER, CHANGE]
        assert await store.policy_changes(1) == [LATER]
        assert await store.erase(Filter()) == 2
        assert await store.policy_changes(10) == [LATER, CHANGE]
        with pytest.raises(ValueError, match="names nobody"):
            await store.note_policy_change(replace(CHANGE, by=" "))

    with_store(address, [record(1), record(2)], work)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE guardproxy_policy_changes SET time = 5 WHERE seq = 2",
        "DELETE FROM guardproxy_policy_changes WHERE seq = 2",
        "INSERT INTO guardproxy_policy_changes VALUES (1, 5)",
        "UPDATE guardproxy_records SET kind = 'record' WHERE seq = 2",
        "UPDATE guardproxy_records SET content = replace(content, 'olga', 'anna') WHERE seq = 2",
        "UPDATE guardproxy_records SET content = NULL, salt = NULL WHERE seq = 2",
        "DELETE FROM guardproxy_records WHERE seq = 2",
    ],
)
def test_changed_entries_are_found(address: str, statement: str) -> None:
    """`verify` reports an entry after any change in it."""

    async def run() -> None:
        store = ReviewStore(address)
        await store.write([record(1)])
        await store.note_policy_change(CHANGE)
        assert (await store.verify()).problems == ()
        engine = open_engine(parse_address(address))
        async with engine.begin() as connection:
            await connection.execute(text(statement))
        await engine.dispose()
        assert {1, 2} & {problem.seq for problem in (await store.verify()).problems}
        await store.close()

    asyncio.run(run())


def test_the_command_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In words, and as JSON; nothing in them controls the terminal."""

    async def work(store: ReviewStore) -> None:
        await store.note_policy_change(CHANGE)
        await store.note_policy_change(LATER)

    with_store(default_store_url(str(tmp_path)), [], work)
    assert main(["audit", "policies", "--data-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].endswith("  policy default by olga, version 0a1b2c to 1a2b3c")
    assert lines[4:] == ["  user violence, block: 0.7 to 0.62", "  user guns, flag: none to 0.2"]
    assert "\x1b" not in lines[0]
    assert main(["audit", "policies", "-n", "1", "--json", "--data-dir", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["rules"][0]["after"] == "0.62"
