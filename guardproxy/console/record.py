"""One record: its conversation, its probabilities against the thresholds, what was judged, and what is like it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from guardproxy.console.feed import stored_dict
from guardproxy.console.rendering import HEADERS
from guardproxy.console.shown import TextPiece, pieces
from guardproxy.console.visits import Page, Visit, address
from guardproxy.policy import UNSAFE, Policy, Rule, SideRules
from guardproxy.reviews import EXCLUDED_FOR, Exclusion
from guardproxy.sinks.database import SHEET_HEAD, Filter, ReviewStore, StoredRecord, judged_hash, sheet_row
from guardproxy.sinks.shared import opinion_dict
from guardproxy.toolviews import is_of_tool
from guardproxy.types import SEVERITY, Coverage, Decision, Record, Span, Verdict

PERIODS: Final = (("7d", "7 days"), ("30d", "30 days"), ("90d", "90 days"), ("365d", "a year"))  # of exclusions
_TURNS: Final = 60  # the most turns of a session that are shown
_OTHERS: Final = 8
_SHOWN: Final = 50_000  # characters of the text that the page is about; of the other turns:
_SHOWN_BESIDE: Final = 5_000


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """A judged turn in the conversation; `current` is the record that the page is about."""

    stored: StoredRecord
    pieces: Sequence[TextPiece]
    current: bool


@dataclass(frozen=True, slots=True)
class Bar:
    """A probability with the rules that cover its category, and where it was found."""

    category: str
    name: str
    probability: float
    rules: Sequence[Rule]
    reached: str
    where: str


async def record(visit: Visit) -> Page | Response:
    """The page of a record; of several records of a request, the feed of these."""
    name = visit.request.path_params["name"]
    found = await visit.parts.store.get(name)
    if len(found) > 1:
        return RedirectResponse(address("/feed", {}, request_id=name, shadow="with"), 303, HEADERS)
    stored = found[0] if found else None
    if stored is None:
        raise HTTPException(404, "There is no such record. It may have been erased, or the address has a mistake.")
    values = {
        **await record_values(visit, stored),
        "json": address(f"/records/{stored.record.id}.json"),
        "csv": address(f"/records/{stored.record.id}.csv"),
    }

    def data() -> dict[str, Any]:
        return {**stored_dict(stored), "opinions": [opinion_dict(one) for one in values["opinions"]]}

    return Page("record.html", values, data, lambda: [SHEET_HEAD, sheet_row(stored)])


async def one_record(visit: Visit) -> StoredRecord:
    """The record that the address names. Raises HTTPException."""
    found = await visit.parts.store.get(visit.request.path_params["name"])
    if len(found) != 1:
        raise HTTPException(404, "There is no such record. It may have been erased in the meantime.")
    return found[0]


async def record_values(visit: Visit, stored: StoredRecord) -> dict[str, Any]:
    """What the templates need to show a record."""
    store, shown = visit.parts.store, stored.record
    policy = visit.parts.policies().policies.get(shown.policy)
    history = await store.label_history([shown.id])
    # A client may be a service with many end users.
    sender = "user" if shown.origin.user else "client"
    name = getattr(shown.origin, sender)
    return {
        "stored": stored,
        "record": shown,
        "turns": await conversation(store, stored),
        "bars": bars(shown, policy, visit.parts.categories),
        "policy_now": "gone" if policy is None else "same" if policy.version == shown.policy_version else "changed",
        "coverage": coverage_words(shown.coverage),
        "whole": is_whole(shown),
        "history": history.get(shown.id, ()),
        "opinions": (await store.opinions([shown.id])).get(shown.id, ()),
        "asks_opinion": visit.parts.opinion is not None,
        "exclusions": await standing(store, shown),
        "not_excludable": not_excludable(shown),
        "exclusion_periods": PERIODS,
        "excluded_for": EXCLUDED_FOR,
        "sender": sender,
        "sender_at": address("/feed", {}, **{sender: name}),
        "of_sender": await _others(store, stored, Filter(**{sender: name}).acting()) if name else [],
        "of_text": await store.of_same_text(stored, _OTHERS),
        "same": await store.same_text(stored),
    }


async def standing(store: ReviewStore, shown: Record) -> list[Exclusion]:
    """The exclusions of the store in force for the text of a record, or made from it."""
    text = "" if not_excludable(shown) else judged_hash(shown)
    return await store.exclusions_about(text, shown.id, time.time())


def not_excludable(shown: Record) -> str:
    """Why the text of a record cannot be excluded; empty if it can."""
    try:
        judged_hash(shown)
    except ValueError as error:
        return str(error)
    return ""


async def conversation(store: ReviewStore, stored: StoredRecord) -> list[ChatTurn]:
    """The turns of the record's session up to it, and those of its request, each text once, in their order."""
    origin = stored.record.origin
    rows = await store.query(Filter(request_id=origin.request_id, shadow="without"), _TURNS, newest_first=False)
    if origin.session:
        before = await store.page(Filter(session=origin.session, shadow="without"), before=stored.seq, limit=_TURNS)
        rows = [*reversed(before), *rows]
    by_turn: dict[tuple[Any, ...], StoredRecord] = {}
    for row in (*rows, stored):
        key = (row.record.side, row.record.turn, row.record.choice, row.record.text)
        if key not in by_turn or row.seq == stored.seq:
            by_turn[key] = row
    turns = [ChatTurn(row, (), row.seq == stored.seq) for row in by_turn.values()]
    return [
        ChatTurn(
            turn.stored,
            pieces(turn.stored.record.text, span_of(turn), _SHOWN if turn.current else _SHOWN_BESIDE),
            turn.current,
        )
        for turn in turns
    ]


def span_of(turn: ChatTurn) -> Span | None:
    """The stretch of the text that carries the decision; None if it is the whole text, or in another form of it."""
    shown = turn.stored.record
    verdict, size = shown.verdict, len(shown.text)
    if not turn.current or verdict is None or not is_whole(shown):
        return None
    reached = set(shown.decision.categories)
    candidates = sorted((f for f in verdict.findings if f.category in reached), key=lambda f: -f.probability)
    found = [(finding.view, finding.span) for finding in candidates] or [(verdict.view, verdict.span)]
    view, span = found[0]
    if view != "text" or span is None or not 0 <= span[0] < span[1] <= size or span == (0, size):
        return None
    return span


def is_whole(shown: Record) -> bool:
    """Whether the stored text has the length of the judged one, so that positions in one hold for the other."""
    length = -1
    for part in shown.coverage:
        if part.kind != "opaque" and part.characters:
            length += part.characters + 1
            if length >= len(shown.text):
                break
    return bool(shown.text) and length == len(shown.text)


def bars(shown: Record, policy: Policy | None, names: Mapping[str, str]) -> list[Bar]:
    """The bars of a record. If its policy has changed since, only the thresholds that were reached are known."""
    if policy is not None and policy.version == shown.policy_version:
        return bars_of(shown.verdict, shown.decision, policy.side(shown.side), names, policy.tool)
    then: dict[str, tuple[Rule, ...]] = {}
    for reason in shown.decision.reasons:
        rule = Rule(reason.action, reason.threshold, "", reason.with_unsafe)
        then[reason.category] = (*then.get(reason.category, ()), rule)
    return bars_of(shown.verdict, shown.decision, SideRules(then), names)


def bars_of(
    verdict: Verdict | None,
    decision: Decision,
    rules: SideRules,
    names: Mapping[str, str],
    of_tools: SideRules | None = None,
) -> list[Bar]:
    """P(unsafe), then every category with its rules, most probable first; without a verdict none.

    `of_tools` are the rules for what was found in the results of tools, if these have their own.
    """
    if verdict is None:
        return []

    def reached(category: str, probability: float) -> str:
        # A category may be found in the user's text and, with another probability, in the results of tools.
        own = [one for one in decision.reasons if one.category == category and one.probability <= probability]
        return max(own, key=lambda one: SEVERITY[one.action]).action if own else ""

    overall = Bar(
        UNSAFE,
        "P(unsafe), over all categories",
        verdict.unsafe,
        rules.by_category.get(UNSAFE, ()),
        reached(UNSAFE, verdict.unsafe),
        where(verdict.view, verdict.span),
    )
    found = [overall]
    for finding in sorted(verdict.findings, key=lambda finding: -finding.probability):
        name = names.get(finding.category, finding.category.replace("_", " "))
        for_it = (of_tools or rules) if is_of_tool(finding.view) else rules
        found.append(
            Bar(
                finding.category,
                f"{name} ({finding.label})" if finding.label not in ("", finding.category, name) else name,
                finding.probability,
                for_it.by_category.get(UNSAFE, ()) if finding.category == UNSAFE else for_it.covering(finding.category),
                reached(finding.category, finding.probability),
                where(finding.view, finding.span),
            )
        )
    return found


def where(view: str, span: Span | None) -> str:
    """In words, which form of the text gave a probability, and which stretch of it."""
    form = "the text" if view == "text" else f"the view {view}"
    return f"{form}, characters {span[0]:,} to {span[1]:,}" if span else form


def coverage_words(coverage: Sequence[Coverage]) -> str:
    """In words, how much of a turn was judged."""
    judged = sum(part.judged for part in coverage)
    if not coverage:
        return "The record does not say which parts were judged."
    if judged == len(coverage):
        parts = "Its one part was judged." if judged == 1 else f"All {judged} parts were judged."
        return f"{parts} Nothing of it passed unread."
    return f"{judged} of {len(coverage)} parts were judged. The table says why the others were not."


async def _others(store: ReviewStore, stored: StoredRecord, chosen: Filter) -> list[StoredRecord]:
    return [row for row in await store.page(chosen, limit=_OTHERS + 1) if row.seq != stored.seq][:_OTHERS]
