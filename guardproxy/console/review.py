"""The review queue: one record after the other from any filter, each for one person at a time."""

from dataclasses import replace
from typing import Any, Final

from starlette.responses import RedirectResponse, Response

from guardproxy.console.feed import HEAD, acting, chips, stored_dict, table_row
from guardproxy.console.labelling import give
from guardproxy.console.record import one_record, record_values
from guardproxy.console.rendering import HEADERS
from guardproxy.console.visits import Page, Query, Visit, address
from guardproxy.sinks.database import Filter, StoredRecord

CLAIM_S: Final = 300.0  # how long a record is kept for the person who looks at it
_LOOKED_AT: Final = 25  # records of a page that is searched for a free one
_PAGES: Final = 20
_LISTED: Final = 100


async def queue(visit: Visit) -> Page | Response:
    """Go to the next record of the filter without a label, or say that there is none."""
    query, before, after = filters(visit), visit.number("before"), visit.number("after")
    if visit.form != "html":
        rows = await visit.parts.store.page(open_ones(visit), before=before, limit=_LISTED)
        return Page(
            "queue.html",
            {},
            lambda: {"records": [stored_dict(row) for row in rows]},
            lambda: [HEAD, *(table_row(row) for row in rows)],
        )
    found = await _previous(visit, after) if after is not None else await _next(visit, before)
    if found is not None:
        return _go(f"/queue/{found}", {**query, **_did(visit)})
    values = {
        "chips": chips(query, "/queue"),
        "query": query,
        "turned_round": before is not None or after is not None,
        **await progress(visit),
    }
    return Page("queue_end.html", values)


async def item(visit: Visit) -> Page:
    """A record of the queue with the keys that label it."""
    stored = await one_record(visit)
    claimed = await visit.parts.store.claim([stored.record.id], visit.session.id, CLAIM_S)
    did = visit.value("did")
    done = await visit.parts.store.get(did) if did else []
    query = filters(visit)
    values: dict[str, Any] = {
        **await record_values(visit, stored),
        **await progress(visit),
        "taken": claimed is None,
        "query": query,
        "chips": chips(query, "/queue"),
        "next": address("/queue", query, before=stored.seq),
        "previous": address("/queue", query, after=stored.seq),
        "label_at": address(f"/queue/{stored.record.id}/label", query),
        "done": done[0] if len(done) == 1 else None,
        "undo_at": address(f"/queue/{did}/undo", query),
    }
    return Page("queue.html", values)


async def label(visit: Visit) -> Response:
    """Label a record of the queue and go to the next one."""
    stored = await one_record(visit)
    await give(visit, stored, visit.sent.get("kind", ""))
    return _go("/queue", filters(visit), before=stored.seq, did=stored.record.id)


async def undo(visit: Visit) -> Response:
    """Withdraw the label that was given last and go back to its record."""
    stored = await one_record(visit)
    await give(visit, stored, "none")
    return _go(f"/queue/{stored.record.id}", filters(visit))


def filters(visit: Visit) -> Query:
    """The filters of the address as it states them."""
    return {key: values for key, values in visit.query.items() if key not in ("before", "after", "did")}


def open_ones(visit: Visit) -> Filter:
    """The filter of the queue: records without a label, unless the address asks for labelled ones."""
    chosen = acting(visit.filter())
    return chosen if chosen.label is not None else replace(chosen, label="none")


async def progress(visit: Visit) -> dict[str, Any]:
    """How many of the newest records of the queue have a label."""
    chosen = replace(acting(visit.filter()), label=None)
    facets = await visit.parts.store.facets(chosen)
    waiting = sum(facets.by.get("label", {}).get("none", {}).values())
    capped = facets.capped or facets.looked_at is not None
    return {"total": facets.counted, "labelled": max(0, facets.counted - waiting), "capped": capped}


async def _next(visit: Visit, before: int | None) -> str | None:
    """Claim the newest free record below `before`, and return its id."""
    store, chosen = visit.parts.store, open_ones(visit)
    for _ in range(_PAGES):
        rows = await store.page(chosen, before=before, limit=_LOOKED_AT)
        if not rows:
            return None
        claimed = await store.claim([row.record.id for row in rows], visit.session.id, CLAIM_S)
        if claimed is not None:
            return claimed
        before = rows[-1].seq
    return None


async def _previous(visit: Visit, after: int) -> str | None:
    """The record before, labelled or not: going back is for looking again."""
    chosen = acting(visit.filter())
    rows: list[StoredRecord] = await visit.parts.store.page(chosen, after=after, limit=1)
    return rows[0].record.id if rows else None


def _did(visit: Visit) -> Query:
    return {"did": [visit.value("did")]} if visit.value("did") else {}


def _go(path: str, query: Query, **changed: str | int | None) -> Response:
    return RedirectResponse(address(path, query, **changed), 303, HEADERS)
