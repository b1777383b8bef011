"""What a configuration may name, and the guard that it names."""

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from guardproxy import families, sinks, wires
from guardproxy.errors import ConfigError
from guardproxy.guards.cache import Cached
from guardproxy.guards.combine import AllOf, Cascade
from guardproxy.guards.local import LocalLimits, ModelOptions, open_local_guard
from guardproxy.guards.services import open_service
from guardproxy.ports import Guard, LabelList
from guardproxy.registry import load
from guardproxy.settings import Catalogue, GuardSettings, Member, Settings
from guardproxy.types import Check, Conversation, Message, Part, Taxonomy
from guardproxy.views import VIEWS

# Verdicts kept; one is about a kilobyte.
_CACHED_VERDICTS = 20_000
_REWRITES = ("replace", "redact")
_CHECK = Check(Conversation((Message("user", (Part("check", "Hello."),)),)), "user")


def known(*, builtin_only: bool = False) -> Catalogue:
    """What a configuration may name; with `builtin_only` nothing of the user's own."""
    return Catalogue(
        families=families.REGISTRY,
        options={name: _options(name) for name in families.REGISTRY},
        categories=_categories,
        rewrites=_REWRITES,
        wires=wires.REGISTRY,
        views=VIEWS,
        stores=[name for name in sinks.REGISTRY if name != "log"],
        services={name: bool(_family(name, {}, None).base_url) for name in families.SERVICES},
        builtin_only=builtin_only,
        store=_store,
        own=_own,
    )


def _store(address: str) -> str | None:
    """What keeps the address of an audit store from being used; never the address, which may hold a password."""
    try:
        load(address.partition("://")[0], sinks.REGISTRY, "store")(address)
    except ConfigError as error:
        return str(error)
    return None


def _own(name: str, kind: str) -> str | None:
    """What keeps a user's own code from being loaded."""
    try:
        load(name, {}, kind)
    except ConfigError as error:
        return str(error)
    return None


def _options(name: str) -> Mapping[str, Any]:
    """The options of a family, each with its type."""
    signature = inspect.signature(load(name, families.REGISTRY, "family"), eval_str=True)
    return {name: one.annotation for name, one in signature.parameters.items() if name != "taxonomy"}


def _categories(name: str, options: Mapping[str, Any], taxonomy: Taxonomy | None) -> Collection[str] | None:
    return [category.id for category in _family(name, options, taxonomy).taxonomy.categories]


def _family(name: str, options: Mapping[str, Any], taxonomy: Taxonomy | None) -> Any:
    """The Family or ServiceFamily of a guard. Raises ConfigError for options that it does not take."""
    return load(name, families.REGISTRY, "family")(taxonomy=taxonomy, **options)


def guard(settings: Settings) -> Guard:
    """The guard of a configuration, not started."""
    return cached(combined(settings, members(settings)))


def cached(one: Guard) -> Guard:
    """A guard that is asked the same question once."""
    return Cached(one, _CACHED_VERDICTS)


def combined(settings: Settings, members: Sequence[Guard]) -> Guard:
    """The guards of a configuration as the one that it describes."""
    given = settings.guard
    if given.cascade is not None:
        cheap, dear = members
        return Cascade(cheap, dear, given.cascade.low, given.cascade.high)
    return AllOf(members, given.mean) if given.all is not None else members[0]


def reads_lists(settings: Settings) -> bool:
    """Whether a guard's categories come from label lists, which are read only above the floor that it starts with."""
    alone = Member(settings.guard, settings.taxonomy)
    models = [one for one in (settings.members.values() or [alone]) if one.guard.service is None]
    prompts = [
        prompt for one in models for prompt in _family(one.guard.family, one.guard.options, one.taxonomy).render(_CHECK)
    ]
    return any(isinstance(prompt.readout, LabelList) for prompt in prompts)


def members(settings: Settings, *, floor: float = 0.0) -> list[Guard]:
    """The guards of a configuration, not started. Engines read categories where P(unsafe) is over `floor`.

    Where a mean is taken, they always do: it can be over a threshold that one of its guards is under.
    """
    floor = floor if settings.guard.mean is None else 0.0
    if not settings.members:
        given = settings.guard
        name = given.family if given.service is not None else given.model
        return [_member(name, given, settings.taxonomy, floor)]
    return [_member(name, one.guard, one.taxonomy, floor) for name, one in settings.members.items()]


def _member(name: str, given: GuardSettings, taxonomy: Taxonomy | None, floor: float) -> Guard:
    if given.service is not None:
        return open_service(
            name=name,
            family=_family(given.family, given.options, taxonomy),
            key=given.service.key,
            base_url=given.service.url or "",
            timeout_s=given.timeout_s,
            attempts=given.service.attempts,
            concurrency=given.service.concurrency,
            per_second=given.service.per_second,
        )
    return open_local_guard(
        name,
        _family(given.family, given.options, taxonomy),
        ModelOptions(given.model, given.device, given.dtype, given.threads, floor),
        LocalLimits(given.timeout_s, given.max_wait_s, given.max_batch_tokens),
    )
