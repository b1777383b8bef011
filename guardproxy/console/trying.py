"""A text box and the configured guards side by side: what each says of a text, and what each policy would do."""

from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException

from guardproxy.console.parts import Trial
from guardproxy.console.record import Bar, bars_of
from guardproxy.console.shown import pieces
from guardproxy.console.visits import Page, Visit
from guardproxy.types import Decision, Side

_MOST_CHARACTERS = 20_000
_SHOWN = 2_000  # characters of a view that the page shows


async def form(visit: Visit) -> Page:
    """The empty form."""
    return Page("try.html", {"text": "", "side": "user", "tried": None, "problem": ""})


async def judge(visit: Visit) -> Page:
    """Judge the text of the form. It leaves no record."""
    text, side = visit.sent.get("text", ""), visit.sent.get("side", "user")
    if side not in ("user", "assistant"):
        raise HTTPException(400, f"{side!r} is no side; choose user or assistant.")
    if not text.strip():
        return _with_problem(text, side, "Write a text first.")
    if len(text) > _MOST_CHARACTERS:
        problem = f"The text has {len(text):,} characters; this page judges at most {_MOST_CHARACTERS:,}."
        return _with_problem(text, side, problem)
    chosen: Side = "user" if side == "user" else "assistant"
    tried = await visit.parts.try_it(text, chosen)
    values: dict[str, Any] = {
        "text": text,
        "side": side,
        "tried": tried,
        "problem": "",
        "bars": [_bars(visit, trial, chosen) for trial in tried.trials],
        "views": [
            (view, pieces(view.text[:_SHOWN]), len(view.text) > _SHOWN, _words(len(view.text))) for view in tried.views
        ],
    }
    return Page("try.html", values)


def _bars(visit: Visit, trial: Trial, side: Side) -> Sequence[Bar]:
    default: Decision = next(one.decision for one in trial.decisions if one.policy == "default")
    policy = visit.parts.policies().policies["default"]
    return bars_of(trial.verdict, default, policy.side(side), visit.parts.categories, policy.tool)


def _words(characters: int) -> str:
    return f"{characters:,} character{'' if characters == 1 else 's'}"


def _with_problem(text: str, side: str, problem: str) -> Page:
    return Page("try.html", {"text": text, "side": side, "tried": None, "problem": problem}, status=400)
