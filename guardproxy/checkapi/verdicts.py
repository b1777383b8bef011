"""What is answered: a verdict, and with a policy its decision and what becomes of the text."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from operator import itemgetter
from typing import Any, Final, Literal

from guardproxy.errors import GuardUnavailable
from guardproxy.types import Decision, Edit, Finding, Outcome, Refuse, Replace, Span, Usage, Verdict

_USAGE: Final = {field.name: type(field.default) for field in fields(Usage)}
_usage_values: Final = itemgetter(*_USAGE)
_ROUNDING = 1e-4  # rounding may move a probability this far out of [0, 1]


def verdict_fields(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON values."""
    return {
        "unsafe": verdict.unsafe,
        "findings": [
            {
                "category": finding.category,
                "probability": finding.probability,
                "label": finding.label,
                "view": finding.view,
                "span": finding.span,
                "kind": finding.kind,
            }
            for finding in verdict.findings
        ],
        "guard": verdict.guard,
        "taxonomy": verdict.taxonomy,
        "usage": {name: getattr(verdict.usage, name) for name in _USAGE},
        "leftover": verdict.leftover,
        "outside": verdict.outside,
        "view": verdict.view,
        "span": verdict.span,
        "raw": verdict.raw,
        "kind": verdict.kind,
        "rationale": verdict.rationale,
    }


def read_verdict(body: bytes) -> Verdict:
    """The verdict in an answer. Raises GuardUnavailable if anything in it is missing, or no such value."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _unreadable(error) from None
    return verdict_of(fields)


def verdict_of(fields: Any) -> Verdict:
    """The verdict in the JSON values of an answer. Raises GuardUnavailable as `read_verdict` does."""
    try:
        return _verdict(fields)
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(error) from None


def _unreadable(error: Exception) -> GuardUnavailable:
    return GuardUnavailable(f"the guard's answer cannot be read: {type(error).__name__}: {error}")


def _verdict(answer: Mapping[str, Any]) -> Verdict:
    return Verdict(
        _probability(answer["unsafe"]),
        tuple(
            Finding(
                _text(finding["category"]),
                _probability(finding["probability"]),
                _text(finding["label"]),
                _text(finding["view"]),
                _span(finding["span"]),
                _kind(finding["kind"]),
            )
            for finding in answer["findings"]
        ),
        _text(answer["guard"]),
        _text(answer["taxonomy"]),
        _usage(answer["usage"]),
        _probability(answer["leftover"]),
        _probability(answer["outside"]),
        _text(answer["view"]),
        _span(answer["span"]),
        tuple((_text(category), _probability(probability)) for category, probability in answer["raw"]),
        _kind(answer["kind"]),
        _text(answer["rationale"]),
    )


def _usage(value: Mapping[str, Any]) -> Usage:
    for name, kind in _USAGE.items():
        if type(value[name]) is not kind or not -1 < value[name] < math.inf:
            raise ValueError(f"usage.{name} is no such value")
    return Usage(*_usage_values(value))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a name is no string")
    return value


def _kind(value: object) -> Literal["probability", "label"]:
    if value == "probability":
        return "probability"
    if value == "label":
        return "label"
    raise ValueError("the kind of a probability is neither probability nor label")


def _probability(value: object) -> float:
    # A comparison with NaN is false. Guards return whole numbers, too: 0 for what they do not read.
    if isinstance(value, bool) or not isinstance(value, float | int) or not -_ROUNDING <= value <= 1 + _ROUNDING:
        raise ValueError("a probability is outside [0, 1]")
    return value


def _span(value: Any) -> Span | None:
    if value is None:
        return None
    start, end = value
    if type(start) is not int or type(end) is not int or not 0 <= start <= end:
        raise ValueError("a span is no pair of positions")
    return start, end


def decision_fields(policy: str, decision: Decision) -> dict[str, Any]:
    """A decision of the policy `policy`, with every reason, as JSON values."""
    return {
        "policy": policy,
        "action": decision.action,
        "how": decision.how,
        "cause": decision.cause,
        "languages": decision.languages,
        "categories": decision.categories,
        "reasons": [
            {
                "category": reason.category,
                "probability": reason.probability,
                "threshold": reason.threshold,
                "with_unsafe": reason.with_unsafe,
                "action": reason.action,
            }
            for reason in decision.reasons
        ],
    }


def outcome_fields(outcome: Outcome) -> dict[str, Any]:
    """What becomes of the text, as JSON values: it passes, gets new texts at paths, or is refused with a message."""
    if isinstance(outcome, Refuse):
        return {"name": "refuse", "message": outcome.message}
    if isinstance(outcome, Replace):
        return {"name": "replace", "whole": outcome.whole, "edits": [_edit_fields(edit) for edit in outcome.edits]}
    return {"name": "pass"}


def _edit_fields(edit: Edit) -> dict[str, str]:
    return {"path": edit.path, "text": edit.text}
