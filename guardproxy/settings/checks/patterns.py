"""Check the patterns of a guard: a category is named as in every taxonomy, and looks for something."""

from collections.abc import Iterator

from guardproxy.policy import ANY, UNSAFE
from guardproxy.settings.checks.taxonomies import IDENTIFIER, RESERVED
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

FAMILY = "patterns"
_KINDS = ("words", "regexes", "secrets", "sha256")
# Options of a guard that looks for patterns.
_OPTIONS = ("family", "patterns", "calibration")


def patterns(path: SettingPath, guard: Node, family: str) -> Iterator[Problem]:
    """The mistakes of a guard's `patterns`, and of the options beside it, that the family itself does not report."""
    node = guard.get(FAMILY)
    section = node if node is not None and node.value is not None else None
    if family != FAMILY:
        if section is not None:
            message = f"has no effect with the family {family}; write family: patterns, or remove this"
            yield Problem(section.key_position, (*path, FAMILY), message)
        return
    if section is None:
        message = "is missing; list what the guard looks for, such as {internal: {words: [bluebird]}}"
        yield Problem(guard.key_position, (*path, FAMILY), message)
    for key, option in guard.entries():
        if key not in _OPTIONS and option.value is not None:
            yield Problem(option.key_position, (*path, key), "has no effect, because patterns need no model; remove it")
    for category, one in section.entries() if section else []:
        yield from _category((*path, FAMILY, category), category, one)


def masked(root: Node) -> Iterator[Problem]:
    """The mistakes of rules that mask what no guard looks for by patterns, so that they could only block."""
    guards, policies = root.get("guards"), root.get("policies")
    sections = [root.get("guard", FAMILY), *(one.get(FAMILY) for _, one in (guards.entries() if guards else []))]
    known = [category for section in sections if section for category, _ in section.entries()]
    for name, policy in policies.entries() if policies else []:
        sides = [(side, policy.get(side)) for side in ("user", "assistant", "tool")]
        rules = [((side, category), rule) for side, node in sides if node for category, rule in node.entries()]
        overall = policy.get(UNSAFE)
        for below, rule in [*rules, *([((UNSAFE,), overall)] if overall else [])]:
            how = rule.get("rewrite", "how")
            if how and how.text() == "mask" and not (below[-1] in known or (known and below[-1] in (ANY, UNSAFE))):
                message = f"masks matches of patterns, and no guard has any of {below[-1]}; write redact or replace"
                yield Problem(how.position, ("policies", name, *below, "rewrite", "how"), message)


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
