"""Labels that people give, and the erasure of a request's records."""

import time
from typing import Final, cast, get_args

import structlog
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from guardproxy.console.record import one_record
from guardproxy.console.rendering import HEADERS
from guardproxy.console.visits import Visit, address
from guardproxy.errors import GuardproxyError
from guardproxy.observe.masking import mask_credentials
from guardproxy.reviews import Label, LabelKind
from guardproxy.sinks.database import Filter, StoredRecord

log = structlog.get_logger("guardproxy.console")


SAME_TEXT: Final = "same-text"  # the field of a form that asks for a label on every record of the text


async def give(visit: Visit, stored: StoredRecord, kind: str) -> None:
    """Store a label in the visitor's name, if the form says so on every record of the same text, side and decision.

    Raises HTTPException if the form has a mistake.
    """
    if kind not in get_args(LabelKind):
        raise HTTPException(400, f"{kind!r} is no label; choose false positive, correct or false negative.")
    category = visit.sent.get("category", "")
    label = Label(
        stored.record.id,
        cast(LabelKind, kind),
        visit.person.name,
        time.time(),
        category,
        mask_credentials(visit.sent.get("note", "").strip()),
    )
    try:
        if visit.sent.get(SAME_TEXT):
            await visit.parts.store.label_same([label])
        else:
            await visit.parts.store.label([label])
    except ValueError as error:
        raise HTTPException(400, f"The label was not stored: {error}.") from None


async def label(visit: Visit) -> Response:
    """Label a record from its own page."""
    stored = await one_record(visit)
    await give(visit, stored, visit.sent.get("kind", ""))
    return RedirectResponse(address(f"/records/{stored.record.id}") + "#labels", 303, HEADERS)


async def second_opinion(visit: Visit) -> Response:
    """Ask another guard about a record, in the visitor's name."""
    stored, ask = await one_record(visit), visit.parts.opinion
    if ask is None:
        raise HTTPException(404, "No guard gives second opinions. An operator can name one in audit.second_opinion.")
    try:
        await ask(visit.parts.store, stored, visit.person.name)
    except (GuardproxyError, ValueError) as error:
        log.warning("console_no_opinion", record=stored.seq, error=str(error))
        raise HTTPException(502, f"There is no second opinion: {error}.") from None
    return RedirectResponse(address(f"/records/{stored.record.id}") + "#opinions", 303, HEADERS)


async def erase(visit: Visit) -> Response:
    """Erase every record of the record's request."""
    stored = await one_record(visit)
    if visit.sent.get("sure") != "yes":
        raise HTTPException(400, "Nothing was erased. Tick the box that confirms it, then send the form again.")
    request_id = stored.record.origin.request_id
    count = await visit.parts.store.erase(Filter(request_id=request_id))
    log.warning("console_erased", name=visit.person.name, request_id=request_id, records=count)
    return RedirectResponse(address("/feed"), 303, HEADERS)
