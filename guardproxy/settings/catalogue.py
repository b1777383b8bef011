"""The names that a configuration file may use. The composition root fills it from the registries."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from guardproxy.settings.messages import suggestion
from guardproxy.settings.model import GuardSettings
from guardproxy.types import Taxonomy

IMPORT_STRING = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def _no_error(*names: object) -> None:
    """Accept every name."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The names that a configuration file may use, and the checks that need the objects behind them.

    - `options`: the options of each built-in family with their types.
    - `categories(family, options, taxonomy)`: the category ids that such a guard reports, with None for the family's
      own taxonomy. Returns None if only the loaded model knows them. Raises ConfigError if the family rejects its
      arguments.
    - `languages(guard)`: the languages that a guard reads, by its setting or its model's card; None for no statement.
    - `image_error(guard, taxonomy)`: why a guard cannot read images, or None. Raises ConfigError as `categories`.
    - `stores`: the URL schemes of `audit.store`.
    - `vectors`: the wires whose replies have no text.
    - `services`: the families that are moderation services, with whether the service has one address for everybody.
    - `builtin_only`: `module:attribute` is forbidden.
    - `store_error(address)`: why an address with one of the `stores` cannot be used, or None.
    - `import_error(name, kind)`: why `module:attribute` cannot be loaded, or None.
    """

    families: Collection[str]
    options: Mapping[str, Mapping[str, Any]]
    categories: Callable[[str, Mapping[str, Any], Taxonomy | None], Collection[str] | None]
    languages: Callable[[GuardSettings], Collection[str] | None]
    rewrites: Collection[str]
    wires: Collection[str]
    views: Collection[str]
    stores: Collection[str]
    vectors: Collection[str] = ()
    services: Mapping[str, bool] = field(default_factory=dict)
    builtin_only: bool = False
    store_error: Callable[[str], str | None] = _no_error
    import_error: Callable[[str, str], str | None] = _no_error
    image_error: Callable[[GuardSettings, Taxonomy | None], str | None] = _no_error

    def name_error(self, name: str, names: Collection[str], kind: str) -> str | None:
        """Why a name is neither one of `names` nor a usable `module:attribute`, or None; `kind` is its noun."""
        if name in names:
            return None
        if IMPORT_STRING.fullmatch(name):
            if self.builtin_only:
                return f"own code is forbidden by --builtin-only; choose a built-in {kind}: {', '.join(sorted(names))}"
            return self.import_error(name, kind)
        return f"unknown {kind} {name!r}; {suggestion(name, sorted(names))}"
