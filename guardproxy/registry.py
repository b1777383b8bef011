"""Finds the object that a name, or `module:attribute`, stands for."""

import importlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from guardproxy.errors import ConfigError


def load(name: str, registry: Mapping[str, str], kind: str) -> Any:
    """Import the object that `registry` lists under `name`, or that `name` gives as `module:attribute`.

    `kind` says in errors what it is. Raises ConfigError if there is no such name, module or attribute.
    """
    target = registry.get(name, name)
    module, colon, attribute = target.partition(":")
    if not colon:
        close = get_close_matches(name, registry, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(registry))}"
        raise ConfigError(f"unknown {kind} {name!r}: {hint}")
    try:
        target_object: Any = importlib.import_module(module)
        for part in attribute.split("."):
            target_object = getattr(target_object, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{kind} {name!r} cannot be loaded: {error}") from error
    except Exception as error:  # a user's own module may raise anything
        raise ConfigError(f"{kind} {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    return target_object
