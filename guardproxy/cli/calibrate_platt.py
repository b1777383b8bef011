"""What `guardproxy calibrate --platt` prints: the maps of a guard as YAML, with what they gain."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from guardproxy.errors import ConfigError

if TYPE_CHECKING:
    from guardproxy.evaluation.platt import NoFit, PlattFit

# The lines above the maps of the sides.
HEAD = ("guard:", "  calibration:")

_ABOUT = (
    "# Compared on rows that a map was not fitted on: the distance of probabilities from frequencies, and the loss in "
    "nats per row."
)


def platt_lines(results: "Sequence[PlattFit | NoFit]") -> list[str]:
    """The section `guard.calibration`, and below it the categories without a map. Raises ConfigError if all are."""
    from guardproxy.evaluation.platt import NoFit, PlattFit
    from guardproxy.evaluation.report import SIDES

    refused = [f"{one.side} {one.category}: {one.reason}" for one in results if isinstance(one, NoFit)]
    fits = [one for one in results if isinstance(one, PlattFit)]
    if not fits:
        raise ConfigError(["no category has a calibration", *refused])
    lines = [_ABOUT, *HEAD]
    for side in SIDES:
        own = [fit for fit in fits if fit.side == side]
        lines += [f"    {side}:"] if own else []
        for fit in own:
            scaling = f"{{slope: {fit.scaling.slope:.4f}, shift: {fit.scaling.shift:.4f}}}"
            lines += [f"      # {_gain(fit)}", f"      {fit.category}: {scaling}"]
    return [*lines, *(f"# not calibrated: {line}" for line in refused)]


def _gain(fit: "PlattFit") -> str:
    return (
        f"{fit.rows:,} rows, {fit.positives:,} positive: calibration error {fit.error[0]:.4f} before, "
        f"{fit.error[1]:.4f} after; loss {fit.loss[0]:.4f} before, {fit.loss[1]:.4f} after"
    )
