"""Durations as texts, such as `90d`. Pure."""

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)


def duration_s(text: str) -> float:
    """Return the seconds of a whole number with a unit: s, m, h, d or w. Raises ValueError for anything else."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no duration: write a number with s, m, h, d or w, such as 90d")
    return float(int(found[1]) * _UNITS[found[2]])
