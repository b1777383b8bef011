"""Combined guards: maximum, mean and cascade; a failure of a member never counts as safe."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import ConfigError, GuardUnavailable, Overloaded
from guardproxy.guards.combine import AllOf, Cascade
from guardproxy.types import Taxonomy
from tests.guards.kit import Fixed, check_of, found
from tests.kit import WordGuard

CHECK = check_of("hello")
PROBABILITY = st.floats(0, 1)


def test_the_maximum_of_each_category_counts() -> None:
    """Without weights, the verdict has the highest P(unsafe) and the most probable finding of each category."""
    guards = (Fixed("a", 0.2, {"x": 0.9, "y": 0.1}), Fixed("b", 0.7, {"y": 0.4, "z": 0.3}))
    verdict = asyncio.run(AllOf(guards).judge(CHECK))
    assert found(verdict) == {"x": 0.9, "y": 0.4, "z": 0.3}
    assert [finding.label for finding in verdict.findings] == ["a", "b", "b"]
    assert (verdict.unsafe, verdict.guard) == (0.7, "a+b")


def test_taxonomies_are_joined_by_category() -> None:
    """Each category appears once, as in the first taxonomy; a new version of a member is one of the combination."""
    left, right = Fixed("a", 0, {"x": 0, "y": 0}), Fixed("b", 0, {"y": 0, "z": 0})
    joined = AllOf((left, right)).taxonomy
    assert [(one.id, one.name) for one in joined.categories] == [("x", "x of a"), ("y", "y of a"), ("z", "z of b")]
    assert joined.id == "t-a+t-b"
    right.taxonomy = Taxonomy("t-b", right.taxonomy.categories, "w")
    assert AllOf((left, right)).taxonomy.version != joined.version


def test_one_taxonomy_of_both_stays_itself() -> None:
    """Two models of one kind have the taxonomy of each, so that rules and records name it as for a single guard."""
    first, second = Fixed("a", 0.5, {"x": 0.5}), Fixed("b", 0.7, {"x": 0.6})
    second.taxonomy = first.taxonomy
    pair = Cascade(first, second, 0.2, 0.8)
    assert (pair.name, pair.taxonomy, pair.parts) == ("a>b", first.taxonomy, (first, second))
    verdict = asyncio.run(pair.judge(CHECK))
    assert (verdict.guard, verdict.taxonomy) == ("a>b", "t-a@v")


def test_a_mean_weighs_the_guards_that_judge_a_category() -> None:
    """Weights are scaled over the guards that judge the category; `*` holds for categories without weights."""
    guards = (Fixed("a", 0.2, {"x": 0.8, "y": 0.1}), Fixed("b", 0.6, {"y": 0.5}))
    mean = {"y": (3.0, 1.0), "*": (1.0, 1.0), "unsafe": (0.0, 2.0)}
    verdict = asyncio.run(AllOf(guards, mean).judge(CHECK))
    assert found(verdict) == pytest.approx({"x": 0.8, "y": 0.2})
    assert verdict.unsafe == 0.6


def test_a_category_that_a_guard_left_out_has_at_most_its_unsafe() -> None:
    """In a mean, a guard that judges a category but reports no finding of it counts with its P(unsafe)."""
    guards = (Fixed("a", 0.9, {"x": 0.9}), Fixed("b", 0.1, {}, judges=("x",)))
    assert found(asyncio.run(AllOf(guards, {}).judge(CHECK))) == pytest.approx({"x": 0.5})


def test_a_category_of_weight_zero_is_not_lost() -> None:
    """If only guards of weight 0 judge a category, the highest of their probabilities counts."""
    guards = (Fixed("a", 0.9, {"x": 0.9}), Fixed("b", 0.1, {"y": 0.1}))
    assert found(asyncio.run(AllOf(guards, {"*": (0.0, 1.0)}).judge(CHECK))) == {"x": 0.9, "y": 0.1}


@given(PROBABILITY, PROBABILITY, st.floats(0.01, 10), st.floats(0.01, 10))
def test_a_mean_lies_between_its_members(first: float, second: float, left: float, right: float) -> None:
    """A weighted mean is never below the lowest nor above the highest probability."""
    guards = (Fixed("a", first, {"x": first}), Fixed("b", second, {"x": second}))
    value = asyncio.run(AllOf(guards, {"*": (left, right)}).judge(CHECK)).unsafe
    assert min(first, second) - 1e-9 <= value <= max(first, second) + 1e-9


@pytest.mark.parametrize("error", [GuardUnavailable("down"), Overloaded("full")])
def test_one_failure_fails_all(error: GuardUnavailable) -> None:
    """If a member fails the combination fails, whatever the verdicts of the others."""
    guards = (Fixed("a", 0.0, {}), Fixed("b", 0.0, {}, error=error))
    with pytest.raises(type(error)):
        asyncio.run(AllOf(guards).judge(CHECK))


@pytest.mark.parametrize(("unsafe", "asked"), [(0.1, 0), (0.2, 1), (0.5, 1), (0.8, 1), (0.9, 0)])
def test_the_second_guard_is_asked_between_the_bounds(unsafe: float, asked: int) -> None:
    """The second guard decides between the bounds, both included, and is not asked outside them."""
    first, second = Fixed("first", unsafe, {"x": unsafe}), Fixed("second", 0.4, {"x": 0.4})
    verdict = asyncio.run(Cascade(first, second, 0.2, 0.8).judge(CHECK))
    assert second.asked == asked
    assert verdict.unsafe == (0.4 if asked else unsafe)
    assert verdict.guard == "first>second"
    assert verdict.usage.tokens_computed == 5 * (1 + asked)
    assert verdict.usage.share_s == pytest.approx(0.15 * (1 + asked))


@pytest.mark.parametrize(("kind", "least"), [("worst", 0.9), ("mean", 0.0), ("cascade", 0.0)])
def test_what_is_computed_with_a_number_needs_the_exact_one(kind: str, least: float) -> None:
    """A mean, and the choice whether a second guard is asked; the worst of several verdicts does not."""
    members = WordGuard({}), WordGuard({})
    members[1].name = "others"
    guards: dict[str, Callable[[], AllOf | Cascade]] = {
        "worst": lambda: AllOf(members),
        "mean": lambda: AllOf(members, {"*": (1.0, 1.0)}),
        "cascade": lambda: Cascade(*members, 0.0, 1.0),
    }
    asyncio.run(guards[kind]().judge(replace(CHECK, least=0.9)))
    assert [check.least for member in members for check in member.asked] == [least, least]


def test_findings_that_only_the_first_guard_judges_stay() -> None:
    """The second verdict keeps the first guard's findings in categories that the second guard does not judge."""
    first = Fixed("first", 0.5, {"x": 0.5, "jailbreak": 0.7})
    second = Fixed("second", 0.1, {}, judges=("x",))
    assert found(asyncio.run(Cascade(first, second, 0.0, 1.0).judge(CHECK))) == {"jailbreak": 0.7}


@pytest.mark.parametrize("broken", [0, 1])
def test_a_cascade_fails_with_either_guard(broken: int) -> None:
    """A failure of the first or of the second guard never counts as safe."""
    error = GuardUnavailable("down")
    guards = [Fixed("first", 0.5, {}), Fixed("second", 0.5, {})]
    guards[broken] = Fixed(guards[broken].name, 0.5, {}, error=error)
    with pytest.raises(GuardUnavailable):
        asyncio.run(Cascade(*guards, low=0.0, high=1.0).judge(CHECK))


def test_members_are_started_closed_and_told_together() -> None:
    """Start, forget and close reach every member of both kinds."""

    async def story() -> None:
        for kind in (lambda a, b: AllOf((a, b)), lambda a, b: Cascade(a, b, 0.1, 0.9)):
            members = (Fixed("a", 0, {}), Fixed("b", 0, {}))
            both = kind(*members)
            await both.start()
            assert all(member.open for member in members)
            both.forget("s")
            await both.close()
            assert [(member.open, member.forgotten) for member in members] == [(False, ["s"])] * 2

    asyncio.run(story())


def test_a_member_that_cannot_start_closes_the_others() -> None:
    """If a guard cannot start, the start fails and the guards that had started are closed."""
    first = Fixed("a", 0, {})
    with pytest.raises(ConfigError, match="no weights"):
        asyncio.run(AllOf((first, Fixed("b", 0, {}, starts=False))).start())
    assert not first.open


@pytest.mark.parametrize(
    ("mean", "message"),
    [
        ({"w": (1, 1)}, "no guard judges 'w'"),
        ({"x": (1,)}, "1 weights for 2 guards"),
        ({"x": (0, 0)}, "not all of them 0"),
        ({"x": (float("nan"), 1)}, "must be 0 or more"),
        ({"x": (-1, 2)}, "must be 0 or more"),
    ],
)
def test_weights_that_do_not_fit_are_mistakes(mean: Mapping[str, tuple[float, ...]], message: str) -> None:
    """Unknown categories, wrong numbers of weights and invalid weights are configuration errors."""
    with pytest.raises(ConfigError, match=message):
        AllOf((Fixed("a", 0, {"x": 0}), Fixed("b", 0, {"x": 0})), mean)


def test_guards_must_differ_and_bounds_be_in_order() -> None:
    """Fewer than two guards, a repeated name, and bounds out of order are configuration errors."""
    one = Fixed("a", 0, {})
    for guards in ((), (one,), (one, Fixed("a", 0, {}))):
        with pytest.raises(ConfigError, match="two or more"):
            AllOf(guards)
    for low, high in ((0.5, 0.4), (-0.1, 0.4), (0.5, 1.1), (float("nan"), 0.5)):
        with pytest.raises(ConfigError, match="bounds"):
            Cascade(one, Fixed("b", 0, {}), low, high)
