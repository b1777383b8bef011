"""What reviewers need of the store beside its records: bounded counts, and claims on records that somebody looks at."""

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Column, Float, MetaData, String, Table, delete, insert, literal, or_, select

from guardproxy.reviews import Exclusion, Label, Opinion, PolicyChange
from guardproxy.sinks.database.counting import (
    Facets,
    Period,
    Trends,
    count_facets,
    count_periods,
    count_trends,
    facet_columns,
    period_columns,
)
from guardproxy.sinks.database.exclusions import about_text, named, read_exclusions
from guardproxy.sinks.database.filters import EVERY, Filter
from guardproxy.sinks.database.finding import first_records
from guardproxy.sinks.database.keys import opened_parts
from guardproxy.sinks.database.labels import add_labels
from guardproxy.sinks.database.narrowing import narrowest
from guardproxy.sinks.database.opinions import add_opinion, read_opinions
from guardproxy.sinks.database.policy_changes import add_policy_change, read_policy_changes
from guardproxy.sinks.database.queries import StoredRecord, check_names, unmatched
from guardproxy.sinks.database.same_texts import (
    SameText,
    count_same,
    given_together,
    has_text_of,
    key_of,
    newest_of_text,
    taken_back,
    with_same_text,
)
from guardproxy.sinks.database.schema import records, search_key
from guardproxy.sinks.database.sealed import record_fields
from guardproxy.sinks.database.selections import lowest_number, newest_records, sample_of, sampled
from guardproxy.sinks.database.store import AuditStore

# Claims are no part of the chain: they last minutes, and nobody needs to prove them.
_metadata = MetaData()
_claims = Table(
    "guardproxy_claims",
    _metadata,
    Column("record", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("until", Float(53), nullable=False),
)


class ReviewStore(AuditStore):
    """The audit store with the queries of the reviewer's page. Every count looks at a bounded number of records."""

    async def facets(self, chosen: Filter = EVERY, newest: int = 5_000) -> Facets:
        """Count the newest records that match, by every facet."""
        async with self._database.reading() as connection:
            await check_names(connection, chosen)
            lowest, looked_at = await lowest_number(connection, chosen, newest)
            columns = [*facet_columns(), literal(1).label("weight")]
            selection = await newest_records(connection, chosen, columns, newest, lowest)
            facets = await count_facets(connection, selection)
        capped = facets.counted == newest
        looked_at = None if capped else looked_at
        return replace(facets, capped=capped, looked_at=looked_at, with_text=chosen.text is not None)

    async def opine(self, opinion: Opinion) -> None:
        """Store a second opinion durably, as a row of its own. Raises ValueError as `opinions.add_opinion`."""
        async with self._database.writing() as connection:
            await add_opinion(connection, opinion, self._key, self._cipher)

    async def opinions(self, ids: Sequence[str]) -> dict[str, tuple[Opinion, ...]]:
        """Return the second opinions on the records with these ids, oldest first."""
        async with self._database.reading() as connection:
            return await read_opinions(connection, ids, self._cipher)

    async def unmatched(self, chosen: Filter) -> list[str]:
        """Say of every name in the filter that no record has, in a sentence: why the filter finds nothing."""
        async with self._database.reading() as connection:
            return await unmatched(connection, chosen)

    async def totals(self, chosen: Filter) -> Facets:
        """Count the records of a time, by every facet, in a sample if they are many."""
        async with self._database.reading() as connection:
            await check_names(connection, chosen)
            sample = await sample_of(connection, chosen)
            selection = await sampled(connection, chosen, sample, facet_columns())
            return replace(await count_facets(connection, selection), sample=sample)

    async def periods(self, chosen: Filter, length_s: float) -> list[Period]:
        """Count the records of a time, as `totals`, by periods of `length_s` seconds, oldest first.

        Empty periods are left out.
        """
        async with self._database.reading() as connection:
            await check_names(connection, chosen)
            sample = await sample_of(connection, chosen)
            selection = await sampled(connection, chosen, sample, period_columns(length_s))
            return await count_periods(connection, selection, length_s)

    async def trends(self, chosen: Filter, length_s: float, by: str) -> Trends:
        """Count the records of a time, as `totals`, by value of `by`, one of `TREND_FIELDS`, and by period and action.

        `category` counts a record for every category that reached a threshold. Periods are as in `periods`, by their
        start; a value without a name is left out.
        """
        async with self._database.reading() as connection:
            await check_names(connection, chosen)
            sample = await sample_of(connection, chosen)
            selection = await sampled(connection, chosen, sample, period_columns(length_s))
            return await count_trends(connection, selection, length_s, by)

    async def recent(self, chosen: Filter, newest: int) -> list[tuple[int, dict[str, Any]]]:
        """Return number and fields (`shared.to_dict`) of the newest records that match, newest first."""
        found: list[tuple[int, dict[str, Any]]] = []
        before: int | None = None
        while len(found) < newest:
            where = [] if before is None else [records.c.seq < before]
            columns = (records.c.seq, records.c.content, records.c.sealed_text, records.c.sealed_quotes)
            limit = min(500, newest - len(found))
            async with self._database.reading() as connection:
                await check_names(connection, chosen)
                narrow = await narrowest(connection, chosen)
                which = first_records(chosen, self._dialect, (), *where, limit=limit, narrowest=narrow).subquery()
                query = select(*columns).where(records.c.seq.in_(select(which.c.seq))).order_by(records.c.seq.desc())
                part = (await connection.execute(query)).all()
            if not part:
                break
            found += [(row.seq, record_fields(row.content, opened_parts(row, self._cipher))) for row in part]
            before = part[-1].seq
        return found

    # --- records of the same text ---------------------------------------------------------------------------------

    async def texts(
        self, chosen: Filter, *, before: int | None = None, after: int | None = None, limit: int = 50
    ) -> list[StoredRecord]:
        """Return a page of records as `page` does, of those with the same text, side and decision only the newest."""
        where = [newest_of_text(chosen, self._dialect)]
        where += [] if before is None else [records.c.seq < before]
        if after is None:
            return await self._chosen(chosen, where, limit, newest_first=True)
        return (await self._chosen(chosen, [*where, records.c.seq > after], limit))[::-1]

    async def same_text(self, stored: StoredRecord) -> SameText:
        """Return how many other records have exactly the text of a record."""
        async with self._database.reading() as connection:
            return await count_same(connection, stored)

    async def of_same_text(self, stored: StoredRecord, limit: int) -> list[StoredRecord]:
        """Return the newest other records of exactly the same text, whatever was decided about it."""
        async with self._database.reading() as connection:
            key = await key_of(connection, stored.record.id)
            if key is None:
                return []
            seq = records.c.seq
            newest = select(seq).where(has_text_of(key), seq != stored.seq).order_by(seq.desc()).limit(limit)
            numbers = list(await connection.scalars(newest))
        return await self._chosen(EVERY, [records.c.seq.in_(numbers)], limit, newest_first=True)

    async def label_same(self, given: Sequence[Label]) -> int:
        """Store each label on every record of the same text, side and decision, in one transaction.

        Return how many records these are. Raises ValueError as `label`, and if the store does not know which these are
        or if there are too many.
        """
        async with self._database.writing() as connection:
            every = await with_same_text(connection, given)
            await add_labels(connection, every, self._key)
        return len(every)

    async def labelled_together(self, record: str, person: str) -> int:
        """Return how many records a person labelled at once when they labelled this one; 0 without such a label."""
        async with self._database.reading() as connection:
            return len(await given_together(connection, record, person))

    async def take_back(self, record: str, person: str) -> int:
        """Take a person's last label on a record back, and those that they gave with it, in one transaction.

        What the person had said before holds again, as a row of its own. Return how many records these are.
        """
        async with self._database.writing() as connection:
            said = await given_together(connection, record, person)
            await add_labels(connection, taken_back(said, time.time()), self._key)
        return len(said)

    # --- exclusions of one text --------------------------------------------------------------------------------------

    async def exclusions_about(self, text: str, record: str, after: float) -> list[Exclusion]:
        """Return the exclusions of the text with this hash, or made from this record, that end later than `after`.

        Without `text`, the latter alone.
        """
        async with self._database.reading() as connection:
            return await read_exclusions(connection, after, about_text(text, record))

    async def exclusions_named(self, ids: Collection[str], after: float) -> list[Exclusion]:
        """Return the exclusions with these ids that end later than `after`."""
        async with self._database.reading() as connection:
            return await read_exclusions(connection, after, named(ids))

    # --- changes of policies ----------------------------------------------------------------------------------------

    async def note_policy_change(self, change: PolicyChange) -> None:
        """Store a change of a policy durably, as a row of its own. Raises ValueError if it names nobody."""
        async with self._database.writing() as connection:
            await add_policy_change(connection, change, self._key)

    async def policy_changes(self, limit: int) -> list[PolicyChange]:
        """Return the last `limit` changes of policies, newest first."""
        async with self._database.reading() as connection:
            return await read_policy_changes(connection, limit)

    # --- claims ------------------------------------------------------------------------------------------------------

    async def claim(self, ids: Sequence[str], holder: str, seconds: float) -> str | None:
        """Claim the first of these records that nobody else holds, for some seconds; return its id, None without one.

        The other records of the same text, side and decision are claimed with it. What the holder held before is
        released.
        """
        now = time.time()
        async with self._database.writing() as connection:
            await connection.run_sync(_metadata.create_all)
            await connection.execute(delete(_claims).where(or_(_claims.c.until < now, _claims.c.holder == holder)))
            found = select(records.c.id, records.c.same_key).where(records.c.id.in_(map(search_key, ids)))
            same: dict[str, str | None] = {row.id: row.same_key for row in await connection.execute(found)}
            keys = {same.get(search_key(name)) or search_key(name): name for name in reversed(ids)}
            keys = dict(reversed(keys.items()))  # of records with the same text, the first one
            held = set(await connection.scalars(select(_claims.c.record).where(_claims.c.record.in_(keys))))
            free = next((key for key in keys if key not in held), None)
            if free is None:
                return None
            await connection.execute(insert(_claims), {"record": free, "holder": holder, "until": now + seconds})
        return keys[free]

    async def release(self, holder: str) -> None:
        """Give back what the holder holds."""
        async with self._database.writing() as connection:
            await connection.run_sync(_metadata.create_all)
            await connection.execute(delete(_claims).where(_claims.c.holder == holder))
