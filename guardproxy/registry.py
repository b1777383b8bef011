"""A name, or `module:attribute`, to the object it stands for."""

import importlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from guardproxy.errors import ConfigError


def load(name: str, registry: Mapping[str, str], kind: str) -> Any:
    """The object that `registry` lists under `name`, or that `module:attribute` names.

    Raises ConfigError where there is no such name, module or attribute; `kind` says what was looked for.
    """
    target = registry.get(name, name)
    module, colon, attribute = target.partition(":")
    if not colon:
        close = get_close_matches(name, registry, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(registry))}"
        raise ConfigError(f"unknown {kind} {name!r}: {hint}")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{kind} {name!r} cannot be loaded: {error}") from error
    except Exception as error:  # a module of the user's own may raise anything
        raise ConfigError(f"{kind} {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    return found
