"""The map from a guard's own probabilities to those that hold on an operator's traffic: Platt scaling. Pure.

`guardproxy calibrate --platt` fits it. `docs/decisions/0016` has the reasons for its form and its place.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from annotated_types import Interval

from guardproxy.types import Side, Verdict

# Probabilities nearer to 0 and 1 than this count as this near: a guard's 1 is no certainty, and has no logit.
NEAREST = 1e-6


@dataclass(frozen=True, slots=True)
class Platt:
    """Platt scaling (Platt 1999): the logit of a probability times `slope`, plus `shift`. The order of texts stays."""

    slope: Annotated[float, Interval(gt=0, le=20)]
    """Less than 1 for a guard that is too sure of itself; the inverse of a temperature."""
    shift: Annotated[float, Interval(ge=-50, le=50)] = 0.0
    """Less than 0 if harm is rarer than the guard takes it to be."""

    def value(self, probability: float) -> float:
        """The calibrated probability. 0 stays 0: the guard found nothing, or was not asked."""
        return _sigmoid(self.slope * _logit(probability) + self.shift) if probability > 0 else 0.0

    def inverse(self, calibrated: float) -> float:
        """The lowest probability of the guard whose calibrated one reaches `calibrated`; 1 if none does."""
        if calibrated <= self.value(NEAREST):
            return 0.0
        return _sigmoid((_logit(calibrated) - self.shift) / self.slope)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The maps of a guard, by side and category; `unsafe` is P(unsafe). A category without a map keeps its number."""

    user: Mapping[str, Platt] = field(default_factory=dict)
    """For requests: by category, and `unsafe` for the overall probability."""
    assistant: Mapping[str, Platt] = field(default_factory=dict)
    """For replies, by the same keys."""

    def side(self, side: Side) -> Mapping[str, Platt]:
        """The maps of a side."""
        return self.user if side == "user" else self.assistant

    def value(self, side: Side, category: str, probability: float) -> float:
        """A calibrated probability."""
        scaling = self.side(side).get(category)
        return probability if scaling is None else scaling.value(probability)

    def highest(self, side: Side, probability: float) -> float:
        """The highest calibrated probability of any category of a side to which the guard gives `probability`."""
        return max([probability, *(scaling.value(probability) for scaling in self.side(side).values())])

    def inverse(self, side: Side, category: str, calibrated: float) -> float:
        """The lowest probability of the guard whose calibrated one reaches `calibrated`."""
        scaling = self.side(side).get(category)
        return calibrated if scaling is None else scaling.inverse(calibrated)

    def lowest(self, calibrated: float) -> float:
        """The lowest probability of the guard, of any side and category, whose calibrated one reaches `calibrated`."""
        maps = (*self.user.values(), *self.assistant.values())
        return min([calibrated, *(scaling.inverse(calibrated) for scaling in maps)])

    def applied(self, side: Side, verdict: Verdict) -> Verdict:
        """The verdict with calibrated probabilities, and the guard's own ones as its `raw`. Labels stay as they are."""
        maps = self.side(side)
        if not maps:
            return verdict
        own = [(one.category, one.probability) for one in verdict.findings if one.kind == "probability"]
        unsafe = verdict.unsafe
        if verdict.kind == "probability":
            own.insert(0, ("unsafe", unsafe))
            unsafe = self.value(side, "unsafe", unsafe)
        return replace(
            verdict,
            unsafe=unsafe,
            findings=tuple(
                replace(finding, probability=self.value(side, finding.category, finding.probability))
                if finding.kind == "probability"
                else finding
                for finding in verdict.findings
            ),
            raw=tuple((category, probability) for category, probability in own if category in maps),
        )


# Of a guard whose probabilities are compared with thresholds as they are.
UNCALIBRATED = Calibration()


def _logit(probability: float) -> float:
    inside = min(max(probability, NEAREST), 1 - NEAREST)
    return math.log(inside) - math.log1p(-inside)


def _sigmoid(logit: float) -> float:
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1 + odds)
