"""Changes of thresholds that people saved: each is a row of its own in the chain, and is never erased."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.reviews import ChangedRule, PolicyChange
from guardproxy.sinks.database.append import Appending
from guardproxy.sinks.database.keys import ChainKey
from guardproxy.sinks.database.schema import policy_changes, records
from guardproxy.sinks.shared import policy_change_dict

POLICY_CHANGE = "policy_change"  # the kind of the row, and the key of its content


def policy_change_values(change: PolicyChange) -> dict[str, Any]:
    """Return the copies of a change that the table of changes holds."""
    return {"time": change.time}


def read_policy_change(content: str) -> PolicyChange | None:
    """Return the change in the content of a row, None if the row holds something else."""
    entry = json.loads(content).get(POLICY_CHANGE)
    if not isinstance(entry, Mapping):
        return None
    return PolicyChange(**{**entry, "rules": tuple(ChangedRule(**rule) for rule in entry["rules"])})


async def add_policy_change(connection: AsyncConnection, change: PolicyChange, key: ChainKey | None) -> None:
    """Append a change to the chain. Raises ValueError if it names nobody, ConfigError if the chain has another key."""
    if not change.by.strip():
        raise ValueError("a change of a policy names nobody: say who saved it")
    appending = await Appending.at_end(connection, key)
    entry = json.dumps({POLICY_CHANGE: policy_change_dict(change)}, separators=(",", ":"))
    row = {"seq": appending.add(POLICY_CHANGE, entry), **policy_change_values(change)}
    await appending.insert()
    await connection.execute(insert(policy_changes), [row])


async def read_policy_changes(connection: AsyncConnection, limit: int) -> list[PolicyChange]:
    """Return the last `limit` changes, newest first."""
    query = (
        select(records.c.content)
        .join(policy_changes, policy_changes.c.seq == records.c.seq)
        .order_by(policy_changes.c.seq.desc())
        .limit(limit)
    )
    return [found for content in await connection.scalars(query) if (found := read_policy_change(content))]
