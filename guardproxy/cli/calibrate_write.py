"""What `guardproxy calibrate --write` does: put the found numbers into a configuration file."""

import os
import shutil
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from guardproxy.errors import ConfigError

if TYPE_CHECKING:
    from guardproxy.calibration import Calibration
    from guardproxy.settings import Settings
    from guardproxy.types import Side


def check_calibration(path: Path, used: "Settings") -> None:
    """Check that a file's thresholds are compared with the probabilities that they are found on. Raises ConfigError."""
    from guardproxy import app
    from guardproxy.settings import load

    file = load(path, os.environ, app.catalogue())
    if file.guard.calibration != used.guard.calibration:
        raise ConfigError(
            f"--write {path}: its guard has another calibration than the guard that is measured; use the file's own "
            f"guard: --config {path} without --guard"
        )


def write(path: Path, policy: str, rules: str, maps: str, calibration: "Calibration | None") -> None:
    """Write thresholds into a policy of the file, and maps into its guard, if the result is valid. Raises ConfigError.

    `rules` and `maps` are YAML by side; `calibration` is what the maps make of the guard's, None without maps.
    """
    from guardproxy import app
    from guardproxy.settings import load_text, own_rules, with_calibration, with_rules

    before = path.read_text("utf-8")
    try:
        text = with_rules(with_calibration(before, maps) if maps else before, policy, rules)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        load_text(text, str(path), os.environ, app.catalogue())
    except ConfigError as error:
        hint = f"{path} was not changed: with the new thresholds it would have these mistakes"
        raise ConfigError([hint, *error.problems]) from error
    replaced = path.with_name(f".{path.name}.new")
    replaced.write_text(text, "utf-8")
    shutil.copymode(path, replaced)
    replaced.replace(path)
    print(f"{path}: the thresholds of policy {policy} are changed", file=sys.stderr)
    if calibration is not None:
        _name_others(path, own_rules(text), own_rules_of(policy, rules), calibration)


def own_rules_of(policy: str, rules: str) -> list[tuple[str, ...]]:
    """The places of rules that a YAML text by side puts into a policy."""
    from guardproxy.settings import own_rules

    indented = "\n".join(f"    {line}" for line in rules.splitlines())
    return [tuple(map(str, place)) for place in own_rules(f'policies:\n  "{policy}":\n{indented}\n')]


def _name_others(
    path: Path, places: Sequence[Sequence[str | int]], written: Collection[tuple[str, ...]], calibration: "Calibration"
) -> None:
    """Name the rules on calibrated sides whose thresholds were not found: their numbers now mean something else."""
    sides: tuple[Side, ...] = ("user", "assistant")
    calibrated = {side for side in sides if calibration.side(side)}
    others = [
        ".".join(map(str, place))
        for place in places
        if tuple(map(str, place)) not in written and (place[2] in calibrated or place[2] == "unsafe")
    ]
    if others:
        print(
            f"{path}: these rules keep their numbers, which are now compared with calibrated probabilities; check them "
            f"with `guardproxy replay`: {', '.join(others)}",
            file=sys.stderr,
        )
