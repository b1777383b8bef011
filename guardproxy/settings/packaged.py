"""The files inside the package: the built-in defaults, the presets, the starter file, crisis resources."""

from functools import cache
from importlib.resources import files
from typing import Final

from guardproxy.errors import ConfigError
from guardproxy.policy import PresetName
from guardproxy.settings.yaml_tree import Node, read


def defaults() -> str:
    """The text of the configuration that applies without a file."""
    return _text("defaults.yaml")


def starter(preset: PresetName | None = None) -> str:
    """The text of a commented configuration with the options that an operator changes first."""
    text = _text("starter.yaml")
    return text if preset is None else text.replace("preset: balanced", f"preset: {preset}")


CRISIS: Final = "crisis.yaml"


def crisis() -> str:
    """The text of the file of messages with crisis resources by country."""
    return _text(CRISIS)


@cache
def preset_rules(name: str) -> Node:
    """The rules of a preset, by side, shared by all callers: not to be changed.

    Raises ConfigError if the package is damaged.
    """
    tree, _ = read(_text("presets.yaml"))
    rules = tree.get(name) if tree else None
    if rules is None:
        raise ConfigError(f"the built-in presets.yaml has no preset {name}; reinstall guardproxy")
    return rules


def _text(name: str) -> str:
    return files("guardproxy.settings").joinpath(name).read_text("utf-8")
