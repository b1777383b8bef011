"""The review queue: one record after the other from any filter, each for one person at a time.

Records of the same text, side and decision are one item, which stands at the newest of them.
"""

import time
from dataclasses import replace
from typing import Any, Final

from starlette.responses import RedirectResponse, Response

from guardproxy.console.excluding import finish, make
from guardproxy.console.feed import chips, stored_dict
from guardproxy.console.labelling import give
from guardproxy.console.record import one_record, record_values
from guardproxy.console.rendering import HEADERS
from guardproxy.console.visits import Page, Query, Visit, address
from guardproxy.sinks.database import SHEET_HEAD, Filter, sheet_row

# What the last form did: the record, and the exclusions that it made.
DONE: Final = ("did", "excluded")
CLAIM_S: Final = 300.0  # how long a record is kept for the person who looks at it
_LOOKED_AT: Final = 25  # records of a page that is searched for a free one
_PAGES: Final = 20
_LISTED: Final = 100


async def queue(visit: Visit) -> Page | Response:
    """Go to the next record of the filter without a label, or say that there is none."""
    query, before, after = filters(visit), visit.number("before"), visit.number("after")
    if visit.form != "html":
        rows = await visit.parts.store.texts(open_ones(visit), before=before, limit=_LISTED)
        alike = [(await visit.parts.store.same_text(row)).alike for row in rows]
        return Page(
            "queue.html",
            {},
            lambda: {"records": [{**stored_dict(row), "same_text": n} for row, n in zip(rows, alike, strict=True)]},
            lambda: [SHEET_HEAD, *(sheet_row(row) for row in rows)],
        )
    found = await _previous(visit, after) if after is not None else await _next(visit, before)
    if found is not None:
        return _go(f"/queue/{found}", {**query, **_done(visit)})
    values = {
        "chips": chips(query, "/queue"),
        "query": query,
        "turned_round": before is not None or after is not None,
        "previous": None if before is None else address("/queue", query, after=before - 1),
        **await _last(visit, query),
        **await progress(visit),
    }
    return Page("queue_end.html", values)


async def item(visit: Visit) -> Page:
    """A record of the queue with the keys that label it."""
    stored = await one_record(visit)
    claimed = await visit.parts.store.claim([stored.record.id], visit.session.id, CLAIM_S)
    query = filters(visit)
    values: dict[str, Any] = {
        **await record_values(visit, stored),
        **await _last(visit, query),
        **await progress(visit),
        "taken": claimed is None,
        "query": query,
        "chips": chips(query, "/queue"),
        "next": address("/queue", query, before=stored.seq),
        "previous": address("/queue", query, after=stored.seq),
        "label_at": address(f"/queue/{stored.record.id}/label", query),
        "exclude_at": address(f"/queue/{stored.record.id}/exclude", query),
    }
    return Page("queue.html", values)


async def _last(visit: Visit, query: Query) -> dict[str, Any]:
    """What the visitor did last, and where to undo it."""
    did, ids = visit.value("did"), visit.value("excluded")
    done = await visit.parts.store.get(did) if did else []
    made = await visit.parts.store.exclusions_named(ids.split(","), time.time()) if ids else []
    return {
        "done": done[0] if len(done) == 1 else None,
        "made": made,
        "together": await visit.parts.store.labelled_together(did, visit.person.name) if len(done) == 1 else 0,
        "undo_at": address(f"/queue/{did}/undo", query, excluded=ids or None),
    }


async def label(visit: Visit) -> Response:
    """Label a record of the queue and go to the next one."""
    stored = await one_record(visit)
    await give(visit, stored, visit.sent.get("kind", ""))
    return _go("/queue", filters(visit), before=stored.seq, did=stored.record.id)


async def exclude(visit: Visit) -> Response:
    """Exclude the text of a record of the queue, which labels it too, and go to the next one."""
    stored = await one_record(visit)
    made = await make(visit, stored)
    ids = ",".join(one.id for one in made)
    return _go("/queue", filters(visit), before=stored.seq, did=stored.record.id, excluded=ids or None)


async def undo(visit: Visit) -> Response:
    """Take back the label that was given last, with those given together with it, and go back to the record.

    The exclusions made with it end.
    """
    stored = await one_record(visit)
    await finish(visit, visit.value("excluded").split(","))
    await visit.parts.store.take_back(stored.record.id, visit.person.name)
    return _go(f"/queue/{stored.record.id}", filters(visit))


def filters(visit: Visit) -> Query:
    """The filters of the address as it states them."""
    return {key: values for key, values in visit.query.items() if key not in ("before", "after", *DONE)}


def open_ones(visit: Visit) -> Filter:
    """The filter of the queue: records without a label, unless the address asks for labelled ones."""
    chosen = visit.filter().acting()
    return chosen if chosen.label is not None or chosen.reviewer is not None else replace(chosen, label="none")


async def progress(visit: Visit) -> dict[str, Any]:
    """How many of the newest records of the queue have a label, and by whom."""
    chosen = visit.filter().acting()
    facets = await visit.parts.store.facets(replace(chosen, label=None, reviewer=None))
    waiting = sum(facets.by.get("label", {}).get("none", {}).values())
    if chosen.reviewer is not None:  # the queue of one person
        waiting = facets.counted - sum(facets.by.get("reviewer", {}).get(chosen.reviewer, {}).values())
    return {
        "total": facets.counted,
        "labelled": max(0, facets.counted - waiting),
        "capped": facets.capped or facets.looked_at is not None,
        "reviewers": [(name, sum(counts.values())) for name, counts in facets.by.get("reviewer", {}).items()],
    }


async def _next(visit: Visit, before: int | None) -> str | None:
    """Claim the newest free record below `before`, and return its id."""
    store, chosen = visit.parts.store, open_ones(visit)
    for _ in range(_PAGES):
        rows = await store.texts(chosen, before=before, limit=_LOOKED_AT)
        if not rows:
            return None
        claimed = await store.claim([row.record.id for row in rows], visit.session.id, CLAIM_S)
        if claimed is not None:
            return claimed
        before = rows[-1].seq
    return None


async def _previous(visit: Visit, after: int) -> str | None:
    """The record before, labelled or not: going back is for looking again."""
    chosen = visit.filter().acting()
    rows = await visit.parts.store.texts(chosen, after=after, limit=1)
    return rows[0].record.id if rows else None


def _done(visit: Visit) -> Query:
    return {key: [visit.value(key)] for key in DONE if visit.value(key)}


def _go(path: str, query: Query, **changed: str | int | None) -> Response:
    return RedirectResponse(address(path, query, **changed), 303, HEADERS)
