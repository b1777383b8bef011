"""Check the guards: the options fit the family, and combined guards can be combined."""

import re
from collections.abc import Collection, Iterator

from guardproxy.languages import CODES
from guardproxy.policy import ANY, UNSAFE
from guardproxy.settings.catalogue import Catalogue
from guardproxy.settings.checks import labels, replicas
from guardproxy.settings.checks.patterns import FAMILY, PII, finders
from guardproxy.settings.checks.upstream import url_error
from guardproxy.settings.messages import suggestion
from guardproxy.settings.model import EMBEDDED, EMBEDDED_PARTS, MULTILINGUAL, Document
from guardproxy.settings.policy_texts import answers_in_chat
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath
from guardproxy.types import SIGNALS

_EMBEDDED_FAMILY = "classifier"
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")
# The combinations: a guard has at most one of them.
_KINDS = ("all", "cascade", "by_language", "by_role")
_COMBINATIONS = (*_KINDS, "mean")
# Options of a guard that combines others.
_OF_COMBINED = (*_COMBINATIONS, "languages", "calibration")
# The keys that name a guard.
_NAMING = (("cascade", "first"), ("cascade", "second"), ("by_language", "first"), ("by_language", "others"))


def guards(
    root: Node, document: Document | None, catalogue: Catalogue, categories: Collection[str] | None
) -> Iterator[Problem]:
    """Every mistake in `guard` and `guards`.

    `document` holds at least the guards, or is None if these have mistakes of type. `categories` are those of all
    guards, None if unknown.
    """
    guard, section = root.get("guard"), root.get("guards")
    defined = section.entries() if section else []
    opinion = root.get("audit", "second_opinion")
    members = [opinion.text() or ""] if opinion else []
    if opinion:
        yield from _names([(("audit", "second_opinion"), opinion)], [EMBEDDED, *(name for name, _ in defined)])
    if guard is not None and any(_option(guard, key) for key in _KINDS):
        named = [*_members(guard), *(pair for _, pairs in _of_roles(guard) for pair in pairs)]
        members += [text for _, node in named if (text := node.text())]
        yield from _combination(guard, [EMBEDDED, *(name for name, _ in defined)])
        yield from _unknown_languages(guard, document, catalogue)
        yield from labels.combined(guard, named, section)
    elif guard is not None:
        yield from _single_guard(("guard",), guard, catalogue)
        yield from labels.alone(guard)
    yield from _mean(guard, categories) if guard else ()
    yield from _calibration(guard, categories) if guard else ()
    yield from _languages(("guard", "languages"), guard) if guard else ()
    for name, node in defined:
        path: SettingPath = ("guards", name)
        if name not in members:
            users = ", ".join([*(f"guard.{kind}" for kind in _KINDS), "audit.second_opinion"])
            message = f"is not used; name it in {users}, or remove it"
            yield Problem(node.key_position, path, message)
        yield from _single_guard(path, node, catalogue)
        yield from _languages((*path, "languages"), node) if not _option(node, FAMILY) else ()
        for key in _COMBINATIONS:
            if option := _option(node, key):
                message = "only guard can combine guards, not an entry of guards; remove this"
                yield Problem(option.key_position, (*path, key), message)
        if option := _option(node, "calibration"):
            message = "belongs in guard: the probabilities of the combination are calibrated; move it there"
            yield Problem(option.key_position, (*path, "calibration"), message)


def _option(guard: Node, key: str) -> Node | None:
    """The value of an option; None as well if it is null, which is the default."""
    node = guard.get(key)
    return node if node is not None and node.value is not None else None


def _members(guard: Node) -> list[tuple[SettingPath, Node]]:
    """The names of the guards that `guard` combines, each with its path."""
    all_of = _option(guard, "all")
    members: list[tuple[SettingPath, Node]] = [
        (("guard", "all", index), node) for index, node in (all_of.elements() if all_of else [])
    ]
    for kind, key in _NAMING:
        node = guard.get(kind, key)
        members += [(("guard", kind, key), node)] if node else []
    return members


def _of_roles(guard: Node) -> list[tuple[SettingPath, list[tuple[SettingPath, Node]]]]:
    """The names of the guards of each role, each with its path."""
    by_role = _option(guard, "by_role")
    roles: list[tuple[SettingPath, list[tuple[SettingPath, Node]]]] = []
    for role, node in by_role.entries() if by_role else []:
        path: SettingPath = ("guard", "by_role", role)
        listed: list[tuple[SettingPath, Node]] = [((*path, index), one) for index, one in node.elements()]
        roles.append((path, listed or [(path, node)]))
    return roles


def _combination(guard: Node, defined: list[str]) -> Iterator[Problem]:
    """The mistakes of a guard that combines others."""
    all_of = _option(guard, "all")
    first, *more = [(key, node) for key in _KINDS if (node := _option(guard, key))]
    for key, node in more:
        message = f"cannot be combined with guard.{first[0]}; remove either"
        yield Problem(node.key_position, ("guard", key), message)
    for key, node in guard.entries():
        if key not in _OF_COMBINED:
            message = "has no effect on combined guards; set it for each of them in guards"
            yield Problem(node.key_position, ("guard", key), message)
    if all_of and len(all_of.elements()) == 1:
        yield Problem(all_of.position, ("guard", "all"), "needs two guards or more")
    for members in (_members(guard), *(pairs for _, pairs in _of_roles(guard))):
        yield from _names(members, defined)
    low, high = guard.get("cascade", "low"), guard.get("cascade", "high")
    if low and high and (low.number() or 0.0) > (high.number() or 0.0):
        yield Problem(low.position, ("guard", "cascade", "low"), "must be at most cascade.high")


def _names(members: list[tuple[SettingPath, Node]], defined: list[str]) -> Iterator[Problem]:
    """The mistakes in the names of guards that are asked together: unknown ones, and one that is named twice."""
    seen: set[str] = set()
    for path, node in members:
        name = node.text()
        if name and name not in defined:
            yield Problem(node.position, path, f"unknown guard {name!r}; " + suggestion(name, defined))
        elif name in seen:
            yield Problem(node.position, path, f"{name!r} is named twice; name another guard")
        seen.add(name or "")


def _unknown_languages(guard: Node, document: Document | None, catalogue: Catalogue) -> Iterator[Problem]:
    """The mistake of texts that go to a guard by its languages, which are not known."""
    node = guard.get("by_language", "first")
    name = node.text() if node else None
    first = document.members().get(name) if document and name else None
    if node and first and catalogue.languages(first) is None:
        message = f"the languages that {name!r} reads are not known; set guards.{name}.languages"
        yield Problem(node.position, ("guard", "by_language", "first"), message)


def _mean(guard: Node, categories: Collection[str] | None) -> Iterator[Problem]:
    mean, all_of = _option(guard, "mean"), _option(guard, "all")
    if mean and not all_of:
        message = "has no effect without guard.all; list the guards there or remove this"
        yield Problem(mean.key_position, ("guard", "mean"), message)
        return
    for category, weights in mean.entries() if mean else []:
        path: SettingPath = ("guard", "mean", category)
        numbers = [node.number() or 0.0 for _, node in weights.elements()]
        count = len(all_of.elements()) if all_of else 0
        yield from _unknown_category(path, weights, categories, UNSAFE, ANY)
        if len(numbers) != count:
            yield Problem(weights.position, path, f"needs a weight for each of the {count} guards of guard.all")
        elif sum(numbers) == 0:
            yield Problem(weights.position, path, "the weights must not all be 0")


def _calibration(guard: Node, categories: Collection[str] | None) -> Iterator[Problem]:
    """The categories of `calibration` of which the guard gives no probability."""
    for side in ("user", "assistant"):
        maps = guard.get("calibration", side)
        for category, node in maps.entries() if maps else []:
            yield from _unknown_category(("guard", "calibration", side, category), node, categories, UNSAFE)


def _unknown_category(
    path: SettingPath, node: Node, categories: Collection[str] | None, *others: str
) -> Iterator[Problem]:
    """The mistake of a key, the last of `path`, that is no category of the guard and none of `others`."""
    category = str(path[-1])
    if categories is not None and category not in {*categories, *SIGNALS, *others}:
        message = f"unknown category {category!r}; " + suggestion(category, [*dict.fromkeys(categories), *others])
        yield Problem(node.key_position, path, message)


def _languages(path: SettingPath, guard: Node) -> Iterator[Problem]:
    """The codes of `languages` that ISO 639-1 does not have, or that are named twice."""
    languages = guard.get("languages")
    seen: set[str] = set()
    for index, node in languages.elements() if languages else []:
        code = node.text()
        if code and code not in CODES:
            message = f"{code!r} is not a code of ISO 639-1; use two lower-case letters, such as en or zh"
            yield Problem(node.position, (*path, index), message)
        elif code in seen:
            yield Problem(node.position, (*path, index), f"{code} is already listed; remove it")
        seen.add(code or "")


def _single_guard(path: SettingPath, guard: Node, catalogue: Catalogue) -> Iterator[Problem]:
    """The mistakes of a section that describes a single guard."""
    family = guard.get("family")
    name = (family.text() if family else _EMBEDDED_FAMILY) or ""
    if family and name:
        message = catalogue.name_error(name, catalogue.families, "family")
        if message:
            yield Problem(family.position, (*path, "family"), message)
    yield from finders(path, guard, name)
    if name in (FAMILY, PII):
        yield from replicas.local_only(path, guard)
        yield from _unknown_options(path, guard, name, catalogue) if name == PII else ()
        return
    if replicas.is_remote(guard):
        yield from replicas.remote(path, guard)
    elif name in catalogue.services:
        yield from _service(path, guard, name, has_public_address=catalogue.services[name])
    elif name in catalogue.families and not answers_in_chat(guard):
        yield from _local_model(path, guard, name)
    yield from replicas.replicas(path, guard)
    service = f"the family {name} is a service" if name in catalogue.services else ""
    classifier = f"the family {name} reads classifiers" if name == _EMBEDDED_FAMILY else ""
    yield from replicas.completions(path, guard, no_model=service or classifier, chat=answers_in_chat(guard))
    device = guard.get("device")
    if device and device.text() and not _DEVICE.fullmatch(device.text() or ""):
        yield Problem(device.position, (*path, "device"), "must be auto, cpu, cuda or cuda:N")
    yield from _unknown_options(path, guard, name, catalogue)


def _unknown_options(path: SettingPath, guard: Node, family: str, catalogue: Catalogue) -> Iterator[Problem]:
    options = guard.get("options")
    for option, node in options.entries() if options and family in catalogue.options else []:
        if option not in catalogue.options[family]:
            message = "unknown option; " + suggestion(option, sorted(catalogue.options[family]))
            yield Problem(node.key_position, (*path, "options", option), message)


def _service(path: SettingPath, guard: Node, family: str, *, has_public_address: bool) -> Iterator[Problem]:
    """The mistakes of a guard that is a moderation service."""
    service = _option(guard, "service")
    if service is None:
        yield Problem(guard.key_position, (*path, "service"), f"is missing; {family} is a service, so set service.key")
    own = service.get("key") if service else None
    if own and own.value is None:
        yield Problem(own.position, (*path, "service", "key"), "is missing; write ${env:NAME} and set that variable")
    for key in ("model", "device", "dtype", "max_batch_tokens", "max_wait_s", "threads"):
        if node := guard.get(key):
            message = f"has no effect, because {family} is a service; remove it"
            yield Problem(node.key_position, (*path, key), message)
    url = service.get("url") if service else None
    text = url.text() if url else None
    if url and text and (message := url_error(text) or ""):
        yield Problem(url.position, (*path, "service", "url"), message.replace("upstream.key", "service.key"))
    if service and service.entries() and not has_public_address and (url is None or url.value is None):
        message = f"is missing; set it, because {family} gives each customer a separate address"
        yield Problem(service.key_position, (*path, "service", "url"), message)


def _local_model(path: SettingPath, guard: Node, family: str) -> Iterator[Problem]:
    """The mistakes of a guard whose built-in family runs a model in this process."""
    model, service = guard.get("model"), _option(guard, "service")
    if service:
        message = f"has no effect, because the family {family} runs a model in this process; remove it"
        yield Problem(service.key_position, (*path, "service"), message)
    elif (model is None or model.value in (EMBEDDED, *EMBEDDED_PARTS, MULTILINGUAL)) and family != _EMBEDDED_FAMILY:
        node = model or guard.get("family") or guard
        message = f"the embedded guard is a {_EMBEDDED_FAMILY}; name a model of the family {family}"
        yield Problem(node.position, (*path, "model"), message)
