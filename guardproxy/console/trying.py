"""A text box and the running guard: what it says of a text, and what each policy would do."""

from typing import Any

from starlette.exceptions import HTTPException

from guardproxy.console.record import bars_of
from guardproxy.console.shown import pieces
from guardproxy.console.visits import Page, Visit
from guardproxy.types import Decision, Side

_MOST_CHARACTERS = 20_000


async def form(visit: Visit) -> Page:
    """The empty form."""
    return Page("try.html", {"text": "", "side": "user", "trial": None, "problem": ""})


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
    trial = await visit.parts.try_it(text, chosen)
    policies = visit.parts.policies().policies
    default: Decision = next(one.decision for one in trial.decisions if one.policy == "default")
    values: dict[str, Any] = {
        "text": text,
        "side": side,
        "trial": trial,
        "problem": "",
        "bars": bars_of(trial.verdict, default, policies["default"].side(chosen), visit.parts.categories),
        "views": [(name, pieces(view[:2000]), len(view) > 2000) for name, view in trial.views],
    }
    return Page("try.html", values)


def _with_problem(text: str, side: str, problem: str) -> Page:
    return Page("try.html", {"text": text, "side": side, "trial": None, "problem": problem}, status=400)
