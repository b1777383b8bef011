"""Which changes of the configuration file a running proxy can apply, and which need a restart."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from guardproxy.app.guards import reads_label_lists
from guardproxy.errors import ConfigError
from guardproxy.settings import Settings

# Sections that policies do not depend on: the policies of a file are applied although these wait for a restart.
_BESIDE = (
    "server",
    "admin",
    "upstream",
    "upstreams",
    "upstream_groups",
    "wires",
    "apis",
    "limits",
    "paths",
    "audit",
    "opinion",
    "alerts",
    "console",
    "log",
    "otel",
    "shared_state",
)
# Thresholds are for the probabilities and the categories of a guard: with another guard, policies wait as well.
_OF_THE_GUARD = ("guard", "members", "taxonomy")
_KEYS = {
    "opinion": "guards",
    "members": "guards",
    "taxonomy": "guard.categories",
}  # where a name of `Settings` is not the file's


def restarts_needed(old: Settings, new: Settings, sections: frozenset[str]) -> tuple[str, ...]:
    """The changed keys of a file that need a restart while its policies can be applied, such as `server.port`.

    `old` are the settings at the start; `sections` are those of the file when it was last applied. Raises ConfigError
    if its policies cannot be applied either: a section has gone (its default would take its place; the file may be
    half-written), the guard is another one, a route names an upstream that is not running, or a threshold is lower than
    what the running guard reads.
    """
    if gone := sorted(sections - new.sections):
        names = ", ".join(gone)
        raise ConfigError(f"{new.name}: {names}: was in the file and is missing now; complete the file, or restart")
    # Exclusions and the calibration are applied as the policies are.
    old = replace(old, audit=replace(old.audit, exclusions=new.audit.exclusions))
    old = replace(old, guard=replace(old.guard, calibration=new.guard.calibration))
    if changed := _changed(old, new, _OF_THE_GUARD):
        raise ConfigError(
            f"{new.name}: changes of {', '.join(changed)} need a restart, and the policies of the file wait for it: "
            "their thresholds are for that guard"
        )
    running = {"", *old.by_name, *old.upstream_groups}
    if unknown := sorted({route.upstream for route in new.policies.routes} - running):
        raise ConfigError(
            f"{new.name}: routes name {', '.join(unknown)}, which the running proxy does not have; restart to apply it"
        )
    old_floor, new_floor = floor_of(old), floor_of(new)
    if new_floor < old_floor and reads_label_lists(new):
        raise ConfigError(
            f"{new.name}: a threshold of {new_floor:g} is below {old_floor:g}, from which the running guard reads "
            "categories; restart to apply it"
        )
    return _changed(old, new, _BESIDE)


def floor_of(settings: Settings) -> float:
    """The P(unsafe) below which no category can reach a threshold, so that none needs to be read."""
    return min(policy.floor for policy in settings.policies.policies.values())


def _changed(old: Settings, new: Settings, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(key for name in names for key in _keys(_KEYS.get(name, name), getattr(old, name), getattr(new, name)))


def _keys(place: str, old: Any, new: Any) -> Iterator[str]:
    """The keys below `place` whose values differ. They name no value: it may be a secret."""
    if old == new:
        return
    if is_dataclass(old) and is_dataclass(new) and type(old) is type(new):
        for field in fields(old):
            yield from _keys(f"{place}.{field.name}", getattr(old, field.name), getattr(new, field.name))
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from _keys(f"{place}.{name}", old.get(name), new.get(name))
    else:
        yield place
