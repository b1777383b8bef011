"""A policy that a caller chooses never loosens the route's own: any two policies, any verdict."""

from dataclasses import fields, replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.chunks import Chunk, Mark
from guardproxy.holdback import HoldBack
from guardproxy.localtext import LocalText
from guardproxy.policy import (
    HistoryMode,
    JudgeScope,
    OnFailure,
    OnUnavailable,
    Policy,
    PolicySet,
    RewritePolicy,
    Rule,
    SideRules,
    StreamMode,
    StreamPolicy,
    ThreadPolicy,
    decide,
    on_failure,
)
from guardproxy.sentences import SentencePolicy
from guardproxy.stricter import combined, reads_more, stricter
from guardproxy.types import SEVERITY, Finding, Verdict

NAMES = ("a", "b", "jailbreak", "*", "unsafe")
probabilities = st.floats(0, 1)
rules = st.builds(
    lambda action, threshold, how, with_unsafe: Rule(
        action, threshold, how if action == "rewrite" else "", with_unsafe
    ),
    st.sampled_from(["flag", "rewrite", "block"]),
    probabilities,
    st.sampled_from(["replace", "redact", "steer", "regenerate"]),
    st.sampled_from([0.0, 0.3, 0.8]),
)
sides = st.builds(SideRules, st.dictionaries(st.sampled_from(NAMES), st.lists(rules, max_size=3).map(tuple)))
failures: Any = st.sampled_from(get_args(OnUnavailable))
unread: Any = st.sampled_from(get_args(OnFailure))
by_side = st.fixed_dictionaries({"user": unread, "assistant": unread})
policies = st.builds(
    Policy,
    name=st.sampled_from(["own", "chosen"]),
    version=st.just("v"),
    user=sides,
    assistant=sides,
    tool=st.none() | sides,
    on_guard_error=failures,
    on_overload=failures,
    on_opaque=by_side,
    on_language=by_side,
    history=st.sampled_from(get_args(HistoryMode)),
    stream=st.builds(
        StreamPolicy,
        mode=st.sampled_from(get_args(StreamMode)),
        every=st.sampled_from(["auto", 5, 50]),
        lag=st.sampled_from([0, 40]),
        exposure=st.sampled_from([0, 20]),
    ),
)
found = st.builds(
    lambda category, probability, view: Finding(category, probability, view=view),
    st.sampled_from(["a", "b", "c", "jailbreak"]),
    probabilities,
    st.sampled_from(["text", "base64", "tool", "tool+base64"]),
)
of_tools = st.builds(lambda probability: Finding("unsafe", probability, view="tool"), probabilities)
verdicts = st.builds(
    lambda unsafe, findings: Verdict(unsafe, tuple(findings), "g"),
    probabilities,
    st.lists(found | of_tools, max_size=5),
)


@given(policies, policies, verdicts, st.sampled_from(["user", "assistant"]))
def test_the_combination_decides_as_the_stricter_of_both(
    own: Policy, chosen: Policy, verdict: Verdict, side: Any
) -> None:
    """Exactly so: it is as severe as the more severe one, and names every reason of both."""
    both, first, second = (decide(policy, side, verdict) for policy in (combined(own, chosen), own, chosen))
    assert SEVERITY[both.action] == max(SEVERITY[first.action], SEVERITY[second.action])
    assert {*both.reasons} == {*first.reasons, *second.reasons}


@given(policies, policies, verdicts)
def test_a_choice_makes_no_steering_of_another_rewrite(own: Policy, chosen: Policy, verdict: Verdict) -> None:
    """A steered turn reaches the model as it is: what the own policy replaces, the combination does not steer."""
    both, first, second = (decide(policy, "user", verdict) for policy in (combined(own, chosen), own, chosen))
    others = [one for one in (first, second) if one.action == "rewrite" and one.how != "steer"]
    assert not (both.how == "steer" and others)


def test_a_model_is_told_what_both_policies_tell_it() -> None:
    """The own instruction cannot be chosen away, by category and place; one that no rule uses does not count."""
    rules = SideRules({"a": (Rule("rewrite", 0.5, "steer"),)})
    own_texts = {"a": LocalText({"*": "Own a.", "de": "Eigenes a."}), "*": LocalText({"*": "Own."})}
    chosen_texts = {"b": LocalText({"*": "Chosen b.", "AT": "Wahl b."}), "*": LocalText({"*": "Chosen."})}
    own = _policy(user=rules, rewrite=RewritePolicy(instructions=own_texts))
    chosen = _policy("chosen", user=rules, rewrite=RewritePolicy(instructions=chosen_texts))
    told = combined(own, chosen).rewrite.instructions
    assert {name: dict(text.by_place) for name, text in told.items()} == {
        "a": {"*": "Own a.\n\nChosen.", "de": "Eigenes a.\n\nChosen."},
        "b": {"*": "Own.\n\nChosen b.", "AT": "Own.\n\nWahl b."},
        "*": {"*": "Own.\n\nChosen."},
    }
    unused = replace(own, user=SideRules({}))
    assert combined(unused, chosen).rewrite.instructions == chosen_texts


@given(policies, policies)
def test_without_a_verdict_the_stricter_setting_counts(own: Policy, chosen: Policy) -> None:
    """For a guard that fails or is overloaded, for content that it cannot read, and for turns of the history."""
    both = combined(own, chosen)
    strictness = {"allow": 0, "drop": 1, "block": 2}
    assert strictness[both.history] == max(strictness[own.history], strictness[chosen.history])
    for setting in ("on_guard_error", "on_overload"):
        assert _severity(getattr(both, setting)) == max(_severity(getattr(one, setting)) for one in (own, chosen))
    for setting in ("on_opaque", "on_language"):
        for side in ("user", "assistant"):
            settings = [getattr(policy, setting)[side] for policy in (both, own, chosen)]
            assert _severity(settings[0]) == max(map(_severity, settings[1:]))


def _severity(setting: OnUnavailable) -> int:
    return SEVERITY[on_failure(setting, "guard_error").action]


@given(policies, policies, st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_a_stream_is_released_no_sooner(own: Policy, chosen: Policy, sizes: list[int]) -> None:
    """However its frames come: after the same checks the combination has released no more than the own policy."""
    both, alone = HoldBack(combined(own, chosen).stream), HoldBack(own.stream)
    released = [0, 0]
    upto = 0
    for size in sizes:
        upto += size
        for place, hold in enumerate((both, alone)):
            hold.add(Chunk(b"x", (Mark(0, upto),)))
            for ask in hold.ask():
                hold.passed(ask, ask.upto)
            released[place] += len(hold.release())
        assert released[0] <= released[1]


windows = st.builds(
    StreamPolicy, st.just("window"), st.just("auto"), st.sampled_from([0, 5, 40, 200]), st.sampled_from([0, 20])
)


@given(windows, windows, st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_what_either_of_two_windows_holds_is_held(own: StreamPolicy, chosen: StreamPolicy, sizes: list[int]) -> None:
    """The longer `lag` and the smaller `exposure` count, whichever policy has them."""
    both = combined(_policy(stream=own), _policy("chosen", stream=chosen)).stream
    holds = [HoldBack(stream) for stream in (both, own, chosen)]
    released = [0, 0, 0]
    upto = 0
    for size in sizes:
        upto += size
        for place, hold in enumerate(holds):
            hold.add(Chunk(b"x", (Mark(0, upto),)))
            for ask in hold.ask():
                hold.passed(ask, ask.upto)
            released[place] += len(hold.release())
        assert released[0] <= min(released)


def test_a_held_stream_is_still_checked_on_its_way() -> None:
    """If only the chosen policy holds a stream to its end, the checks of the own one go on."""
    own = StreamPolicy("window", every=10)
    hold = HoldBack(combined(_policy(stream=own), _policy(stream=StreamPolicy("hold_all"))).stream)
    hold.add(Chunk(b"x", (Mark(0, 12),)))
    (ask,) = hold.ask()
    hold.passed(ask)
    assert hold.release() == []
    hold.complete()
    hold.passed(hold.ask()[0])
    assert len(hold.release()) == 1


def _policy(name: str = "own", **changes: Any) -> Policy:
    return Policy(name, f"v-{name}", **{"user": SideRules({}), "assistant": SideRules({}), **changes})


@pytest.mark.parametrize(
    ("own", "chosen", "differing"),
    [
        ({}, {}, ()),
        ({"judge": JudgeScope(("user", "tool"))}, {"judge": JudgeScope(("user",))}, ()),
        ({"judge": JudgeScope(("user",))}, {"judge": JudgeScope(("user", "system"))}, ("judge",)),
        ({"judge": JudgeScope(skip=("reasoning",))}, {"judge": JudgeScope(skip=())}, ("judge",)),
        ({}, {"thread": ThreadPolicy(4)}, ()),
        ({"thread": ThreadPolicy(4)}, {}, ()),
        ({"thread": ThreadPolicy(4)}, {"thread": ThreadPolicy(5)}, ("thread",)),
        ({"views": ("nfkc",)}, {"views": ()}, ()),
        ({"views": ()}, {"views": ("nfkc",)}, ("views",)),
    ],
)
def test_what_reads_more_cannot_be_chosen(own: Any, chosen: Any, differing: tuple[str, ...]) -> None:
    """The texts that are judged are those of the own policy, so that the verdicts are."""
    assert reads_more(_policy(**own), _policy("chosen", **chosen)) == differing


@pytest.mark.parametrize(
    ("own", "chosen", "both"), [(None, None, None), (0.8, None, 0.8), (None, 0.9, 0.9), (0.8, 0.9, 0.8)]
)
def test_sentences_count_from_the_lower_bound(own: float | None, chosen: float | None, both: float | None) -> None:
    """They are judged if one of the policies wants it: that can only add findings."""
    of_own, of_chosen = (_policy(sentences=SentencePolicy(bound)) for bound in (own, chosen))
    assert combined(of_own, of_chosen).sentences == SentencePolicy(both)


def test_a_combination_keeps_its_identity() -> None:
    """What is known of a turn is kept by policy; a changed set of policies makes new combinations."""
    own, chosen = _policy(), _policy("chosen")
    known = PolicySet({"own": own, "chosen": chosen})
    both = stricter(known, own, chosen)
    assert stricter(known, own, chosen) is both
    assert (both.name, both.version) == ("own+chosen", "v-own+v-chosen")
    assert stricter(replace(known, version="2"), own, chosen) is not both


def test_every_option_of_a_policy_has_a_place_in_the_combination() -> None:
    """A new option is either combined or the route's own on purpose; write it here, and in `combined` if it must be."""
    of_both = {"name", "version", "user", "assistant", "on_guard_error", "on_overload", "on_opaque", "on_language"}
    of_both |= {"tool", "history", "stream", "thread", "sentences"}
    of_the_choice, of_the_route = {"block", "rewrite"}, {"judge", "views", "calibration"}
    assert {field.name for field in fields(Policy)} == of_both | of_the_choice | of_the_route
