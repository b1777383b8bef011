"""Valid readings become verdicts; invalid readings make the guard unavailable."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.errors import GuardUnavailable
from guardproxy.families import classifier, granite_guardian, llama_guard, qwen3guard, shieldgemma, wildguard
from guardproxy.ports import Reading
from guardproxy.types import Check, Verdict
from tests.families.kit import MODELS, SIDES, ask, open_model, reply, sane, sizes

ASKED = {"user": ask("HELLO"), "assistant": reply("HELLO", "WORLD")}
SHARE = st.floats(0, 1, allow_nan=False, width=32)


def _scores(verdict: Verdict) -> dict[str, float]:
    return {finding.category: round(finding.probability, 6) for finding in verdict.findings}


def _yes(*probabilities: float) -> list[Reading]:
    return [Reading((yes, 1 - yes)) for yes in probabilities]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", MODELS)
@given(draw=st.lists(SHARE, min_size=60, max_size=60))
@settings(max_examples=40, deadline=None)
def test_sane_readings_give_probabilities_of_known_categories(name: str, side: str, draw: list[float]) -> None:
    """For any valid readings, every number in the verdict is a probability and every category is in the taxonomy."""
    family = open_model(name)
    asked = ASKED[side]
    verdict = family.parse(asked, sane(family.render(asked), draw), "name of the guard")
    known = {category.id for category in family.taxonomy.categories}
    assert verdict.guard == "name of the guard"
    assert verdict.taxonomy == f"{family.taxonomy.id}@{family.taxonomy.version}"
    assert {finding.category for finding in verdict.findings} <= known
    numbers = [verdict.unsafe, verdict.leftover, verdict.outside, *(f.probability for f in verdict.findings)]
    assert all(0 <= number <= 1 for number in numbers)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", MODELS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_senseless_readings_are_an_unavailable_guard(name: str, side: str, data: st.DataObject) -> None:
    """A wrong count, not-a-number, infinity, or a number outside [0, 1], anywhere, never becomes a verdict."""
    family = open_model(name)
    asked = ASKED[side]
    prompts = family.render(asked)
    readings = sane(prompts, [0.5] * sum(sizes(prompts)))
    spoiled = data.draw(_spoiled(readings))
    with pytest.raises(GuardUnavailable):
        family.parse(asked, spoiled, "g")


def _spoiled(readings: list[Reading]) -> st.SearchStrategy[list[Reading]]:
    def spoil(at: int, place: int, how: str, wrong: float) -> list[Reading]:
        given = readings[at % len(readings)]
        values = list(given.probabilities)
        if how == "value":
            values[place % len(values)] = wrong
        new = {
            "value": Reading(tuple(values)),
            "more": Reading((*values, 0.0)),
            "less": Reading(tuple(values[:-1])),
            "leftover": Reading(tuple(values), leftover=wrong),
            "outside": Reading(tuple(values), outside=wrong),
        }
        changed = list(readings)
        if how in new:
            changed[at % len(readings)] = new[how]
        return changed if how in new else [*readings, readings[0]] if how == "another" else readings[:-1]

    return st.builds(
        spoil,
        st.integers(0, 20),
        st.integers(0, 20),
        st.sampled_from(["value", "more", "less", "leftover", "outside", "another", "missing"]),
        st.sampled_from([math.nan, math.inf, -math.inf, -0.5, 1.5, 7.0]),
    )


def test_a_label_list_is_taken_as_it_is_read() -> None:
    """The verdict has P(unsafe), and each category's probability with the category's id and code."""
    family = llama_guard.open_family()
    verdict = family.parse(ask("x"), [Reading((0.8, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6), leftover=5e-4, outside=0.01)], "g")
    assert verdict.unsafe == 0.8
    assert _scores(verdict)["violence_hate"] == 0.1
    assert [(f.category, f.label) for f in verdict.findings][-1] == ("suicide_self_harm", "O6")
    assert (verdict.leftover, verdict.outside) == (5e-4, 0.01)


def test_a_list_that_was_not_read_has_no_findings() -> None:
    """A skipped label list gives no findings; zeros count as probabilities only if they are exact to the tolerance."""
    guard = llama_guard.open_family()
    assert guard.parse(ask("x"), [Reading((0.4, *[0.0] * 6), leftover=0.4)], "g").findings == ()
    assert len(guard.parse(ask("x"), [Reading((5e-4, *[0.0] * 6), leftover=5e-4)], "g").findings) == 6
    levels, not_read = Reading((0.6, 0.0, 0.4)), Reading((0.4, *[0.0] * 9), leftover=0.4)
    assert _qwen("loose", ask("x"), [levels, not_read]).findings == ()
    assert len(_qwen("loose", ask("x"), [levels, Reading((0.4, 0.4, *[0.0] * 8))]).findings) == 9


def test_a_category_above_unsafe_is_senseless() -> None:
    """A category in the list after unsafe cannot be more probable than unsafe."""
    family = llama_guard.open_family()
    with pytest.raises(GuardUnavailable, match="more probable than unsafe"):
        family.parse(ask("x"), [Reading((0.1, 0.9, 0, 0, 0, 0, 0))], "g")


def test_one_vs_all_takes_the_whole_from_the_whole() -> None:
    """P(unsafe) comes from the whole policy, a category's probability from its own policy."""
    family = llama_guard.open_family(scoring="one_vs_all")
    readings = [Reading((1 - p, p)) for p in (0.3, 0.9, 0.1, 0.2, 0.0, 0.5, 0.7)]
    verdict = family.parse(ask("x"), readings, "g")
    assert verdict.unsafe == 0.3
    assert list(_scores(verdict).values()) == [0.9, 0.1, 0.2, 0.0, 0.5, 0.7]


def test_shieldgemma_is_as_unsafe_as_its_worst_policy() -> None:
    """P(unsafe) is the greatest probability of the policies."""
    verdict = shieldgemma.open_family().parse(ask("x"), _yes(0.1, 0.7, 0.2, 0.0), "g")
    assert verdict.unsafe == 0.7
    assert _scores(verdict) == {"dangerous_content": 0.1, "harassment": 0.7, "hate": 0.2, "sexual_content": 0.0}


def test_granite_is_as_unsafe_as_its_umbrella_risk() -> None:
    """P(unsafe) is that of `harm`, whatever the other risks are; a jailbreak alone does not count as harm."""
    verdict = granite_guardian.open_family().parse(ask("x"), _yes(0.2, 0.1, 0.1, 0.9, 0.1, 0.1, 0.99), "g")
    assert verdict.unsafe == 0.2
    assert _scores(verdict)["jailbreak"] == 0.99


def _qwen(mode: str, asked: Check, readings: Sequence[Reading]) -> Verdict:
    return qwen3guard.open_family(mode=mode).parse(asked, readings, "g")


def test_qwen_counts_controversial_as_its_mode_says() -> None:
    """`strict` adds Controversial to P(unsafe), `loose` does not; categories are rescaled from their lists."""
    levels = Reading((0.5, 0.3, 0.2))
    # Normalised with Safe only, Unsafe has 0.2 / 0.7 and Controversial 0.3 / 0.8.
    hard = Reading((0.2 / 0.7, 0.2 / 0.7, *[0.0] * 8))
    soft = Reading((0.3 / 0.8, 0.0, 0.5 * 0.3 / 0.8, *[0.0] * 7))
    strict = _qwen("strict", ask("x"), [levels, hard, soft])
    loose = _qwen("loose", ask("x"), [levels, hard])
    assert (round(strict.unsafe, 6), round(loose.unsafe, 6)) == (0.5, 0.2)
    assert _scores(strict)["violence"] == 0.2
    assert _scores(strict)["non_violent_crimes"] == 0.15
    assert _scores(loose)["non_violent_crimes"] == 0.0


def test_qwen_knows_jailbreaks_of_the_user_alone() -> None:
    """A reply is not read for the category that the model uses only for prompts."""
    family = qwen3guard.open_family()
    asked = reply("x", "y")
    verdict = family.parse(asked, sane(family.render(asked), [0.5] * 60), "g")
    assert "jailbreak" not in _scores(verdict)
    assert "jailbreak" in _scores(family.parse(ask("x"), sane(family.render(ask("x")), [0.5] * 60), "g"))


def test_wildguard_sums_over_its_first_two_answers() -> None:
    """P(harmful response) is the sum over the combinations of the first two answers."""
    family = wildguard.open_family()
    verdict = family.parse(reply("x", "y"), _yes(0.4, 0.5, 0.1, 0.2, 0.9, 0.0, 0.3), "g")
    expected = 0.4 * (0.5 * 0.2 + 0.5 * 0.9) + 0.6 * (0.1 * 0.0 + 0.9 * 0.3)
    assert verdict.unsafe == pytest.approx(expected)
    assert _scores(verdict) == {"harmful_response": round(expected, 6)}
    assert _scores(family.parse(ask("x"), _yes(0.4), "g")) == {"harmful_request": 0.4}


def test_the_embedded_guard_has_an_output_for_the_whole() -> None:
    """A label mapped to `unsafe` gives P(unsafe), not a category."""
    family = classifier.open_family()
    verdict = family.parse(ask("x"), [Reading((0.3, 0.9, 0, 0, 0, 0, 0, 0.8))], "g")
    assert verdict.unsafe == 0.3
    assert _scores(verdict)["jailbreak"] == 0.8
    assert "unsafe" not in _scores(verdict)


def _read_twice(with_question: float, alone: float) -> Verdict:
    readings = [Reading((unsafe, *(0.5 * unsafe,) * 7)) for unsafe in (with_question, alone)]
    return classifier.open_family().parse(reply("x", "Paris lies on the Seine."), readings, "g")


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_harmless_reply_is_not_judged_by_its_question(with_question: float, alone: float) -> None:
    """The reading without the question counts if it is clearly harmless, with its categories; else the other one."""
    verdict = _read_twice(with_question, alone)
    counts = alone if alone < classifier.HARMLESS_ALONE else with_question
    assert verdict.unsafe == counts
    assert set(_scores(verdict).values()) == {round(0.5 * counts, 6)}


def test_a_reply_that_lacks_a_reading_was_not_judged() -> None:
    """Both readings must be there: one of them alone is no answer."""
    with pytest.raises(GuardUnavailable):
        classifier.open_family().parse(reply("x", "Paris lies on the Seine."), [Reading((0.5,) * 8)], "g")


def test_a_finding_says_where_its_label_was_read() -> None:
    """P(unsafe) and each category have the span of their output; of several labels that of the most probable one."""
    several = classifier.open_family(labels=["unsafe", "a", "b"], categories={"unsafe": "unsafe", "a": "x", "b": "x"})
    verdict = several.parse(ask("x"), [Reading((0.5, 0.2, 0.9), spans=((0, 5), (1, 6), (2, 7)))], "g")
    assert (verdict.span, verdict.findings[0].span) == ((0, 5), (2, 7))
    assert several.parse(ask("x"), [Reading((0.5, 0.2, 0.9))], "g").span is None


def test_labels_map_to_categories() -> None:
    """A category with several labels has the greatest independent output, or the sum of exclusive outputs."""
    toxic = classifier.open_family(
        labels=["toxic", "threat", "insult"], categories={"threat": "violence_hate", "insult": "violence_hate"}
    )
    verdict = toxic.parse(ask("x"), [Reading((0.9, 0.4, 0.6))], "g")
    assert (_scores(verdict), verdict.unsafe) == ({"violence_hate": 0.6}, 0.6)
    attack = classifier.open_family(
        labels=["BENIGN", "INJECTION", "JAILBREAK"],
        categories={"INJECTION": "jailbreak", "JAILBREAK": ["jailbreak", "unsafe"]},
        activation="softmax",
    )
    verdict = attack.parse(ask("x"), [Reading((0.2, 0.5, 0.3))], "g")
    assert (_scores(verdict), round(verdict.unsafe, 6)) == ({"jailbreak": 0.8}, 0.3)


def test_a_detector_of_attacks_alone_says_unsafe_by_them() -> None:
    """A guard with only signals has a P(unsafe); beside categories of harm, signals do not count for it."""
    options = {"labels": ["LABEL_0", "LABEL_1"], "activation": "softmax"}
    prompt_guard = classifier.open_family(categories={"LABEL_1": "jailbreak"}, **options)
    assert prompt_guard.parse(ask("x"), [Reading((0.1, 0.9))], "g").unsafe == 0.9
    both = classifier.open_family(labels=["hate", "jailbreak"])
    assert both.parse(ask("x"), [Reading((0.1, 0.9))], "g").unsafe == 0.1


def test_exclusive_outputs_must_sum_to_one() -> None:
    """Softmax outputs that do not sum to 1 are invalid."""
    family = classifier.open_family(labels=["a", "b"], activation="softmax")
    with pytest.raises(GuardUnavailable, match="sum to 1"):
        family.parse(ask("x"), [Reading((0.9, 0.9))], "g")
