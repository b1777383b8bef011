"""Presets and second conditions: what they mean, and their mistakes with line and column."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.errors import ConfigError
from guardproxy.policy import PRESETS, PresetName, Rule, ThreadPolicy, decide
from guardproxy.sentences import SentencePolicy
from guardproxy.settings import load, load_text, starter
from guardproxy.settings.presets import default_policies
from guardproxy.types import SIGNALS, Finding, Verdict
from tests.replay_kit import SIDES
from tests.settings.kit import CATEGORIES, NAMES, mistakes, read

POLICIES = "version: 1\npolicies:\n  default:\n"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_rules_for_both_sides(preset: PresetName) -> None:
    """Each preset is valid, names every category of the embedded guard, and blocks by P(unsafe) on both sides."""
    (policy,) = load(None, {}, NAMES, preset).policies.policies.values()
    for side in (policy.user, policy.assistant):
        assert set(side.by_category) == {*CATEGORIES, "unsafe"} - SIGNALS
        assert [rule.action for rule in side.by_category["unsafe"]] == ["block"]


def test_stricter_presets_block_from_lower_probabilities() -> None:
    """On both sides the thresholds of P(unsafe) rise from `strict` to `permissive`."""
    policies = [load(None, {}, NAMES, preset).policies.policies["default"] for preset in PRESETS]
    for rules in ([policy.user for policy in policies], [policy.assistant for policy in policies]):
        thresholds = [side.by_category["unsafe"][0].threshold for side in rules]
        assert thresholds == sorted(thresholds)
        assert len(set(thresholds)) == 3


def test_a_policy_on_a_preset_has_its_rules() -> None:
    """`preset: balanced` alone is the built-in policy, and the version of the policy depends on the preset's rules."""
    read_policy = read(f"{POLICIES}    preset: balanced\n").policies.policies["default"]
    assert read_policy == load(None, {}, NAMES).policies.policies["default"]
    strict = read(f"{POLICIES}    preset: strict\n").policies.policies["default"]
    assert strict.version != read_policy.version
    bare = read(f"{POLICIES}    user: {{unsafe: {{block: 0.5}}}}\n    assistant: {{unsafe: {{block: 0.5}}}}\n")
    assert bare.policies.policies["default"].version not in {strict.version, read_policy.version}


def test_own_rules_replace_those_of_the_preset() -> None:
    """A category's own rules replace the preset's on that side only; so do those of `unsafe` beside the sides."""
    base = load(None, {}, NAMES).policies.policies["default"]
    text = f"{POLICIES}    preset: balanced\n    user: {{sexual_content: {{flag: 0.25}}}}\n"
    policy = read(text).policies.policies["default"]
    assert policy.user.by_category == {**base.user.by_category, "sexual_content": (Rule("flag", 0.25),)}
    assert policy.assistant == base.assistant
    policy = read(f"{text}    unsafe: {{block: 0.05}}\n").policies.policies["default"]
    assert policy.user.by_category["unsafe"] == policy.assistant.by_category["unsafe"] == (Rule("block", 0.05),)


THREAD = ThreadPolicy(turns=4, characters=2000, unsafe=0.8)
OTHERS = "\nguards: {large: {model: embedded-large}}"


def thread_of(text: str) -> ThreadPolicy:
    """The thread of the default policy of this text."""
    return read(f"version: 1\n{text}\n").policies.policies["default"].thread


@pytest.mark.parametrize(
    ("text", "thread"),
    [
        ("", THREAD),
        ("guard: {}", THREAD),
        ("guard: {family: classifier, model: embedded, threads: 2}", THREAD),
        ("guard: {cascade: null}", THREAD),
        ("guard: {model: embedded-small}", ThreadPolicy()),
        ("guard: {model: org/other}", ThreadPolicy()),
        (f"guard: {{all: [embedded, large]}}{OTHERS}", ThreadPolicy()),
        (f"guard: {{cascade: {{first: embedded, second: large, low: 0.1, high: 0.9}}}}{OTHERS}", ThreadPolicy()),
        (f"guard: {{by_language: {{first: embedded, others: large}}}}{OTHERS}", ThreadPolicy()),
    ],
)
def test_a_preset_joins_user_turns_for_the_embedded_guard_alone(text: str, thread: ThreadPolicy) -> None:
    """With other guards it was not measured, and each request would cost them a check more: they keep the default.

    So it is without policies, and with a policy on a preset.
    """
    assert thread_of(text) == thread
    assert thread_of(f"{text}\npolicies: {{default: {{preset: strict}}}}") == thread


@pytest.mark.parametrize(
    ("own", "thread"),
    [
        ("{turns: 0}", ThreadPolicy()),
        ("{turns: 1}", ThreadPolicy(turns=1)),
        ("{turns: 2}", replace(THREAD, turns=2)),
        ("{unsafe: 0.95}", replace(THREAD, unsafe=0.95)),
        ("{}", THREAD),
    ],
)
def test_a_policy_may_change_the_thread_of_its_preset(own: str, thread: ThreadPolicy) -> None:
    """Option by option; a policy that joins no turns is rid of all of it. The version of the policy shows it."""
    read_policy = read(f"{POLICIES}    preset: balanced\n    thread: {own}\n").policies.policies["default"]
    assert read_policy.thread == thread
    same = read_policy.version == load(None, {}, NAMES).policies.policies["default"].version
    assert same is (thread == THREAD)


@pytest.mark.parametrize(("preset", "bound"), [("strict", 0.78), ("balanced", 0.9), ("permissive", None)])
def test_a_preset_judges_sentences_for_the_embedded_guard_alone(preset: str, bound: float | None) -> None:
    """A policy may set another bound, or null to judge none."""

    def bound_of(text: str, guard: str = "") -> float | None:
        return read(f"{guard}{POLICIES}    preset: {preset}\n{text}").policies.policies["default"].sentences.unsafe

    assert bound_of("") == bound
    assert bound_of("    sentences: {unsafe: 0.5}\n") == 0.5
    assert bound_of("    sentences: {unsafe: null}\n") is None
    assert SentencePolicy().unsafe is None


def test_mistakes_of_a_thread() -> None:
    """Options of joined turns without joined turns, and a thread that is no mapping."""
    bare = f"{POLICIES}    unsafe: {{block: 0.5}}\n    thread: "
    useless = "has no effect, because no user turns are joined; write turns: 4 beside it, or remove it"
    assert mistakes(bare + "{unsafe: 0.9}\n") == [f"5:14: policies.default.thread.unsafe: {useless}"]
    assert mistakes(bare + "{turns: 1, characters: 900}\n") == [f"5:24: policies.default.thread.characters: {useless}"]
    assert mistakes(bare + "{turns: 2, characters: 900, unsafe: 0.9}\n") == []
    assert mistakes(bare + "{turns: 2, characters: 99}\n") == [
        "5:36: policies.default.thread.characters: must be at least 100, not 99"
    ]
    preset = f"{POLICIES}    preset: balanced\n    thread: "
    assert mistakes(preset + "{turns: 0, unsafe: 0.9}\n") == [f"5:24: policies.default.thread.unsafe: {useless}"]
    assert [line.partition(": ")[0] for line in mistakes(preset + "[4]\n")] == ["5:13"]


def test_the_starter_takes_a_preset() -> None:
    """`init --preset` writes the chosen preset, and the file means the same as `serve --preset`."""
    for preset in PRESETS:
        settings = load_text(starter(preset), "starter.yaml", {}, NAMES)
        chosen = load(None, {}, NAMES, preset).policies.policies["default"]
        assert settings.policies.policies["default"].user == chosen.user
        assert settings.policies.policies["default"].assistant == chosen.assistant


def test_default_policies_are_the_balanced_preset() -> None:
    """A file without policies has the preset `balanced`."""
    assert default_policies().plain_value() == default_policies("balanced").plain_value()


def test_a_preset_of_the_command_line_needs_a_file_without_policies() -> None:
    """With policies in the file the preset would have no effect: a mistake that says what to write instead."""
    for preset in PRESETS:
        policies = load_text("version: 1", "f.yaml", {}, NAMES, preset).policies.policies
        assert policies == load(None, {}, NAMES, preset).policies.policies
    with pytest.raises(ConfigError) as error:
        load_text(f"{POLICIES}    preset: balanced\n", "f.yaml", {}, NAMES, "strict")
    message = "the file has policies, so --preset has no effect; write `preset: strict` in a policy instead"
    assert list(error.value.problems) == [f"f.yaml:2:1: policies: {message}"]


def test_mistakes_of_presets() -> None:
    """An unknown preset, and a preset for a guard with other categories, are mistakes at the preset's name."""
    unknown = 'must be one of strict, balanced, permissive, not "balancd"; did you mean balanced?'
    assert mistakes(f"{POLICIES}    preset: balancd\n") == [f"4:13: policies.default.preset: {unknown}"]
    no_rules = mistakes(f"{POLICIES}    preset: null\n")
    assert [line.partition(", so")[0] for line in no_rules] == [
        f"3:3: policies.default.{side}: has no rules" for side in ("assistant", "user")
    ]
    own = """
guard: {family: llama_guard, model: m, taxonomy: mine}
taxonomies: {mine: {categories: [{id: violence_hate}, {id: spam}]}}
"""
    missing = "criminal_planning, guns_illegal_weapons, regulated_substances, sexual_content, suicide_self_harm"
    message = f"is for the embedded guard; this guard does not report {missing}; write rules instead"
    assert mistakes(f"{POLICIES}    preset: balanced{own}") == [f"4:13: policies.default.preset: {message}"]


def test_a_second_condition_is_part_of_every_rule_of_its_category() -> None:
    """It applies to each action; a rewrite may have its own."""
    text = f"""{POLICIES}    user:
      violence_hate: {{flag: 0.2, block: 0.5, with_unsafe: 0.6}}
      sexual_content: {{rewrite: {{at: 0.3, how: redact, with_unsafe: 0.4}}, block: 0.5, with_unsafe: 0.6}}
      criminal_planning: {{rewrite: {{at: 0.3}}, with_unsafe: 0.6}}
    unsafe: {{block: 0.9}}
"""
    rules = read(text).policies.policies["default"].user.by_category
    assert rules["violence_hate"] == (Rule("flag", 0.2, with_unsafe=0.6), Rule("block", 0.5, with_unsafe=0.6))
    assert rules["sexual_content"] == (Rule("rewrite", 0.3, "redact", 0.4), Rule("block", 0.5, with_unsafe=0.6))
    assert rules["criminal_planning"] == (Rule("rewrite", 0.3, "replace", 0.6),)


def test_a_milder_action_with_a_weaker_condition_can_be_reached() -> None:
    """A rewrite that needs less P(unsafe) than the block applies below that, whatever the category's thresholds."""
    rules = "{rewrite: {at: 0.6, with_unsafe: 0.3}, block: 0.5, with_unsafe: 0.8}"
    assert mistakes(f"{POLICIES}    user: {{violence_hate: {rules}}}\n    unsafe: {{block: 0.9}}\n") == []


UNUSED = "with_unsafe: has no effect, because no action uses it; remove it"
DECIDED = "with_unsafe: has no effect, because `unsafe` alone blocks from 0.9; lower it"


@pytest.mark.parametrize(
    ("rules", "column", "message"),
    [
        ("{block: 0.5, with_unsafe: 0}", 53, "with_unsafe: must be more than 0, not 0"),
        ("{block: 0.5, with_unsafe: 2}", 53, "with_unsafe: must be at most 1, not 2"),
        ("{with_unsafe: 0.5}", 28, UNUSED),
        ("{rewrite: {at: 0.5, with_unsafe: 0.4}, with_unsafe: 0.5}", 66, UNUSED),
        ("{block: 0.5, with_unsafe: 0.9}", 53, DECIDED),
        ("{rewrite: {at: 0.5, with_unsafe: 0.95}}", 60, f"rewrite.{DECIDED}"),
    ],
)
def test_mistakes_of_second_conditions(rules: str, column: int, message: str) -> None:
    """A condition that is no probability, that nothing uses, or from which on `unsafe` decides by itself."""
    text = f"{POLICIES}    user: {{violence_hate: {rules}}}\n    unsafe: {{block: 0.9}}\n"
    assert mistakes(text) == [f"4:{column}: policies.default.user.violence_hate.{message}"]


def test_a_flag_may_name_the_category_of_what_unsafe_blocks() -> None:
    """A flag at the P(unsafe) from which `unsafe` blocks has an effect: it names the category."""
    rules = "{flag: 0.5, with_unsafe: 0.9}"
    assert mistakes(f"{POLICIES}    user: {{violence_hate: {rules}}}\n    unsafe: {{block: 0.9}}\n") == []


def test_unsafe_has_no_second_condition() -> None:
    """`unsafe` is the same probability: a second condition on it is a mistake on either side and beside them."""
    reason = "has no effect, because these rules compare P(unsafe) already; raise their thresholds instead"
    assert mistakes(f"{POLICIES}    unsafe: {{block: 0.5, with_unsafe: 0.6}}\n") == [
        f"4:26: policies.default.unsafe.with_unsafe: {reason}"
    ]
    text = f"{POLICIES}    user: {{unsafe: {{rewrite: {{at: 0.5, with_unsafe: 0.6}}}}}}\n    unsafe: {{block: 0.9}}\n"
    assert mistakes(text) == [f"4:40: policies.default.user.unsafe.rewrite.with_unsafe: {reason}"]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(PRESETS),
    st.booleans(),
    st.dictionaries(st.sampled_from([*CATEGORIES, "unsafe"]), st.floats(0, 1), min_size=1),
    st.dictionaries(
        st.sampled_from([*CATEGORIES, "unsafe"]), st.tuples(st.integers(1, 60), st.integers(-40, 40)), min_size=1
    ),
)
def test_a_preset_decides_the_same_with_a_calibration(
    preset: PresetName, named: bool, scores: dict[str, float], maps: dict[str, tuple[int, int]]
) -> None:
    """The thresholds of a preset are calibrated too, whether a policy names it or the file has no policies."""
    section = "".join(
        f"      {name}: {{slope: {slope / 10}, shift: {shift / 10}}}\n" for name, (slope, shift) in maps.items()
    )
    text = f"version: 1\nguard:\n  calibration:\n    user:\n{section}"
    text += f"policies: {{default: {{preset: {preset}}}}}\n" if named else ""
    plain = load(None, {}, NAMES, preset).policies.policies["default"]
    calibrated = load_text(text, "f.yaml", {}, NAMES, None if named else preset).policies.policies["default"]
    findings = tuple(Finding(name, value) for name, value in scores.items() if name != "unsafe")
    verdict = Verdict(scores.get("unsafe", 0.0), findings, "guard")
    for side in SIDES:
        before = decide(plain, side, verdict)
        after = decide(calibrated, side, calibrated.calibration.applied(side, verdict))
        assert (after.action, set(after.categories)) == (before.action, set(before.categories))
    bound = calibrated.calibration.value("user", "unsafe", plain.thread.unsafe)
    assert calibrated.thread == replace(plain.thread, unsafe=bound)


def test_own_rules_are_not_calibrated() -> None:
    """A threshold that the operator wrote stays beside a preset whose rules are calibrated."""
    text = "guard: {calibration: {user: {unsafe: {slope: 0.5, shift: -2}, violence_hate: {slope: 0.5}}}}\n" + POLICIES
    rules = read(text.replace("version: 1\n", "") + "    preset: balanced\n    user: {violence_hate: {block: 0.7}}\n")
    user = rules.policies.policies["default"].user.by_category
    assert user["violence_hate"] == (Rule("block", 0.7),)
    assert user["unsafe"][0].threshold < 0.3
