"""Thresholds and decisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.policy import Policy, PolicySet, Route, Rule, SideRules, decide, on_failure, worst
from guardproxy.types import SEVERITY, Decision, Finding, Verdict

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


def test_failures() -> None:
    """The policy's setting decides about a failure, and the decision names the cause."""
    assert on_failure("allow", "overload") == Decision("pass", "", (), "overload")
    assert on_failure("block", "guard_error").action == "block"


def test_worst_of_none_passes() -> None:
    """Without decisions the result is a pass; of several, the most severe one applies."""
    assert worst([]).action == "pass"
    assert worst([Decision("flag", "", ()), Decision("block", "", ()), Decision("pass", "", ())]).action == "block"


def test_floor() -> None:
    """The floor is the lowest threshold of all rules."""
    assert POLICY.floor == 0.2


def test_routes_first_match_wins() -> None:
    """Every condition must hold; the first matching route decides; without a match the default policy applies."""
    strict = Policy("strict", "v", RULES, RULES)
    routes = (
        Route("kids", "strict", header=("X-App", "kids*"), shadow=("default",)),
        Route("models", "strict", path="/v1/chat/*", model="gpt-*"),
    )
    chosen = PolicySet({"default": POLICY, "strict": strict}, routes)
    assert chosen.choose("/v1/chat/completions", "gpt-4", "", {}).route == "models"
    assert chosen.choose("/v1/messages", "gpt-4", "", {}).policy is POLICY
    kids = chosen.choose("/v1/messages", "m", "", {"x-app": "kids-2"})
    assert (kids.route, kids.policy, kids.shadow) == ("kids", strict, (POLICY,))


@pytest.mark.parametrize(
    "model", ["Kids", " kids\t", "KIDS:latest", "models/kids", "models/Kids:LATEST", "library/kids"]
)
def test_a_route_holds_for_every_spelling_of_its_model(model: str) -> None:
    """Case, outer white space, Ollama's default tag and Gemini's prefix make no other model."""
    for pattern in ("kids", "KIDS ", "k*s", "kids:latest"):
        assert Route("r", "p", model=pattern).matches(["/x"], model, "", {})
    assert not Route("r", "p", model="kids").matches(["/x"], "kids-2", "", {})


def test_a_route_holds_for_every_spelling_of_its_path() -> None:
    """A condition on the path holds if any spelling of the request's path matches it."""
    strict = Policy("strict", "v", RULES, RULES)
    chosen = PolicySet({"default": POLICY, "strict": strict}, (Route("chat", "strict", path="/v1/chat/*"),))
    assert chosen.choose("/V1/chat/completions", "m", "", {}).route == "chat"
    assert chosen.choose("/api/chat", "m", "", {}).route == "default"
    assert chosen.choose("/chat/completions", "m", "", {}, spellings=["/v1/chat/completions"]).route == "chat"


def test_values_are_compared_without_outer_space() -> None:
    """White space around the value of a header makes no other value."""
    route = Route("r", "p", header=("X-Team", "kids"))
    assert route.matches(["/x"], "m", "", {"x-team": " kids\t"})
    assert PolicySet({}, (route, Route("s", "p"))).routing_headers == {"x-team"}
