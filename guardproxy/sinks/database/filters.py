"""Which records a query selects, also as the keys of a URL's query. Pure, but for the clock of `parse_moment`."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from guardproxy.durations import duration_s
from guardproxy.reviews import LabelKind
from guardproxy.sinks.database.words import search_terms
from guardproxy.types import ActionName, Cause, Side

Shadow = Literal["only", "without", "with"]
ScoreBound = tuple[str, float]  # a category and a probability


class FilterError(ValueError):
    """A filter that cannot be used. `key` is the key of the query that has the mistake."""

    def __init__(self, key: str, problem: str) -> None:
        self.key = key
        self.problem = problem
        super().__init__(f"{key}: {problem}")


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects the records that match every field that is set.

    `since` (included) and `until` (excluded) are seconds since the epoch. `category` selects records in which that
    category reached a threshold. `min_score` and `max_score` bound probabilities, both ends included, of categories and
    of `unsafe`; a record without a verdict has none and never matches. A category that the verdict does not name is
    below every bound. `text` is a search for words (`words.search_terms`), or the whole text where the store keeps
    hashes. `user` and `session` are found by their names too where the store keeps hashes of these
    (`words.name_hash`). `label` selects by the labels in force, "none" records without one; with `reviewer` only the
    labels of that person count. `exclusion` is the id of one that acted, "any" or "none". `shadow`: only decisions of
    shadow policies, none of them, or both; without it, both as well, except in counts and in `acting`. `error`: whether
    an error occurred.
    """

    since: float | None = None
    until: float | None = None
    side: Side | None = None
    action: ActionName | None = None
    category: str | None = None
    route: str | None = None
    request_id: str | None = None
    wire: str | None = None
    model: str | None = None
    answered_model: str | None = None
    cause: Cause | None = None
    policy: str | None = None
    client: str | None = None
    user: str | None = None
    session: str | None = None
    min_score: tuple[ScoreBound, ...] = ()
    max_score: tuple[ScoreBound, ...] = ()
    text: str | None = None
    label: LabelKind | None = None
    reviewer: str | None = None
    exclusion: str | None = None
    sampled: bool | None = None
    complete: bool | None = None
    shadow: Shadow | None = None
    error: bool | None = None

    def acting(self) -> "Filter":
        """Return the filter without decisions of shadow policies, which never act, unless it speaks of them."""
        return self if self.shadow is not None else replace(self, shadow="without")

    @classmethod
    def from_query(cls, query: Mapping[str, Sequence[str]], *, now: float | None = None) -> "Filter":
        """Read a filter from the keys of a URL's query, each with its values, as `urllib.parse.parse_qs` returns them.

        `now`, in seconds since the epoch, is what ages count back from; by default the current time. Raises FilterError
        for an unknown key, a key that occurs twice, a value that cannot be read, or a time that ends before it begins.
        """
        chosen: dict[str, Any] = {}
        for key, values in query.items():
            if key not in _READERS:
                raise FilterError(key, f"is no filter; the filters are {', '.join(_READERS)}")
            name = key.replace("-", "_")
            if key in _REPEATED:
                chosen[name] = tuple(_read(key, value, now) for value in values)
            elif len(values) != 1:
                raise FilterError(key, f"has {len(values)} values; give one")
            else:
                chosen[name] = _read(key, values[0], now)
        if "since" in chosen and "until" in chosen and chosen["until"] <= chosen["since"]:
            raise FilterError("until", f"{query['until'][0]!r} is not later than since, {query['since'][0]!r}")
        return cls(**chosen)

    def to_query(self) -> dict[str, list[str]]:
        """Return the keys and values that `from_query` reads as this filter; `urllib.parse.urlencode` needs `doseq`."""
        query: dict[str, list[str]] = {}
        for key in _READERS:
            value = getattr(self, key.replace("-", "_"))
            if key in _REPEATED:
                if value:
                    query[key] = [f"{category}={bound!r}" for category, bound in value]
            elif value is not None:
                query[key] = [_written(value)]
        return query


EVERY = Filter()


def parse_moment(text: str, *, now: float | None = None) -> float:
    """Return the seconds since the epoch of a time.

    This is an age (`7d`; also s, m, h, w), `today` or `yesterday` (their first second), an ISO 8601 date or time, local
    if it has no zone, or `@` with seconds since the epoch. Raises ValueError for anything else.
    """
    current = time.time() if now is None else now
    with suppress(ValueError):
        return current - duration_s(text)
    try:
        if text.startswith("@"):
            return _finite(text[1:])
        if text in ("today", "yesterday"):
            midnight = datetime.fromtimestamp(current).replace(hour=0, minute=0, second=0, microsecond=0)  # noqa: DTZ006
            day = midnight if text == "today" else midnight - timedelta(days=1)
            return day.astimezone().timestamp()
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        message = f"{text!r} is no time: write an age such as 2h or 7d, today, yesterday, or 2025-01-31T12:00"
        raise ValueError(message) from None


def parse_bound(text: str) -> ScoreBound:
    """Parse `CATEGORY=PROBABILITY`. Raises ValueError."""
    category, _, number = text.rpartition("=")
    try:
        bound = _finite(number)
    except ValueError:
        bound = -1.0
    if not category or not 0 <= bound <= 1:
        raise ValueError(f"{text!r} is not CATEGORY=PROBABILITY, such as violence=0.7")
    return category, bound


def _finite(text: str) -> float:
    value = float(text)
    if not abs(value) < float("inf"):
        raise ValueError(f"{text!r} is not a number")
    return value


def _read(key: str, value: str, now: float | None) -> Any:
    reader = _READERS[key]
    try:
        return parse_moment(value, now=now) if reader is parse_moment else reader(value)
    except ValueError as error:
        raise FilterError(key, str(error)) from None


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"@{value!r}" if isinstance(value, float) else str(value)


def _one_of(*allowed: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")
        return value

    return read


def _text(value: str) -> str:
    search_terms(value)
    return value


def _exclusion(value: str) -> str:
    if value not in ("any", "none") and not re.fullmatch(r"[0-9a-f]{1,64}", value):
        raise ValueError(f"{value!r} is no exclusion: write any, none, or the id that `audit exclusions` prints")
    return value


def _truth(value: str) -> bool:
    return _one_of("true", "false")(value) == "true"


# The keys of a query, and so the names of the options of `guardproxy audit list`, with what reads their values.
_READERS: Mapping[str, Callable[[str], Any]] = {
    "since": parse_moment,
    "until": parse_moment,
    "client": str,
    "user": str,
    "session": str,
    "side": _one_of(*get_args(Side)),
    "action": _one_of(*get_args(ActionName)),
    "category": str,
    "min-score": parse_bound,
    "max-score": parse_bound,
    "policy": str,
    "route": str,
    "wire": str,
    "model": str,
    "answered-model": str,
    "cause": _one_of(*get_args(Cause)),
    "text": _text,
    "label": _one_of(*get_args(LabelKind)),
    "reviewer": str,
    "exclusion": _exclusion,
    "sampled": _truth,
    "complete": _truth,
    "shadow": _one_of(*get_args(Shadow)),
    "error": _truth,
    "request-id": str,
}
_REPEATED = ("min-score", "max-score")
KEYS = tuple(_READERS)
