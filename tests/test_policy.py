"""Thresholds and decisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.pipeline.choice_checks import is_clearly_passed
from guardproxy.policy import (
    BlockPolicy,
    JudgeScope,
    Policy,
    PolicySet,
    RewritePolicy,
    Route,
    Rule,
    SideRules,
    StreamPolicy,
    decide,
    on_failure,
    worst,
)
from guardproxy.routing import Asked
from guardproxy.types import SEVERITY, ActionName, Decision, Finding, Refuse, Verdict
from guardproxy.verdicts import worst as worst_verdict

RULES = SideRules(
    {
        "violence_hate": (Rule("flag", 0.2), Rule("block", 0.5)),
        "*": (Rule("rewrite", 0.4, "redact"),),
        "unsafe": (Rule("block", 0.9),),
    }
)
POLICY = Policy("p", "v", RULES, SideRules({}))


def verdict(unsafe: float = 0.0, **findings: float) -> Verdict:
    """A verdict with these findings."""
    return Verdict(unsafe, tuple(Finding(name, p) for name, p in findings.items()), "g")


def test_nothing_reached_passes() -> None:
    """Probabilities under every threshold pass without a reason."""
    assert decide(POLICY, "user", verdict(0.89, violence_hate=0.19, sexual_content=0.39)) == Decision("pass", "", ())


def test_threshold_is_inclusive_and_most_severe_wins() -> None:
    """A probability equal to a threshold reaches it; every reached rule is a reason; the most severe one decides."""
    decision = decide(POLICY, "user", verdict(violence_hate=0.5, sexual_content=0.4))
    assert decision.action == "block"
    assert [(r.category, r.action) for r in decision.reasons] == [
        ("violence_hate", "flag"),
        ("violence_hate", "block"),
        ("sexual_content", "rewrite"),
    ]
    assert decision.categories == ("violence_hate", "sexual_content")


def test_own_rules_replace_the_star() -> None:
    """The rules of "*" do not apply to a category with rules of its own."""
    assert decide(POLICY, "user", verdict(violence_hate=0.45)).action == "flag"


def test_how_comes_from_the_deciding_rule() -> None:
    """The deciding rule names the rewrite."""
    assert decide(POLICY, "user", verdict(sexual_content=0.8)).how == "redact"


def test_signals_need_a_rule_of_their_own() -> None:
    """A guard_injection finding is not a category of harm: "*" does not cover it."""
    assert decide(POLICY, "user", verdict(guard_injection=1.0)).action == "pass"
    named = Policy("p", "v", SideRules({"guard_injection": (Rule("block", 0.5),)}), SideRules({}))
    assert decide(named, "user", verdict(guard_injection=1.0)).action == "block"


def test_overall_rule() -> None:
    """The overall probability has its own rule."""
    assert decide(POLICY, "user", verdict(0.9)).categories == ("unsafe",)
    assert decide(POLICY, "assistant", verdict(0.9)).action == "pass"


@given(st.dictionaries(st.sampled_from(["violence_hate", "sexual_content", "other"]), st.floats(0, 1)), st.floats(0, 1))
def test_more_probable_is_never_milder(findings: dict[str, float], unsafe: float) -> None:
    """Raising any probability never lowers the action."""
    before = decide(POLICY, "user", verdict(unsafe, **findings))
    raised = {name: min(1.0, p + 0.1) for name, p in findings.items()}
    after = decide(POLICY, "user", verdict(min(1.0, unsafe + 0.1), **raised))
    assert SEVERITY[after.action] >= SEVERITY[before.action]


@given(
    st.dictionaries(st.sampled_from(["violence_hate", "sexual_content"]), st.floats(0, 1)),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["flag", "rewrite", "block"]),
)
def test_a_condition_of_0_is_none(
    findings: dict[str, float], unsafe: float, threshold: float, action: ActionName
) -> None:
    """A rule with `with_unsafe` 0 decides as a rule without it, with the same reasons."""
    plain, conditional = (
        Policy("p", "v", SideRules({"*": (rule,), "unsafe": (rule,)}), SideRules({}))
        for rule in (Rule(action, threshold, "redact"), Rule(action, threshold, "redact", 0.0))
    )
    asked = verdict(unsafe, **findings)
    assert decide(conditional, "user", asked) == decide(plain, "user", asked)


@given(
    st.dictionaries(st.sampled_from(["violence_hate", "sexual_content", "other"]), st.floats(0, 1)),
    st.floats(0, 1),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=3),
    st.integers(0, 5),
    st.floats(0, 1),
)
def test_raising_a_threshold_never_makes_a_decision_more_severe(
    findings: dict[str, float],
    unsafe: float,
    thresholds: list[tuple[float, float]],
    which: int,
    by: float,
) -> None:
    """Of three rules with two thresholds each, any may be raised."""

    def decided(pairs: list[tuple[float, float]]) -> Decision:
        flag, rewrite, block = pairs
        rules = {
            "violence_hate": (
                Rule("flag", flag[0], with_unsafe=flag[1]),
                Rule("block", block[0], with_unsafe=block[1]),
            ),
            "*": (Rule("rewrite", rewrite[0], "redact", rewrite[1]),),
            "unsafe": (Rule("block", 0.9),),
        }
        return decide(Policy("p", "v", SideRules(rules), SideRules({})), "user", verdict(unsafe, **findings))

    raised = list(thresholds)
    rule, second = divmod(which, 2)
    first, condition = thresholds[rule]
    raised[rule] = (first, min(1.0, condition + by)) if second else (min(1.0, first + by), condition)
    assert SEVERITY[decided(raised).action] <= SEVERITY[decided(thresholds).action]


def test_a_second_condition_must_hold_too() -> None:
    """Both probabilities must reach their thresholds, and the reason has both."""
    rules = SideRules({"weapons": (Rule("flag", 0.3), Rule("block", 0.6, with_unsafe=0.7))})
    policy = Policy("p", "v", rules, SideRules({}))
    assert decide(policy, "user", verdict(0.69, weapons=0.9)).action == "flag"
    assert decide(policy, "user", verdict(0.9, weapons=0.59)).action == "flag"
    flag, block = decide(policy, "user", verdict(0.7, weapons=0.6)).reasons
    assert (flag.with_unsafe, flag.thresholds) == (0.0, "0.3")
    assert (block.threshold, block.with_unsafe, block.thresholds) == (0.6, 0.7, "0.6 with unsafe >= 0.7")


def test_failures() -> None:
    """The policy's setting decides about a failure, and the decision names the cause."""
    assert on_failure("allow", "overload") == Decision("pass", "", (), "overload")
    assert on_failure("block", "guard_error").action == "block"


def test_worst_of_none_passes() -> None:
    """Without decisions the result is a pass; of several, the most severe one applies."""
    assert worst([]) == Decision("pass", "", ())
    assert worst([Decision("flag", "", ()), Decision("block", "", ()), Decision("pass", "", ())]).action == "block"


def test_floor() -> None:
    """The floor is the lowest threshold on either side, and 1 for a policy without rules."""
    assert POLICY.floor == 0.2
    assert Policy("p", "v", RULES, SideRules({"*": (Rule("flag", 0.1),)})).floor == 0.1
    assert Policy("p", "v", SideRules({}), SideRules({})).floor == 1.0


def test_a_second_condition_does_not_raise_the_floor() -> None:
    """One window may have the category and another one P(unsafe), so the floor is the category's threshold.

    The engine skips the categories of a window whose P(unsafe) is at most the floor; here the decision needs them.
    """
    policy = Policy("p", "v", SideRules({"weapons": (Rule("block", 0.1, with_unsafe=0.7),)}), SideRules({}))
    windows = [verdict(0.2, weapons=0.15), verdict(0.8, weapons=0.0)]
    assert decide(policy, "user", worst_verdict(windows)).action == "block"
    assert policy.floor == 0.1 < windows[0].unsafe


def test_routes_first_match_wins() -> None:
    """Every condition must hold; the first matching route decides; without a match the default policy applies."""
    strict = Policy("strict", "v", RULES, RULES)
    routes = (
        Route("kids", "strict", header=("X-App", "kids*"), shadow=("default",)),
        Route("models", "strict", path="/v1/chat/*", model="gpt-*"),
    )
    chosen = PolicySet({"default": POLICY, "strict": strict}, routes)
    assert chosen.version == ""
    assert chosen.choose(Asked(["/v1/chat/completions"], "gpt-4", "", {})).route == "models"
    assert chosen.choose(Asked(["/v1/messages"], "gpt-4", "", {})).policy is POLICY
    kids = chosen.choose(Asked(["/v1/messages"], "m", "", {"x-app": "kids-2"}))
    assert (kids.route, kids.policy, kids.shadow) == ("kids", strict, (POLICY,))
    none = chosen.choose(Asked(["/v1/messages"], "m", "", {"x-app": "adults"}))
    assert (none.route, none.policy, none.shadow) == ("default", POLICY, ())


def test_a_route_without_conditions_takes_every_request() -> None:
    """Path, model and client of a route match everything unless they are given."""
    assert Route("all", "default").matches(Asked(["/v1/messages"], "gpt-4", "3f2a", {}))
    assert Route("all", "default").matches(Asked([""], "", "", {}))


@given(st.sets(st.sampled_from(["path", "model", "client", "header"])))
def test_a_route_matches_if_every_given_condition_holds(wrong: set[str]) -> None:
    """A single condition that does not hold is enough to leave the route."""
    route = Route("r", "p", path="/v1/*", model="gpt-*", client="3f2a", header=("X-Team", "kids"))
    request = {"path": "/v1/chat", "model": "gpt-4", "client": "3f2a", "header": "kids", **dict.fromkeys(wrong, "no")}
    matches = route.matches(
        Asked([request["path"]], request["model"], request["client"], {"x-team": request["header"]})
    )
    assert matches == (not wrong)


def test_a_route_with_a_header_needs_the_header() -> None:
    """A request without the header does not match, not even a pattern that matches the empty text."""
    assert not Route("r", "p", header=("X-Team", "*")).matches(Asked(["/"], "", "", {}))


def test_refusals() -> None:
    """A refusal carries the message, with the categories only if the policy says so and there are any."""
    categories = ("violence_hate", "unsafe")
    plain = BlockPolicy("error", "No.", "stop", closing="End.")
    assert plain.refusal(categories) == Refuse("No.", "error", "stop", categories, "End.")
    naming = BlockPolicy("completion", "No.", "content_filter", name_categories=True)
    assert naming.refusal(categories).message == "No. (violence_hate, unsafe)"
    assert naming.refusal(()).message == "No."
    assert (naming.refusal(categories).named, naming.refusal(()).named) == (categories, ())


@pytest.mark.parametrize(("probability", "clear"), [(0.19, True), (0.2, False), (0.9, False)])
def test_what_is_clearly_passed(probability: float, clear: bool) -> None:
    """Thresholds of half the size stop nothing: of categories, of P(unsafe) and of conditions on it."""
    of_category = SideRules({"a": (Rule("block", 0.4),)})
    of_both = SideRules({"a": (Rule("rewrite", 0.1, "redact", with_unsafe=0.4),)})
    overall, flags = SideRules({"unsafe": (Rule("block", 0.4),)}), SideRules({"*": (Rule("flag", 0.1),)})
    found = Verdict(probability, (Finding("a", probability),), "g")
    for rules in (of_category, of_both, overall):
        assert is_clearly_passed(Policy("p", "v", SideRules({}), rules), "assistant", found) is clear
    assert is_clearly_passed(Policy("p", "v", SideRules({}), flags), "assistant", found)


def test_defaults() -> None:
    """A policy that says nothing more blocks when the guard fails, judges users and tools, and holds text back."""
    policy = Policy("p", "v", SideRules({}), SideRules({}))
    assert (policy.on_guard_error, policy.on_overload) == ("error", "error")
    assert policy.on_opaque == {"user": "flag", "assistant": "flag"}
    assert (policy.history, policy.views) == ("drop", ())
    assert policy.judge == JudgeScope(("tool", "user"), ("tool_definition",))
    assert policy.stream == StreamPolicy("window", every="auto", lag=40, exposure=0)
    assert policy.thread.characters == 4000
    assert policy.rewrite == RewritePolicy("[removed by policy]", "[removed]")
    message = "This content was withheld because it is against the usage policy."
    assert policy.block == BlockPolicy("completion", message, "content_filter", name_categories=False)


def test_a_rule_without_a_rewrite_names_none() -> None:
    """Only a rewrite has a `how`."""
    assert decide(POLICY, "user", verdict(violence_hate=0.5)).how == ""


@pytest.mark.parametrize(
    "model", ["Kids", " kids\t", "KIDS:latest", "models/kids", "models/Kids:LATEST", "library/kids"]
)
def test_a_route_holds_for_every_spelling_of_its_model(model: str) -> None:
    """Case, outer white space, Ollama's default tag and Gemini's prefix make no other model."""
    for pattern in ("kids", "KIDS ", "k*s", "kids:latest"):
        assert Route("r", "p", model=pattern).matches(Asked(["/x"], model, "", {}))
    assert not Route("r", "p", model="kids").matches(Asked(["/x"], "kids-2", "", {}))


def test_a_route_holds_for_every_spelling_of_its_path() -> None:
    """A condition on the path holds if any spelling of the request's path matches it."""
    strict = Policy("strict", "v", RULES, RULES)
    chosen = PolicySet({"default": POLICY, "strict": strict}, (Route("chat", "strict", path="/v1/chat/*"),))
    assert chosen.choose(Asked(["/V1/chat/completions"], "m", "", {})).route == "chat"
    assert chosen.choose(Asked(["/api/chat"], "m", "", {})).route == "default"
    assert chosen.choose(Asked(["/chat/completions", "/v1/chat/completions"])).route == "chat"


def test_values_are_compared_without_outer_space() -> None:
    """White space around the value of a header makes no other value."""
    route = Route("r", "p", header=("X-Team", "kids"))
    assert route.matches(Asked(["/x"], "m", "", {"x-team": " kids\t"}))
    assert PolicySet({}, (route, Route("s", "p"))).routing_headers == {"x-team"}


@pytest.mark.parametrize("name", ["llama3", "library/llama3", "registry.ollama.ai/library/llama3", "models/llama3"])
def test_a_model_has_no_name_that_leaves_its_route(name: str) -> None:
    """The prefixes that servers ignore do not choose another policy."""
    assert Route("r", "p", model="llama3").matches(Asked(["/"], name, "", {}))


def test_outer_space_of_a_header_does_not_count() -> None:
    """Neither that of the value nor that of the pattern."""
    route = Route("r", "p", header=("X-Team", " kids "))
    assert route.matches(Asked(["/"], "", "", {"x-team": "  kids\t"}))
    assert not route.matches(Asked(["/"], "", "", {"x-team": "ki ds"}))
