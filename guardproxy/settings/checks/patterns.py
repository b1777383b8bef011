"""Check the guards that look for places in a text: patterns, whose categories look for something, and personal data."""

from collections.abc import Iterator

from guardproxy.policy import ANY, UNSAFE
from guardproxy.settings.checks.taxonomies import IDENTIFIER, RESERVED
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

FAMILY = "patterns"
PII = "pii"
_KINDS = ("words", "regexes", "secrets", "sha256")
# Options of the guards without a model, by their family.
_NOUNS = {FAMILY: "patterns", PII: "personal data"}
_OPTIONS = {FAMILY: ("family", "patterns", "calibration"), PII: ("family", "options", "calibration")}


def finders(path: SettingPath, guard: Node, family: str) -> Iterator[Problem]:
    """The mistakes of a guard's `patterns`, and of the options beside it, that the family itself does not report."""
    node = guard.get(FAMILY)
    section = node if node is not None and node.value is not None else None
    for key, option in guard.entries() if family in _OPTIONS else ():
        if key not in (*_OPTIONS[family], FAMILY) and option.value is not None:
            message = f"has no effect, because {_NOUNS[family]} need no model; remove it"
            yield Problem(option.key_position, (*path, key), message)
    if family != FAMILY:
        if section is not None:
            message = f"has no effect with the family {family}; write family: patterns, or remove this"
            yield Problem(section.key_position, (*path, FAMILY), message)
        return
    if section is None:
        message = "is missing; list what the guard looks for, such as {internal: {words: [bluebird]}}"
        yield Problem(guard.key_position, (*path, FAMILY), message)
    for category, one in section.entries() if section else []:
        yield from _category((*path, FAMILY, category), category, one)


def masked(root: Node) -> Iterator[Problem]:
    """The mistakes of rules that mask what no guard looks for in a text, so that they could only block."""
    policies = root.get("policies")
    for name, policy in policies.entries() if policies else []:
        sides = [(side, policy.get(side)) for side in ("user", "assistant", "tool")]
        rules = [((side, category), rule) for side, node in sides if node for category, rule in node.entries()]
        overall = policy.get(UNSAFE)
        for below, rule in [*rules, *([((UNSAFE,), overall)] if overall else [])]:
            how = rule.get("rewrite", "how")
            if how and how.text() == "mask" and not _can_be_masked(root, str(below[-1])):
                message = (
                    f"masks matches of patterns or personal data, and no guard looks for {below[-1]}; write redact or "
                    "replace"
                )
                yield Problem(how.position, ("policies", name, *below, "rewrite", "how"), message)


def without_unsafe(root: Node) -> Iterator[Problem]:
    """The mistakes of combinations in which the P(unsafe) of a guard of personal data counts: it is always 0."""
    guard, guards = root.get("guard"), root.get("guards")
    named = [name for name, one in (guards.entries() if guards else []) if _family(one) == PII]
    for key in ("first", "second"):
        node = guard.get("cascade", key) if guard else None
        if node and node.text() in named:
            message = f"{node.text()!r} has no P(unsafe), by which a cascade decides; name another guard"
            yield Problem(node.position, ("guard", "cascade", key), message)
    mean, members = (guard.get("mean"), guard.get("all")) if guard else (None, None)
    if mean is None or members is None or not mean.entries():
        return
    weights = mean.get(UNSAFE) or mean.get(ANY)
    for index, node in members.elements():
        if node.text() in named and (weights is None or dict(weights.elements()).get(index, node).value != 0):
            place = weights or mean
            message = f"needs the weight 0 for {node.text()!r}, which has no P(unsafe); write {UNSAFE}: [...] with it"
            yield Problem(place.position, ("guard", "mean", UNSAFE), message)


def _family(guard: Node) -> str | None:
    family = guard.get("family")
    return family.text() if family else None


def _can_be_masked(root: Node, category: str) -> bool:
    """Whether a guard may find places of this category, of any with `"*"`, or of any that is a harm with `unsafe`."""
    defined = root.get("guards")
    single = [root.get("guard"), *(one for _, one in (defined.entries() if defined else []))]
    sections = [section for one in single if one and (section := one.get(FAMILY))]
    if category == UNSAFE:
        return bool(sections)
    has_pii = any(_family(one) == PII for one in single if one)
    if category == ANY:
        return has_pii or bool(sections)
    # An unknown name of this form is reported as an unknown category.
    return (has_pii and category.startswith(f"{PII}_")) or any(section.get(category) for section in sections)


def _category(path: SettingPath, category: str, one: Node) -> Iterator[Problem]:
    if not IDENTIFIER.fullmatch(category) or category in RESERVED:
        message = f"must be lower-case letters, digits and _, and not a reserved name ({', '.join(RESERVED)})"
        yield Problem(one.key_position, path, message)
    given = {key: node for key, node in one.entries() if node.value is not None and node.value != []}
    if isinstance(one.value, dict) and not set(given) & set(_KINDS):
        yield Problem(one.key_position, path, f"looks for nothing; add one of {', '.join(_KINDS)}")
    for key in ("words", "sha256"):
        if (node := given.get(key)) and node.text() is not None and not node.reported:
            message = f"must be a list, not {node.text()!r}; put it in brackets, or write file:NAME"
            yield Problem(node.position, (*path, key), message)
    secrets = given.get("secrets")
    if secrets and secrets.text() not in (None, "all"):
        message = f"must be all or a list of formats, not {secrets.text()!r}; put it in brackets: [{secrets.text()}]"
        yield Problem(secrets.position, (*path, "secrets"), message)
    for key, needed in (("max_words", "sha256"), ("max_length", "regexes")):
        if key in given and needed not in given:
            yield Problem(given[key].key_position, (*path, key), f"has no effect without {needed}; remove it")
