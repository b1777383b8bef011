"""What a document says of its guards: do they fit their families, and can those that are combined be?"""

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from guardproxy.policy import ANY, UNSAFE
from guardproxy.settings.schema import suggest
from guardproxy.settings.yaml_tree import Node, Path, Problem
from guardproxy.types import SIGNALS

if TYPE_CHECKING:
    from guardproxy.settings.checks.document import Catalogue

# The guard that ships with the package can be named without being described. It has a class head.
EMBEDDED = "embedded"
_EMBEDDED_FAMILY = "classifier"
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")
_COMBINING = ("all", "mean", "cascade")


def guards(root: Node, known: "Catalogue", categories: Collection[str] | None) -> Iterator[Problem]:
    """Every mistake in `guard` and `guards`. `categories` are those of all guards, None where they are unknown."""
    guard, described = root.get("guard"), root.get("guards")
    named: list[str] = []
    if guard is not None and any(_given(guard, key) for key in ("all", "cascade")):
        named = _names(guard)
        yield from _combined(guard, [EMBEDDED, *([key for key, _ in described.entries()] if described else [])])
    elif guard is not None:
        yield from _one(("guard",), guard, known)
    yield from _mean(guard, categories) if guard else ()
    for key, node in described.entries() if described else []:
        path: Path = ("guards", key)
        if key not in named:
            yield Problem(node.key, path, "not used: neither guard.all nor guard.cascade names it")
        yield from _one(path, node, known)
        for inner in _COMBINING:
            if found := _given(node, inner):
                yield Problem(found.key, (*path, inner), "a guard that is combined cannot itself combine others")


def _given(guard: Node, key: str) -> Node | None:
    """The value of an option; None also where it is null, which is its default."""
    node = guard.get(key)
    return node if node is not None and node.value is not None else None


def _names(guard: Node) -> list[str]:
    """The names of the guards that are combined, as far as they are texts."""
    together = _given(guard, "all")
    nodes = [node for _, node in together.items()] if together else []
    nodes += [node for key in ("cheap", "dear") if (node := guard.get("cascade", key))]
    return [text for node in nodes if (text := node.text())]


def _combined(guard: Node, there: list[str]) -> Iterator[Problem]:
    together, cascade = _given(guard, "all"), _given(guard, "cascade")
    if together and cascade:
        yield Problem(cascade.key, ("guard", "cascade"), "guards are either all asked or in a cascade, not both")
    for key, node in guard.entries():
        if key not in _COMBINING:
            yield Problem(node.key, ("guard", key), "has no effect beside guards that are combined: say it in guards")
    listed = together.items() if together else []
    places: list[tuple[Path, Node]] = [(("guard", "all", place), node) for place, node in listed]
    for key in ("cheap", "dear"):
        member = guard.get("cascade", key)
        places += [(("guard", "cascade", key), member)] if member else []
    if together and len(listed) == 1:
        yield Problem(together.mark, ("guard", "all"), "needs two guards or more")
    seen: set[str] = set()
    for path, node in places:
        name = node.text()
        if name and name not in there:
            yield Problem(node.mark, path, f"unknown guard {name!r}; " + suggest(name, there))
        elif name in seen:
            yield Problem(node.mark, path, f"{name!r} is named twice")
        seen.add(name or "")
    low, high = guard.get("cascade", "low"), guard.get("cascade", "high")
    if low and high and _number(low) > _number(high):
        yield Problem(low.mark, ("guard", "cascade", "low"), "is over cascade.high")


def _mean(guard: Node, categories: Collection[str] | None) -> Iterator[Problem]:
    mean, together = _given(guard, "mean"), _given(guard, "all")
    if mean and not together:
        yield Problem(mean.key, ("guard", "mean"), "has no effect without guard.all")
        return
    for category, weights in mean.entries() if mean else []:
        path: Path = ("guard", "mean", category)
        found = [_number(node) for _, node in weights.items()]
        guards = len(together.items()) if together else 0
        if categories is not None and category not in {*categories, *SIGNALS, UNSAFE, ANY}:
            known = [*dict.fromkeys(categories), UNSAFE, ANY]
            yield Problem(weights.key, path, f"unknown category {category!r}; " + suggest(category, known))
        if len(found) != guards:
            yield Problem(weights.mark, path, f"needs a weight for each of the {guards} guards of guard.all")
        elif sum(found) == 0:
            yield Problem(weights.mark, path, "the weights must not all be 0")


def _number(node: Node) -> float:
    return float(node.value) if isinstance(node.value, int | float) else 0.0


def _service(path: Path, guard: Node, family: str, service: Node | None) -> Iterator[Problem]:
    """The mistakes of a guard that is a moderation service."""
    if service is None:
        yield Problem(guard.key, (*path, "service"), f"is missing: {family} is a service and needs a key")
    for key in ("model", "device", "dtype", "max_batch_tokens", "max_wait_s", "threads"):
        if node := guard.get(key):
            yield Problem(node.key, (*path, key), f"has no effect: {family} is a service")


def _one(path: Path, guard: Node, known: "Catalogue") -> Iterator[Problem]:
    """The mistakes of one guard's own description."""
    family = guard.get("family")
    name = family.text() if family else _EMBEDDED_FAMILY
    if family and name:
        fault = known.fault(name, known.families, "family")
        if fault:
            yield Problem(family.mark, (*path, "family"), fault)
    model, service = guard.get("model"), _given(guard, "service")
    embedded = model is None or model.value == EMBEDDED
    if name in known.services:
        yield from _service(path, guard, name or "", service)
    elif service and name in known.families:
        yield Problem(service.key, (*path, "service"), f"has no effect: the family {name} runs a model here")
    elif embedded and name in known.families and name != _EMBEDDED_FAMILY:
        place = model or family or guard
        message = f"the embedded guard is a {_EMBEDDED_FAMILY}; name a model of the family {name}"
        yield Problem(place.mark, (*path, "model"), message)
    device = guard.get("device")
    if device and device.text() and not _DEVICE.fullmatch(device.text() or ""):
        yield Problem(device.mark, (*path, "device"), "must be auto, cpu, cuda or cuda:N")
    options = guard.get("options")
    for option, node in options.entries() if options and name in known.options else []:
        if option not in known.options[str(name)]:
            message = "unknown option; " + suggest(option, sorted(known.options[str(name)]))
            yield Problem(node.key, (*path, "options", option), message)
