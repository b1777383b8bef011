"""`guard.by_role`, the rules of `tool`, and `judge.tool_as_user` in a configuration."""

from typing import Any

import pytest

from guardproxy.app import catalogue, guard, guard_name, traits
from guardproxy.app.languages import languages_read
from guardproxy.errors import ConfigError
from guardproxy.policy import Policy, Rule
from guardproxy.settings import Settings, load_text

GUARDS = """
guards:
  injection: {family: classifier, model: some/model, options: {labels: [a, b], categories: {b: jailbreak}}}
  house: {family: patterns, patterns: {names: {words: [bluebird]}}}
"""
BY_ROLE = "guard: {by_role: {user: [embedded, house], assistant: embedded, tool: injection}}"


def read(text: str) -> Settings:
    """The settings of a text."""
    return load_text(text, "f.yaml", {}, catalogue())


def mistakes(text: str) -> list[str]:
    """The mistakes of a text, with line and column."""
    with pytest.raises(ConfigError) as raised:
        read(text)
    return [problem.removeprefix("f.yaml:") for problem in raised.value.problems]


def test_the_guards_of_roles_become_one() -> None:
    """Each guard once, in the order of the roles; rules may name the categories of all of them."""
    rules = "policies: {default: {preset: balanced, tool: {jailbreak: {block: 0.5}}, assistant: {names: {block: 0.5}}}}"
    settings = read(f"{BY_ROLE}\n{GUARDS}{rules}")
    assert list(settings.members) == ["embedded", "house", "injection"]
    one = guard(settings)
    assert one.name == guard_name(settings) == "embedded&house&injection"
    assert {"violence_hate", "names", "jailbreak"} <= {category.id for category in one.taxonomy.categories}
    assert traits(settings).reads_tools
    assert traits(settings).reaches == {}  # replies are not read by the guard that looks for patterns
    assert languages_read(settings) == {"en"}
    assert settings.policies.policies["default"].thread.turns == 0


def test_other_roles_have_the_guard_of_the_user() -> None:
    """Without `tool`, nothing is read a second time."""
    settings = read(
        "guard: {by_role: {user: house}}\nguards: {house: {family: patterns, patterns: {n: {words: [b]}}}}\n"
        "policies: {default: {unsafe: {block: 0.5}}}"
    )
    by_role = settings.guard.by_role
    assert by_role is not None
    assert by_role.of("assistant") == by_role.of("tool") == ("house",)
    assert (traits(settings).reads_tools, traits(settings).has_model) == (False, False)


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("guard: {by_role: {assistant: embedded}}", "1:9: guard.by_role.user: is missing"),
        (
            "guard: {by_role: {user: embeded}}",
            "1:25: guard.by_role.user: unknown guard 'embeded'; did you mean embedded?",
        ),
        ("guard: {by_role: {user: [embedded, x]}}", "1:36: guard.by_role.user[1]: unknown guard 'x'"),
        ("guard: {by_role: {user: [embedded, embedded]}}", "1:36: guard.by_role.user[1]: 'embedded' is named twice"),
        ("guard: {by_role: {user: embedded, system: embedded}}", "1:35: guard.by_role.system: unknown key"),
        ("guard: {by_role: {user: embedded}, device: cpu}", "1:36: guard.device: has no effect on combined guards"),
        ("guard: {by_role: {user: embedded}, all: [embedded, house]}" + GUARDS, "guard.by_role: cannot be combined"),
        ("guard: {by_role: {user: embedded, tool: house}}" + GUARDS, "guards.injection: is not used; name it in"),
    ],
)
def test_mistakes_have_their_place(text: str, mistake: str) -> None:
    """Unknown names, names twice, options of a single guard."""
    assert any(mistake in problem for problem in mistakes(text)), mistakes(text)


def policy_of(rules: str) -> Policy:
    """The policy of these rules, for the embedded guard."""
    return read(f"policies: {{default: {rules}}}").policies.policies["default"]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("{user: {violence_hate: {block: 0.5}}, unsafe: {block: 0.9}}", None),
        (
            "{user: {violence_hate: {block: 0.5}}, unsafe: {block: 0.9}, tool: {jailbreak: {flag: 0.3}}}",
            {"violence_hate": ("block", 0.5), "unsafe": ("block", 0.9), "jailbreak": ("flag", 0.3)},
        ),
        (
            "{user: {violence_hate: {block: 0.5}}, unsafe: {block: 0.9}, tool: {'*': {flag: 0.3}}}",
            {"unsafe": ("block", 0.9), "*": ("flag", 0.3)},
        ),
        (
            "{user: {'*': {block: 0.5}}, assistant: {'*': {}}, tool: {unsafe: {flag: 0.3}}}",
            {"*": ("block", 0.5), "unsafe": ("flag", 0.3)},
        ),
    ],
)
def test_the_rules_of_tools_fall_back_to_those_of_the_user(rules: str, expected: Any) -> None:
    """Category by category; with "*" they stand alone, but for P(unsafe)."""
    found = policy_of(rules).tool
    wanted = expected and {name: (Rule(*rule),) for name, rule in expected.items()}
    assert (found and dict(found.by_category)) == wanted


def test_rules_of_tools_are_checked_like_all_rules() -> None:
    """Unknown categories, rules out of reach; and they count for the floor of what a guard computes."""
    rules = "{unsafe: {block: 0.9}, tool: {violence_hat: {block: 0.5}}}"
    assert mistakes(f"policies: {{default: {rules}}}")[0].startswith(
        "1:51: policies.default.tool.violence_hat: unknown category 'violence_hat'; did you mean violence_hate?"
    )
    rules = "{unsafe: {block: 0.9}, tool: {violence_hate: {flag: 0.6, block: 0.5}}}"
    assert "policies.default.tool.violence_hate.flag: is unreachable" in mistakes(f"policies: {{default: {rules}}}")[0]
    assert policy_of("{unsafe: {block: 0.9}, tool: {violence_hate: {flag: 0.1}}}").floor == 0.1
    assert policy_of("{unsafe: {block: 0.9}, judge: {tool_as_user: false}}").judge.tool_as_user is False
