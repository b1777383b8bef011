"""What `guardproxy calibrate --write` does: put the found numbers into a configuration file."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardproxy.errors import ConfigError

if TYPE_CHECKING:
    from guardproxy.calibration import Calibration
    from guardproxy.settings import Settings
    from guardproxy.settings.yaml_tree import SettingPath


def check_calibration(path: Path, used: "Settings") -> None:
    """Check that a file's thresholds are compared with the probabilities that they are found on. Raises ConfigError."""
    from guardproxy import app
    from guardproxy.settings import load

    file = load(path, os.environ, app.catalogue(), without_secrets=True)
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
    from guardproxy.settings import load_text, own_rules, replace_text, with_calibration, with_found_rules

    old = path.read_bytes()
    before = old.decode().replace("\r\n", "\n")
    try:
        text = with_found_rules(with_calibration(before, maps) if maps else before, policy, rules)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        load_text(text, str(path), os.environ, app.catalogue(), without_secrets=True)
    except ConfigError as error:
        hint = f"{path} was not changed: with the new thresholds it would have these mistakes"
        raise ConfigError([hint, *error.problems]) from error
    replace_text(path, old, text)
    print(f"{path}: the thresholds of policy {policy} are changed", file=sys.stderr)
    _name_others(path, policy, own_rules(before), own_rules(text), calibration)


def _name_others(
    path: Path,
    policy: str,
    before: "Mapping[SettingPath, Any]",
    after: "Mapping[SettingPath, Any]",
    calibration: "Calibration | None",
) -> None:
    """Name the operator's own rules that stay: the printed shares do not count them."""
    stay = [place for place, rule in before.items() if rule and after.get(place) == rule]
    beside = [place for place in stay if place[1] == policy]
    rescaled = [
        place for place in stay if calibration and calibration.side("user" if place[2] == "user" else "assistant")
    ]
    for places, consequence in (
        (beside, "the printed shares do not count them; remove them, or see with `guardproxy replay` what they do"),
        (rescaled, "their numbers are now compared with calibrated probabilities; set them anew"),
    ):
        if places:
            names = ", ".join(".".join(map(str, place)) for place in places)
            print(f"{path}: these rules stay as they are: {names}: {consequence}", file=sys.stderr)
