"""Names and the objects they stand for."""

import pytest

from guardproxy.actions import REGISTRY
from guardproxy.errors import ConfigError
from guardproxy.registry import load


def test_every_action_loads() -> None:
    """Each registered action can be opened."""
    assert all(callable(load(name, REGISTRY, "action")) for name in REGISTRY)


def test_own_object_by_path() -> None:
    """`module:attribute` names an object of the user's own."""
    assert load("json:dumps", REGISTRY, "action") is __import__("json").dumps


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("redct", "did you mean 'redact'"),
        ("zzz", "known: block, mask, redact, replace"),
        ("no_such_module:x", "cannot be loaded"),
        ("json:nothing", "cannot be loaded"),
    ],
)
def test_unknown_names_say_what_to_do(name: str, message: str) -> None:
    """An unknown name is a configuration error with a hint."""
    with pytest.raises(ConfigError, match=message):
        load(name, REGISTRY, "action")
