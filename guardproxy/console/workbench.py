"""The workbench: other rules, tried at once on the records that the filter selects, and saved."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import RedirectResponse, Response

from guardproxy.console.feed import PERIODS, chips
from guardproxy.console.panels import field_id, name_of, panel_id, panels
from guardproxy.console.parts import ConsoleParts, LoadedTurns, ThresholdChange
from guardproxy.console.rendering import HEADERS
from guardproxy.console.rule_changes import counted, rule_effects
from guardproxy.console.saving import note
from guardproxy.console.thresholds import (
    OFF,
    OWN,
    PREFIX,
    SIDES,
    CategoryRules,
    Edits,
    change_yaml,
    default_value,
    key_of,
    number,
    place_of,
    query_of_edits,
    read_edits,
    rules_of,
    with_edits,
    with_policy,
    yaml_difference,
)
from guardproxy.console.visits import Page, Query, Visit, address
from guardproxy.errors import ConfigError
from guardproxy.policy import ANY, UNSAFE, Policy, PolicySet
from guardproxy.replay import (
    Replay,
    decide_again,
    is_unsafe,
    policy_for,
    stops,
    stored_turn,
)
from guardproxy.sinks.database import Filter, FilterError
from guardproxy.types import SIGNALS, Side

_OTHERS: Final = ("of", "at", "add", "remove", "saved", "unrecorded")  # keys that select no records
QUERY: Final = (*_OTHERS, f"{PREFIX}*")
RECORDS: Final = 2_000  # the newest records that are decided again
_KEPT_S: Final = 60.0  # how long the records of a filter stay in memory while somebody moves thresholds
_KEPT: Final = 3
_ROWS: Final = 10


@dataclass(frozen=True, slots=True)
class Workspace:
    """What an address selects: a policy, the side that is shown, and what is changed of the policy."""

    policy: Policy
    side: Side
    edits: Edits


@dataclass(frozen=True, slots=True)
class Measure:
    """A share of labelled records with its 95 % interval; `value` is None without records."""

    hits: int
    n: int
    interval: tuple[float, float]

    @property
    def value(self) -> float | None:
        """The share."""
        return self.hits / self.n if self.n else None


async def workbench(visit: Visit) -> Page | Response:
    """The rules of a policy with the scores of the records, and what would change."""
    loaded = await load(visit)
    chosen = _chosen(visit, loaded)
    for what in ("add", "remove"):
        if visit.value(what):
            return _moved(visit, chosen, loaded, what, visit.value(what))
    return await _page(visit, chosen)


async def result(visit: Visit) -> Page:
    """What would change, as a part of the page."""
    loaded = await load(visit)
    chosen = _chosen(visit, loaded)
    outcome = await asyncio.to_thread(compare, visit.parts, chosen, loaded)
    return Page("workbench_result.html", {"side": chosen.side, **outcome, **_saving(visit, chosen)})


async def save(visit: Visit) -> Page | Response:
    """Save the rules of the address in the configuration file, and put them in force."""
    chosen = _chosen(visit, await load(visit))
    if not chosen.edits.rules:
        return await _page(visit, chosen, ["Nothing is changed, so there is nothing to save."])
    if chosen.edits.unreadable:
        return await _page(visit, chosen, ["Correct the fields with a mistake first."])
    new = with_edits(chosen.policy, chosen.edits)
    change = ThresholdChange(new, change_yaml(chosen.edits), visit.sent.get("base", ""), visit.person.name)
    try:
        policies = await visit.parts.editor.save(change)
    except ConfigError as error:
        return await _page(visit, chosen, error.problems)
    visit.parts.kept.clear()
    noted = await note(visit, chosen.policy, chosen.edits, policies)
    query = {**_filters(visit), "saved": [policies.version], **({} if noted else {"unrecorded": ["yes"]})}
    where = address("/workbench", query, of=chosen.policy.name, at=chosen.side)
    return RedirectResponse(where, 303, HEADERS)


async def _page(visit: Visit, chosen: Workspace, refused: Sequence[str] = ()) -> Page:
    """The whole page; `refused` says why the changes were not saved."""
    loaded, policies = await load(visit), visit.parts.policies()
    outcome = await asyncio.to_thread(compare, visit.parts, chosen, loaded)
    query = _filters(visit)
    values = {
        "policy": chosen.policy,
        "policies": [
            (name, address("/workbench", query, of=name, at=chosen.side)) for name in sorted(policies.policies)
        ],
        "side": chosen.side,
        "sides": SIDES,
        "panels": await asyncio.to_thread(
            panels, chosen.policy, chosen.side, chosen.edits, loaded, visit.parts.categories
        ),
        "rewrites": visit.parts.rewrites,
        "chips": chips(query, "/workbench"),
        "query": query,
        "periods": PERIODS,
        "result_at": address("/workbench/result"),
        "reset_at": address("/workbench", query, of=chosen.policy.name, at=chosen.side),
        "json": address("/workbench.json", visit.query),
        "csv": address("/workbench.csv", visit.query),
        "refused": refused,
        "saved": visit.value("saved"),
        "unrecorded": visit.value("unrecorded"),
        **outcome,
        **_saving(visit, chosen),
    }
    status = 409 if refused else 200
    return Page("workbench.html", values, lambda: _data(outcome), lambda: _table(outcome), status)


def _saving(visit: Visit, chosen: Workspace) -> dict[str, Any]:
    """What the page needs to offer saving, or to say why it cannot."""
    editor = visit.parts.editor
    query = {**_filters(visit), **query_of_edits(chosen.policy, chosen.edits)}
    return {
        "file": editor.file,
        "preset": editor.preset,
        "may_save": visit.person.may("admin"),
        "save_at": address("/workbench/save", query, of=chosen.policy.name, at=chosen.side),
        "base_version": visit.parts.policies().version,
        "token": visit.parts.people.token(visit.session),
    }


def _moved(visit: Visit, chosen: Workspace, loaded: LoadedTurns, what: str, key: str) -> Response:
    """The page with a rule more or less: its key is in `add` or `remove`. Raises FilterError.

    To remove the key `own` leaves a category without rules of its own, to add it undoes every change of the category.
    """
    try:
        place, part = place_of(key, {*_known(visit.parts, loaded), *(name for _, name in rules_of(chosen.policy))})
    except ValueError as error:
        raise FilterError(what, str(error)) from None
    if part == "how":
        raise FilterError(what, "a rewrite comes and goes with its threshold")
    rules = {**rules_of(chosen.policy), **chosen.edits.rules}
    own, anchor = rules.get(place), panel_id(place)
    query = {name: values for name, values in query_of_edits(chosen.policy, chosen.edits).items() if name != key}
    others = {name: values for name, values in query.items() if not name.startswith(key_of(place, ""))}
    if part == OWN:
        query = others if what == "add" else {**others, key: [OFF]}
    elif what == "add":
        overall = rules.get((place[0], UNSAFE))
        most = overall.block if overall and overall.block is not None else 1.0
        query[key] = [number(default_value(own or CategoryRules(), part, most))]
        anchor = field_id(key)
    else:
        query[key] = [OFF]
        left = own and own.changed(part, None).rules()
        if own is not None and not left and place not in rules_of(chosen.policy):
            query = others  # the category was added here: it goes
    where = address("/workbench", {**_filters(visit), **query}, of=chosen.policy.name, at=place[0])
    return RedirectResponse(f"{where}#{anchor}", 303, HEADERS)


async def load(visit: Visit) -> LoadedTurns:
    """The newest records of the filter. Records that arrive later count after a minute."""
    chosen = visit.filter().acting()
    key, kept, now = json.dumps(_filters(visit)), visit.parts.kept, time.monotonic()
    for known in [name for name, loaded in kept.items() if now - loaded.at > _KEPT_S]:
        del kept[known]
    if key not in kept:
        loaded = await _read(visit, chosen, now)
        while len(kept) >= _KEPT:
            del kept[min(kept, key=lambda name: kept[name].at)]
        kept[key] = loaded
    return kept[key]


async def _read(visit: Visit, chosen: Filter, now: float) -> LoadedTurns:
    found = await visit.parts.store.recent(chosen, RECORDS)
    turns = await asyncio.to_thread(lambda: [stored_turn(number, fields) for number, fields in found])
    given = await visit.parts.store.labels([turn.id for turn in turns])
    return LoadedTurns(turns, {name: labels[-1].kind for name, labels in given.items()}, now)


def _chosen(visit: Visit, loaded: LoadedTurns) -> Workspace:
    policies = visit.parts.policies().policies
    name, side = visit.value("of", "default"), visit.value("at", "user")
    if name not in policies:
        raise FilterError("of", f"there is no policy {name!r}; there are {', '.join(sorted(policies))}")
    if side not in SIDES:
        raise FilterError("at", f"{side!r} is no side; choose {' or '.join(SIDES)}")
    policy, known = policies[name], _known(visit.parts, loaded)
    try:
        edits = read_edits(policy, visit.query, known, visit.parts.rewrites)
    except ValueError as error:
        raise FilterError("threshold", str(error)) from None
    return Workspace(policy, "user" if side == "user" else "assistant", edits)


def _known(parts: ConsoleParts, loaded: LoadedTurns) -> set[str]:
    """The categories that may have rules: those that the guard reports, and those that it has reported."""
    found = {finding.category for turn in loaded.turns if turn.verdict is not None for finding in turn.verdict.findings}
    return {UNSAFE, ANY, *SIGNALS, *parts.categories, *found}


def _filters(visit: Visit) -> Query:
    return {
        key: values
        for key, values in visit.query.items()
        if key not in (*_OTHERS, "before", "after") and not key.startswith(PREFIX)
    }


# --- what would change -----------------------------------------------------------------------------------------------


def compare(parts: ConsoleParts, chosen: Workspace, loaded: LoadedTurns) -> dict[str, Any]:
    """Decide the records again under the policy with its new rules, and compare with the one in force.

    Both sides of the comparison are decided again: otherwise what changed in the configuration since would count too.
    """
    policy, edits = chosen.policy, chosen.edits
    edited = with_edits(policy, edits)
    now, new = parts.policies(), with_policy(parts.policies(), edited)
    before = _decided(now, loaded)
    turns = [turn._replace(decision=before[turn.number]) if turn.number in before else turn for turn in loaded.turns]
    # The label speaks of the decision of then, so `labels` count here and not in the replay.
    replay = Replay(new, {}, rows=_ROWS)
    for turn in turns:
        replay.add(turn)
    report = replay.report()
    yaml, difference = yaml_difference(policy, edited, edits, parts.editor.preset) if edits.rules else ([], [])
    return {
        "report": report,
        "changes": counted(report),
        "rule_changes": rule_effects(now, policy, edits, turns),
        "names": {category: name_of(category, parts.categories) for _, category in edits.rules},
        "measured": _measured(parts, loaded, before, _decided(new, loaded)),
        "labelled": len(loaded.labels),
        "records": len(loaded.turns),
        "capped": len(loaded.turns) == RECORDS,
        "changed": edits.rules,
        "mistakes": [
            (key, field_id(key), name_of(place_of(key)[0][1], parts.categories), text)
            for key, text in edits.mistakes.items()
        ],
        "yaml": "\n".join(yaml),
        "difference": difference,
    }


def _decided(policies: PolicySet, loaded: LoadedTurns) -> dict[int, Any]:
    """The decision of these policies about every record that has a verdict."""
    found: dict[int, Any] = {}
    known: dict[tuple[str, ...], Policy] = {}
    for turn in loaded.turns:
        if turn.shadow or turn.failed or turn.excluded:
            continue
        key = turn.chooses
        if key not in known:
            known[key] = policy_for(policies, turn).policy
        found[turn.number] = decide_again(known[key], turn)
    return found


def _measured(
    parts: ConsoleParts, loaded: LoadedTurns, before: Mapping[int, Any], after: Mapping[int, Any]
) -> dict[str, Any]:
    """Precision and recall of what is stopped, by the labels, now and with the new thresholds."""
    measured: dict[str, Any] = {}
    for name, decisions in (("now", before), ("new", after)):
        hits = stopped = unsafe = 0
        for turn in loaded.turns:
            kind = loaded.labels.get(turn.id)
            if kind is None or kind == "none" or turn.number not in decisions:
                continue
            bad, stop = is_unsafe(kind, turn.decision), stops(decisions[turn.number])
            hits, stopped, unsafe = hits + (bad and stop), stopped + stop, unsafe + bad
        measured[name] = {
            "precision": Measure(hits, stopped, parts.interval(hits, stopped)),
            "recall": Measure(hits, unsafe, parts.interval(hits, unsafe)),
        }
    return measured


# --- other forms -----------------------------------------------------------------------------------------------------


def _data(outcome: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "records": outcome["records"],
        "capped": outcome["capped"],
        "changes": outcome["changes"],
        "labelled": outcome["labelled"],
        **{
            name: {key: {"hits": one.hits, "n": one.n, "ci": list(one.interval)} for key, one in measures.items()}
            for name, measures in outcome["measured"].items()
        },
        "rule_changes": [
            {
                **{name: getattr(one.changed, name) for name in ("side", "category", "rule")},
                **{name: getattr(one.changed, name) or None for name in ("before", "after")},
                "newly": one.newly,
            }
            for one in outcome["rule_changes"]
        ],
        "rules": [
            {"side": side, "category": category, "rules": None if rules is None else rules.content()}
            for (side, category), rules in outcome["changed"].items()
        ],
        "mistakes": [{"rule": key.removeprefix(PREFIX), "mistake": text} for key, _, _, text in outcome["mistakes"]],
        "yaml": outcome["yaml"],
        "rows": [
            {"id": row.turn.id, "change": row.change, "before": row.turn.decision.action, "after": row.after.action}
            for rows in outcome["report"].rows.values()
            for row in rows
        ],
    }


def _table(outcome: Mapping[str, Any]) -> list[Sequence[Any]]:
    rows = [row for found in outcome["report"].rows.values() for row in found]
    head = ["number", "id", "side", "change", "before", "after", "categories", "text"]
    return [
        head,
        *(
            [
                *(row.turn.number, row.turn.id, row.turn.side, row.change, row.turn.decision.action, row.after.action),
                " ".join(row.after.categories),
                row.turn.text,
            ]
            for row in rows
        ),
    ]
