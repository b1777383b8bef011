"""Convert records to JSON and back."""

import json
from collections.abc import Collection
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic_core import PydanticSerializationError, SchemaSerializer

from guardproxy.reviews import ChangedRule, Exclusion, Label, Opinion, PolicyChange
from guardproxy.types import Coverage, Decision, Finding, Origin, Reason, Record, ReplyInfo, Span, Usage, Verdict

# Records are frozen, so values need no copies: dataclasses.asdict copies every leaf and takes five times as long.
_NAMES = {
    kind: tuple(field.name for field in fields(kind))
    for kind in (
        *(Record, Origin, Verdict, Usage, Finding, Decision, Reason, Coverage, ReplyInfo),
        *(Label, Exclusion, Opinion, PolicyChange, ChangedRule),
    )
}
_VALUES = {kind: attrgetter(*names) for kind, names in _NAMES.items()}


def _json_value(value: Any) -> Any:
    kind = type(value)
    if kind in _NAMES:
        return dict(zip(_NAMES[kind], map(_json_value, _VALUES[kind](value)), strict=True))
    return [_json_value(item) for item in value] if kind is tuple else value


def to_dict(record: Record) -> dict[str, Any]:
    """Return the record as dicts, lists and scalars, with the field names of `types`."""
    fields_of_record: dict[str, Any] = _json_value(record)
    return fields_of_record


def label_dict(label: Label) -> dict[str, Any]:
    """Return the label as a dict of scalars, with the field names of `types`."""
    fields_of_label: dict[str, Any] = _json_value(label)
    return fields_of_label


def exclusion_dict(exclusion: Exclusion) -> dict[str, Any]:
    """Return the exclusion as a dict of scalars, with the field names of `types`."""
    fields_of_exclusion: dict[str, Any] = _json_value(exclusion)
    return fields_of_exclusion


def opinion_dict(opinion: Opinion) -> dict[str, Any]:
    """Return the opinion as lists and scalars, with the field names of `reviews`."""
    fields_of_opinion: dict[str, Any] = _json_value(opinion)
    return fields_of_opinion


def policy_change_dict(change: PolicyChange) -> dict[str, Any]:
    """Return the change of a policy as dicts, lists and scalars, with the field names of `reviews`."""
    fields_of_change: dict[str, Any] = _json_value(change)
    return fields_of_change


def to_json(record: Record, *, without: Collection[str] = ()) -> str:
    """Return the record as one line of ASCII, without the fields `without`.

    Control characters and surrogates, which stores refuse, are escaped.
    """
    try:
        line = _serializer().to_json((record,), exclude={0: {*without}}, warnings=False)[1:-1]
    except PydanticSerializationError:  # a lone surrogate
        line = b"\xff"
    if line.isascii():
        return line.decode()
    data = {name: value for name, value in to_dict(record).items() if name not in without}
    return json.dumps(data, ensure_ascii=True, separators=(",", ":"))


@cache
def _serializer() -> SchemaSerializer:
    """A serializer for a record in a tuple, by the types of its fields: five times as fast as `json`.

    It takes 50 ms to make. A configuration, with which it writes NaN as `json` does, needs the tuple.
    """
    adapter = TypeAdapter(tuple[Record], config=ConfigDict(ser_json_inf_nan="constants"))
    return adapter.serializer


def from_json(line: str) -> Record:
    """Read a record that `to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    return from_dict(json.loads(line))


def from_dict(data: dict[str, Any]) -> Record:
    """Return the record that `to_dict` gave these values of. Raises ValueError, KeyError or TypeError."""
    verdict = data["verdict"]
    return Record(
        **{
            **data,
            "origin": Origin(**data["origin"]),
            "verdict": verdict and _verdict(verdict),
            "decision": _decision(data["decision"]),
            "coverage": tuple(Coverage(**part) for part in data["coverage"]),
            "reply": data.get("reply") and ReplyInfo(**data["reply"]),
        }
    )


def _decision(data: dict[str, Any]) -> Decision:
    reasons = tuple(Reason(**reason) for reason in data["reasons"])
    return Decision(**{**data, "reasons": reasons, "languages": tuple(data.get("languages", ()))})


def _verdict(data: dict[str, Any]) -> Verdict:
    findings = tuple(Finding(**{**finding, "span": _span(finding)}) for finding in data["findings"])
    if "account" in data:  # the name of `usage` in version 0.1.0; stored rows cannot change, because they are hashed
        data["usage"] = data.pop("account")
    raw = tuple((category, probability) for category, probability in data.get("raw", ()))
    return Verdict(**{**data, "findings": findings, "usage": Usage(**data["usage"]), "span": _span(data), "raw": raw})


def _span(data: dict[str, Any]) -> Span | None:
    span = data.get("span")
    return None if span is None else (span[0], span[1])
