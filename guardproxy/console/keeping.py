"""The store itself: whether its chain is whole, and the erasure of what a filter selects."""

from collections.abc import Mapping
from typing import Any, Final

import structlog
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from guardproxy.console.feed import chips, filters_only
from guardproxy.console.rendering import HEADERS
from guardproxy.console.visits import Page, Visit, address
from guardproxy.sinks.database import Filter, Verification

log = structlog.get_logger("guardproxy.console")

QUERY: Final = ("erased",)
_SHOWN: Final = 5  # of the newest records that an erasure would take
_MOST_PROBLEMS: Final = 100
_SAVED: Final = 10  # the newest changes of policies


async def store(visit: Visit) -> Page:
    """The last row of the chain, and what the filter would erase."""
    chosen, reader = visit.filter(), visit.parts.store
    selects = chosen != Filter()
    return await _page(
        visit,
        {
            "count": await reader.count(chosen) if selects else 0,
            "newest": await reader.page(chosen, limit=_SHOWN) if selects else [],
            "selects": selects,
            "erased": visit.number("erased"),
        },
    )


async def verify(visit: Visit) -> Page:
    """Read every row, and say which were edited, removed or moved."""
    found = await visit.parts.store.verify()
    log.info("console_verified", name=visit.person.name, rows=found.rows, problems=len(found.problems))
    return await _page(visit, {"verified": found})


async def erase(visit: Visit) -> Response:
    """Erase every record that the filter selects."""
    chosen = visit.filter()
    if chosen == Filter():
        raise HTTPException(400, "Nothing was erased. Name a user, a client, a session or a time first.")
    if visit.sent.get("sure") != "yes":
        raise HTTPException(400, "Nothing was erased. Tick the box that confirms it, then send the form again.")
    count = await visit.parts.store.erase(chosen)
    log.warning("console_erased", name=visit.person.name, filter=chosen.to_query(), records=count)
    return RedirectResponse(address("/store", erased=count), 303, HEADERS)


async def _page(visit: Visit, values: Mapping[str, Any]) -> Page:
    query = filters_only(visit)
    verified: Verification | None = values.get("verified")
    shared = {
        "count": 0,
        "newest": [],
        "selects": False,
        "erased": None,
        "verified": None,
        "most": _MOST_PROBLEMS,
        "policy_changes": await visit.parts.store.policy_changes(_SAVED),
        "head": verified.head if verified else await visit.parts.store.head(),
        "query": query,
        "chips": chips(query, "/store"),
    }
    return Page("store.html", {**shared, **values})
