"""Exclusions: made from a record with one key or button, listed, and ended before their time."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from guardproxy.console.labelling import give
from guardproxy.console.record import one_record, standing
from guardproxy.console.rendering import HEADERS
from guardproxy.console.visits import Page, Visit, address
from guardproxy.durations import duration_s
from guardproxy.observe.masking import mask_credentials
from guardproxy.reviews import EXCLUDED_FOR, Exclusion
from guardproxy.sinks.database import StoredRecord, excluded_categories, judged_hash, new_exclusion_id
from guardproxy.sinks.shared import exclusion_dict

log = structlog.get_logger("guardproxy.console")

_REASON: Final = "found harmless in review"  # if nobody writes another one
_SAME_S: Final = 3600.0  # an exclusion that ends so much earlier is not made again
_PAGE: Final = 50
_HEAD: Final = ("id", "text_sha256", "category", "reason", "by", "made", "until", "record")


@dataclass(frozen=True, slots=True)
class ListedExclusion:
    """An exclusion with the record that it was made from, None if that is erased."""

    exclusion: Exclusion
    stored: StoredRecord | None
    in_force: bool


async def make(visit: Visit, stored: StoredRecord) -> list[Exclusion]:
    """Exclude the text of a record in the visitor's name, and label the decision as the exclusion says.

    The category, the time and the reason are those of the form; without a category, all that reached a threshold are
    excluded. What is excluded for long enough already is left as it is. Return the new exclusions.

    Raises HTTPException if the record has no such category or does not hold the judged text.
    """
    record, now = stored.record, time.time()
    try:
        until = now + duration_s(visit.sent.get("until") or EXCLUDED_FOR)
        categories = excluded_categories(record, visit.sent.get("category", ""))
        text = judged_hash(record)
    except ValueError as error:
        raise HTTPException(400, f"Nothing was excluded. Record {stored.seq}: {error}.") from None
    others = await standing(visit.parts.store, record)
    known = {one.category for one in others if one.text == text and one.until >= until - _SAME_S}
    reason = mask_credentials(visit.sent.get("note", "").strip()) or _REASON
    made = [
        Exclusion(new_exclusion_id(), text, category, reason, visit.person.name, until, now, record.id)
        for category in categories
        if category not in known
    ]
    try:
        await visit.parts.store.exclude(*made)
    except ValueError as error:
        raise HTTPException(400, f"Nothing was excluded: {error}.") from None
    log.info("console_excluded", name=visit.person.name, record=record.id, exclusions=[one.id for one in made])
    await give(visit, stored, "correct" if record.decision.action == "pass" else "false_positive")
    return made


async def finish(visit: Visit, ids: Collection[str]) -> None:
    """End those of these exclusions that are in force, in the visitor's name."""
    now = time.time()
    found = await visit.parts.store.exclusions_named(ids, now)
    await visit.parts.store.exclude(*(replace(one, by=visit.person.name, until=now, time=now) for one in found))
    log.info("console_exclusions_ended", name=visit.person.name, exclusions=[one.id for one in found])


async def exclude(visit: Visit) -> Response:
    """Exclude the text of a record from its own page."""
    stored = await one_record(visit)
    await make(visit, stored)
    return RedirectResponse(address(f"/records/{stored.record.id}") + "#exclusions", 303, HEADERS)


async def end(visit: Visit) -> Response:
    """End an exclusion, and go back to the page of the record that the form names, or else to the list."""
    await finish(visit, [visit.request.path_params["name"]])
    found = await visit.parts.store.get(visit.sent.get("record", ""))
    path = f"/records/{found[0].record.id}" if len(found) == 1 else "/exclusions"
    return RedirectResponse(address(path) + ("#exclusions" if found else ""), 303, HEADERS)


async def exclusions(visit: Visit) -> Page:
    """The exclusions of the store, newest first; with `ended` also those that hold no longer."""
    now, start = time.time(), visit.number("start") or 0
    found = (await visit.parts.store.exclusions(0.0 if visit.value("ended") else now))[::-1]
    part = found[start : start + _PAGE]
    values = {
        "listed": [await _listed(visit, one, now) for one in part] if visit.form == "html" else [],
        "total": len(found),
        "ended": bool(visit.value("ended")),
        "newer": address("/exclusions", visit.query, start=max(0, start - _PAGE)) if start else None,
        "older": address("/exclusions", visit.query, start=start + _PAGE) if len(found) > start + _PAGE else None,
        "json": address("/exclusions.json", visit.query),
        "csv": address("/exclusions.csv", visit.query),
    }
    return Page(
        "exclusions.html",
        values,
        lambda: {"exclusions": [exclusion_dict(one) for one in part], "total": len(found)},
        lambda: [_HEAD, *(_row(one) for one in part)],
    )


async def _listed(visit: Visit, one: Exclusion, now: float) -> ListedExclusion:
    found = await visit.parts.store.get(one.record) if one.record else []
    return ListedExclusion(one, found[0] if len(found) == 1 else None, one.until > now)


def _row(one: Exclusion) -> Sequence[object]:
    return [one.id, one.text, one.category, one.reason, one.by, one.time, one.until, one.record]
