"""The configuration files inside the package: the built-in defaults and the starter file."""

from importlib.resources import files

from guardproxy.errors import ConfigError
from guardproxy.settings.yaml_tree import Node, read


def defaults() -> str:
    """The text of the configuration that applies without a file."""
    return _text("defaults.yaml")


def starter() -> str:
    """The text of a commented configuration with the options that an operator changes first."""
    return _text("starter.yaml")


def default_policies() -> Node:
    """The policies that apply if a file has none. Raises ConfigError if the package is damaged."""
    tree, _ = read(defaults())
    policies = tree.get("policies") if tree else None
    if policies is None:
        raise ConfigError("the built-in defaults.yaml has no policies; reinstall guardproxy")
    return policies


def _text(name: str) -> str:
    return files("guardproxy.settings").joinpath(name).read_text("utf-8")
