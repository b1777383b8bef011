"""Durations and points in time as texts, such as `90d` and `2030-12-31`."""

import re
from datetime import datetime

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)


def duration_s(text: str) -> float:
    """Return the seconds of a whole number with a unit: s, m, h, d or w. Raises ValueError for anything else."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no duration: write a number with s, m, h, d or w, such as 90d")
    return float(int(found[1]) * _UNITS[found[2]])


def instant(text: str) -> float:
    """Return an ISO 8601 date or time in seconds since 1970: in local time if it has no zone, a date at its beginning.

    Raises ValueError for anything else.
    """
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is no date or time, such as 2030-12-31") from None
