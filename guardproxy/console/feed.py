"""The decisions, newest first: filters, facets with counts, and new records as they arrive."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import RedirectResponse, Response, StreamingResponse

from guardproxy.console.rendering import HEADERS, rendered
from guardproxy.console.visits import BASE, Page, Query, Visit, address
from guardproxy.sinks.database import FACETS, SHEET_HEAD, Facets, Filter, FilterError, StoredRecord, sheet_row
from guardproxy.sinks.shared import label_dict, to_dict

PAGE: Final = 50  # records of a page
_POLL_S: Final = 1.0
# A live page asks again after so many seconds: a server that stops waits for its open answers.
_LIVE_S: Final = 10.0
_MOST_VALUES: Final = 8  # of a facet
PERIODS: Final = (("1h", "last hour"), ("24h", "last 24 hours"), ("7d", "last 7 days"), ("30d", "last 30 days"))


@dataclass(frozen=True, slots=True)
class FacetValue:
    """A value of a facet: how many of the counted records have it, and the address that selects it."""

    value: str
    count: int
    blocked: int
    link: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class Facet:
    """A field by which the records are counted, with its most frequent values; `more` values are left out."""

    name: str
    choices: Sequence[FacetValue]
    more: int


async def home(visit: Visit) -> Response:
    """The first page."""
    return RedirectResponse(f"{BASE}/feed", 303, HEADERS)


async def feed(visit: Visit) -> Page:
    """A page of records, without decisions of shadow policies unless the address asks for them."""
    chosen = visit.filter().acting()
    before, after = visit.number("before"), visit.number("after")
    store = visit.parts.store
    found = await store.page(chosen, before=before, after=after, limit=PAGE + 1)
    more = len(found) > PAGE
    rows = (found[1:] if after is not None else found[:PAGE]) if more else found
    facets = await store.facets(chosen)
    query = filters_only(visit)
    older = rows and (more if after is None else True)
    newer = rows and (more if after is not None else before is not None)
    values: dict[str, Any] = {
        "rows": rows,
        "facets": facet_lists(facets, query, "/feed"),
        "counted": facets,
        "chips": chips(query, "/feed"),
        "query": query,
        "older": address("/feed", query, before=rows[-1].seq) if older else None,
        "newer": address("/feed", query, after=rows[0].seq) if newer else None,
        "first_page": before is None and after is None,
        "last": max((row.seq for row in rows), default=(await store.head()).seq),
        "periods": PERIODS,
        "unmatched": [] if rows else await store.unmatched(chosen),
        "json": address("/feed.json", visit.query),
        "csv": address("/feed.csv", visit.query),
    }
    return Page(
        "feed.html",
        values,
        lambda: {
            "records": [stored_dict(row) for row in rows],
            "facets": facets.by,
            "counted": facets.counted,
            "capped": facets.capped,
            "looked_at": facets.looked_at,
            "older": values["older"],
            "newer": values["newer"],
        },
        lambda: [SHEET_HEAD, *(sheet_row(row) for row in rows)],
    )


async def live(visit: Visit) -> Response:
    """New records that match, as server-sent events; the number of the last one that the page has is `last`."""
    chosen = visit.filter().acting()
    last = visit.request.headers.get("last-event-id", "")
    known = int(last) if last.isascii() and last.isdigit() and len(last) <= 18 else visit.number("last")
    if known is None:
        raise FilterError("last", "name the number of the last record that the page shows")
    # Mistakes of the filter are answered before the stream begins.
    await visit.parts.store.page(chosen, after=known, limit=1)
    headers = {**HEADERS, "x-accel-buffering": "no"}
    return StreamingResponse(_events(visit, chosen, known), 200, headers, "text/event-stream")


async def _events(visit: Visit, chosen: Filter, last: int) -> AsyncIterator[str]:
    ends = time.monotonic() + _LIVE_S
    yield "retry: 1000\n\n"
    while time.monotonic() < ends and not visit.parts.stopping():
        found = await visit.parts.store.page(chosen, after=last, limit=PAGE)
        if found:
            last = found[0].seq
            html = rendered("rows.html", rows=found, fresh=True)
            data = "".join(f"data: {line}\n" for line in html.splitlines() if line.strip())
            yield f"id: {last}\nevent: rows\n{data}\n"
        await asyncio.sleep(_POLL_S)


def filters_only(visit: Visit) -> Query:
    """The filters of the address as it states them, so that an age stays an age."""
    return {key: values for key, values in visit.query.items() if key not in ("before", "after", "last")}


def facet_lists(facets: Facets, query: Query, path: str) -> list[Facet]:
    """The facets with a value that tells records apart, or that the filter names."""
    lists: list[Facet] = []
    for name in FACETS:
        counts = facets.by.get(name, {})
        chosen = query.get(name, [""])[0]
        if len(counts) < 2 and not chosen and name not in ("category", "label", "reviewer"):
            continue
        choices = [
            FacetValue(
                value,
                sum(by_action.values()),
                by_action.get("block", 0),
                address(path, query, **{name: None if value == chosen else value}),
                value == chosen,
            )
            for value, by_action in counts.items()
            if value
        ]
        if choices:
            lists.append(Facet(name, choices[:_MOST_VALUES], len(choices[_MOST_VALUES:])))
    return lists


def chips(query: Query, path: str) -> list[tuple[str, str, str]]:
    """The filters in force: key, value, and the address without it."""
    found: list[tuple[str, str, str]] = []
    for key, values in query.items():
        for value in values:
            rest = [other for other in values if other != value]
            without = {name: list(kept) for name, kept in query.items() if name != key} | ({key: rest} if rest else {})
            found.append((key, value, address(path, without)))
    return found


def stored_dict(stored: StoredRecord) -> dict[str, Any]:
    """A record with its number and labels as JSON values."""
    return {"number": stored.seq, **to_dict(stored.record), "labels": [label_dict(label) for label in stored.labels]}
