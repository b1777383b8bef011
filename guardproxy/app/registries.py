"""The registries as a catalogue of the names that a configuration may use."""

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from guardproxy import actions, families, sinks, wires
from guardproxy.app.images import image_error
from guardproxy.app.languages import languages_of_guard
from guardproxy.errors import ConfigError
from guardproxy.ports import Wire
from guardproxy.registry import load
from guardproxy.settings import Catalogue
from guardproxy.types import Taxonomy
from guardproxy.views import VIEWS

_BESIDE = ("taxonomy", "patterns")


def catalogue(*, builtin_only: bool = False) -> Catalogue:
    """The names that a configuration may use; with `builtin_only`, no `module:attribute`."""
    return Catalogue(
        families=families.REGISTRY,
        options={name: _options(name) for name in families.REGISTRY},
        categories=_categories,
        languages=languages_of_guard,
        rewrites=actions.REWRITES,
        wires=wires.REGISTRY,
        views=VIEWS,
        vectors=wires.VECTORS,
        stores=[name for name in sinks.REGISTRY if name != "log"],
        services={name: bool(open_family(name, {}, None).base_url) for name in families.SERVICES},
        builtin_only=builtin_only,
        store_error=_store_error,
        import_error=_import_error,
        image_error=image_error,
    )


def open_wires(names: Sequence[str] | None) -> list[Wire]:
    """The wires by name; None: every built-in one."""
    return [load(name, wires.REGISTRY, "wire") for name in (names if names is not None else wires.REGISTRY)]


def open_family(name: str, options: Mapping[str, Any], taxonomy: Taxonomy | None) -> Any:
    """The Family or ServiceFamily of a guard. Raises ConfigError for an unknown name or rejected options."""
    return load(name, families.REGISTRY, "family")(taxonomy=taxonomy, **options)


def _options(name: str) -> Mapping[str, Any]:
    """The options of a family, each with its type; `patterns` is a section beside them."""
    signature = inspect.signature(load(name, families.REGISTRY, "family"), eval_str=True)
    return {name: option.annotation for name, option in signature.parameters.items() if name not in _BESIDE}


def _categories(name: str, options: Mapping[str, Any], taxonomy: Taxonomy | None) -> Collection[str] | None:
    return [category.id for category in open_family(name, options, taxonomy).taxonomy.categories]


def _store_error(address: str) -> str | None:
    """Why the address of an audit store cannot be used, or None. Never shows it: it may hold a password."""
    try:
        load(address.partition("://")[0], sinks.REGISTRY, "store")(address)
    except ConfigError as error:
        return str(error)
    return None


def _import_error(name: str, kind: str) -> str | None:
    """Why a `module:attribute` cannot be loaded, or None."""
    try:
        load(name, {}, kind)
    except ConfigError as error:
        return str(error)
    return None
