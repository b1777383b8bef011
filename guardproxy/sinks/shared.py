"""A record as JSON and back."""

import json
from dataclasses import fields
from operator import attrgetter
from typing import Any

from guardproxy.types import Coverage, Decision, Finding, Origin, Reason, Record, Usage, Verdict

# dataclasses.asdict copies every leaf, at five times the cost; records are frozen.
_NAMES = {
    kind: tuple(field.name for field in fields(kind))
    for kind in (Record, Origin, Verdict, Usage, Finding, Decision, Reason, Coverage)
}
_VALUES = {kind: attrgetter(*names) for kind, names in _NAMES.items()}


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _NAMES:
        return dict(zip(_NAMES[kind], map(_plain, _VALUES[kind](value)), strict=True))
    return [_plain(item) for item in value] if kind is tuple else value


def to_dict(record: Record) -> dict[str, Any]:
    """The record as JSON can hold it, fields by their names in `types`."""
    found: dict[str, Any] = _plain(record)
    return found


def to_json(record: Record) -> str:
    """One line of ASCII: control characters, NUL and lone surrogates are escaped, so that every store can hold it."""
    return json.dumps(_plain(record), ensure_ascii=True, separators=(",", ":"))


def from_json(line: str) -> Record:
    """The record that `to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    found: dict[str, Any] = json.loads(line)
    verdict = found["verdict"]
    decision = found["decision"]
    return Record(
        **{
            **found,
            "origin": Origin(**found["origin"]),
            "verdict": verdict and _verdict(verdict),
            "decision": Decision(**{**decision, "reasons": tuple(Reason(**one) for one in decision["reasons"])}),
            "coverage": tuple(Coverage(**one) for one in found["coverage"]),
        }
    )


def _verdict(found: dict[str, Any]) -> Verdict:
    findings = tuple(Finding(**one) for one in found["findings"])
    if "account" in found:  # what version 0.1.0 called the usage; its rows are chained by hash and stay as they are
        found["usage"] = found.pop("account")
    return Verdict(**{**found, "findings": findings, "usage": Usage(**found["usage"])})
