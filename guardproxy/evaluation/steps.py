"""Thresholds have four digits: the nearest such numbers around a score."""

import numpy as np

from guardproxy.evaluation.metrics import Floats

STEPS = 10_000


def step_above(scores: Floats) -> Floats:
    """The lowest four-digit number above each score."""
    nearest = np.round(scores * STEPS)
    # The division is compared with the score: a score may be a four-digit number, and the product has rounding errors.
    return np.where(nearest / STEPS > scores, nearest, nearest + 1) / STEPS


def floor_to_step(scores: Floats) -> Floats:
    """The highest four-digit number that is not above each score."""
    nearest = np.round(scores * STEPS)
    return np.where(nearest / STEPS <= scores, nearest, nearest - 1) / STEPS
