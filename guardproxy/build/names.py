"""What a configuration may name, and the guard that it names."""

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from guardproxy import families, sinks, wires
from guardproxy.engine.cache import Cached
from guardproxy.engine.combine import AllOf, Cascade
from guardproxy.engine.engine import Engine
from guardproxy.engine.open import open_engine
from guardproxy.ports import Family, Guard
from guardproxy.registry import load
from guardproxy.settings import GuardSettings, Known, Settings
from guardproxy.types import Taxonomy
from guardproxy.views import VIEWS

# Verdicts kept; one is about a kilobyte.
_CACHED_VERDICTS = 20_000
_REWRITES = ("replace", "redact")


def known(*, builtin_only: bool = False) -> Known:
    """What a configuration may name; with `builtin_only` nothing of the user's own."""
    return Known(
        families=families.REGISTRY,
        options={name: _options(name) for name in families.REGISTRY},
        categories=_categories,
        rewrites=_REWRITES,
        wires=wires.REGISTRY,
        views=VIEWS,
        stores=[name for name in sinks.REGISTRY if name != "log"],
        builtin_only=builtin_only,
    )


def _options(name: str) -> Collection[str]:
    signature = inspect.signature(load(name, families.REGISTRY, "family"))
    return [option for option in signature.parameters if option != "taxonomy"]


def _categories(name: str, options: Mapping[str, Any], taxonomy: Taxonomy | None) -> Collection[str] | None:
    family = _family(name, options, taxonomy)
    return [category.id for category in family.taxonomy.categories]


def _family(name: str, options: Mapping[str, Any], taxonomy: Taxonomy | None) -> Family:
    """The family of a guard. Raises ConfigError for options that it does not take."""
    opened: Family = load(name, families.REGISTRY, "family")(taxonomy=taxonomy, **options)
    return opened


def guard(settings: Settings) -> Guard:
    """The guard of a configuration, not started."""
    return cached(combined(settings, engines(settings)))


def cached(one: Guard) -> Guard:
    """A guard that is asked the same question once."""
    return Cached(one, _CACHED_VERDICTS)


def combined(settings: Settings, members: Sequence[Engine]) -> Guard:
    """The engines of a configuration as the one guard that it describes."""
    given = settings.guard
    if given.cascade is not None:
        cheap, dear = members
        return Cascade(cheap, dear, given.cascade.low, given.cascade.high)
    return AllOf(members, given.mean) if given.all is not None else members[0]


def engines(settings: Settings, *, floor: float = 0.0) -> list[Engine]:
    """The engines of a configuration, not started. Categories are read where P(unsafe) is over `floor`."""
    if not settings.members:
        return [_engine(settings.guard.model, settings.guard, settings.taxonomy, floor)]
    return [_engine(name, one.guard, one.taxonomy, floor) for name, one in settings.members.items()]


def _engine(name: str, given: GuardSettings, taxonomy: Taxonomy | None, floor: float) -> Engine:
    return open_engine(
        name=name,
        family=_family(given.family, given.options, taxonomy),
        model=given.model,
        device=given.device,
        dtype=given.dtype,
        max_batch_tokens=given.max_batch_tokens,
        timeout_s=given.timeout_s,
        max_wait_s=given.max_wait_s,
        floor=floor,
        threads=given.threads,
    )
