"""Rules, policies and routes, and the decision: the only place that compares probabilities with thresholds. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from fnmatch import fnmatchcase
from typing import Annotated, Literal, get_args

from annotated_types import Interval

from guardproxy.calibration import UNCALIBRATED, Calibration
from guardproxy.frozen import frozen
from guardproxy.localtext import LocalText, text_of
from guardproxy.routing import Asked, folded, model_names
from guardproxy.sentences import SentencePolicy
from guardproxy.toolviews import is_of_tool
from guardproxy.types import (
    SEVERITY,
    SIGNALS,
    ActionName,
    Cause,
    Decision,
    Finding,
    Reason,
    Refuse,
    Role,
    Side,
    Verdict,
)

OnFailure = Literal["block", "flag", "allow"]
# `error`: the client gets an error of its protocol, and may repeat the request.
OnUnavailable = Literal["error", "block", "flag", "allow"]
BlockShape = Literal["completion", "error"]
BlockFinish = Literal["content_filter", "stop"]
StreamMode = Literal["window", "hold_all", "monitor"]
HistoryMode = Literal["drop", "block", "allow"]
# Named sets of rules for the embedded guard, the strictest first: `settings/presets.yaml`.
PresetName = Literal["strict", "balanced", "permissive"]
PRESETS: tuple[PresetName, ...] = get_args(PresetName)
# The kinds of part that a policy may leave unjudged: every kind but the text of a turn and opaque content.
SkippableKind = Literal["refusal", "reasoning", "tool_call", "tool_result", "tool_definition", "transcript"]

ANY, UNSAFE = "*", "unsafe"
STEER = "steer"  # the mildest rewrite
REGENERATE = "regenerate"


@frozen
class Rule:
    """An action for probabilities of `threshold` and above, if P(unsafe) is at `with_unsafe` or above as well.

    `how` names the rewrite (`replace`, `steer`, or a user's own), empty for other actions.
    """

    action: ActionName
    threshold: float
    how: str = ""
    with_unsafe: float = 0.0


@frozen
class SideRules:
    """The rules of one side by category id: "*" for categories without rules of their own, "unsafe" for P(unsafe)."""

    by_category: Mapping[str, tuple[Rule, ...]]

    def covering(self, category: str) -> tuple[Rule, ...]:
        """The rules that apply to a finding of `category`."""
        if category in self.by_category:
            return self.by_category[category]
        return () if category in SIGNALS else self.by_category.get(ANY, ())


# The next classes, but for `BlockPolicy` and `RewritePolicy`, are also the shape of their sections in a configuration
# file: the texts under the fields are the descriptions in its JSON schema, the annotations its bounds.


@frozen
class BlockPolicy:
    """What the client gets instead of a blocked text."""

    how: BlockShape = "completion"
    """`completion`: a normal reply with the message. `error`: the protocol's error body with HTTP 400."""
    message: str = "This content was withheld because it is against the usage policy."
    """The text that the client reads."""
    finish: BlockFinish = "content_filter"
    """The finish reason of the completion."""
    name_categories: bool = False
    """Whether the message, and the reason for programs, name the categories."""
    closing: str = "The rest of this answer was withheld."
    """The last sentence of a stream that is cut behind text that the client has; empty for none."""
    local: Mapping[str, LocalText] = field(default_factory=dict)
    """Messages by category, "*" for all others; it takes the place of `message` if it is not empty."""
    place_header: str = ""
    """The request header that names the reader's country or language; `accept-language` says so without it."""

    def refusal(self, categories: tuple[str, ...], languages: tuple[str, ...] = (), category: str = "") -> Refuse:
        """The refusal of a text for these categories, or because the guard does not read these languages.

        `category` chooses the message.
        """
        message = text_of(self.local, category) or self.message
        named = f" ({', '.join(categories)})" if self.name_categories and categories else ""
        named += f" ({language_note(languages)})" if languages else ""
        told = categories if self.name_categories else None
        return Refuse(f"{message}{named}", self.how, self.finish, categories, self.closing, told)

    def refusal_of(self, decision: Decision) -> Refuse:
        """The refusal of a text about which the policy has decided."""
        return self.refusal(decision.categories, decision.languages, leading(decision))

    @property
    def messages(self) -> tuple[str, ...]:
        """Every message that a client can get."""
        return (self.message, *(text for local in self.local.values() for text in local.by_place.values()))


@frozen
class RewritePolicy:
    """The texts that rewrites write, their bounds, and what `regenerate` tells the model (`retry_instruction`)."""

    replacement: str = "[removed by policy]"  # what `replace` writes instead of a turn
    marker: str = "[removed]"  # what `redact` writes instead of a sentence
    max_checks: int = 100  # the most texts that `redact` has judged for one turn
    instructions: Mapping[str, LocalText] = field(default_factory=dict)  # of `steer`, by category, "*" for all others
    retry_instruction: str = "An earlier answer was withheld because of the usage policy. Answer within it, or decline."
    tries: int = 1  # further replies that `regenerate` asks for
    retry_s: float = 60.0  # seconds since the arrival of the request after which it asks for none

    def retry(self, named: tuple[str, ...]) -> str:
        """What `regenerate` tells the model of a reply against these categories, if they may be named."""
        return f"{self.retry_instruction} ({', '.join(named)})" if named else self.retry_instruction


@frozen
class StreamPolicy:
    """How streamed replies are held back until they are judged."""

    mode: StreamMode = "window"
    """`window` releases text once it is judged, `hold_all` the whole reply at its end, `monitor` everything at once."""
    every: Annotated[int, Interval(ge=1)] | Literal["auto"] = "auto"
    """Characters between two checks; `auto` checks soon, then at growing distances, and keeps `lag` characters back."""
    lag: Annotated[int, Interval(ge=0)] = 40
    """With `every: auto`, the characters that a client gets end so many characters before the judged ones."""
    exposure: Annotated[int, Interval(ge=0)] = 0
    """The most characters that a client may see before a verdict covers them; `monitor` has no bound."""


@frozen
class ThreadPolicy:
    """How far back each user turn is also judged together with the user turns before it, without the answers."""

    turns: Annotated[int, Interval(ge=0)] = 0
    """User turns that are joined, with the current one; 0 or 1: none. A preset for the embedded guard sets 4."""
    characters: Annotated[int, Interval(ge=100)] = 4000
    """The most characters of the joined text; a longer turn gives its beginning and its end. A preset sets 2000."""
    unsafe: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """The verdict on the joined text counts from this P(unsafe) on. Most of that text was judged alone before, so it
    may need more certainty than a single turn. A preset sets 0.8."""


@frozen
class JudgeScope:
    """Which texts of a request are judged."""

    roles: tuple[Role, ...] = ("tool", "user")
    """Roles whose messages in a request are judged; `user` must be among them."""
    skip: tuple[SkippableKind, ...] = ("tool_definition",)
    """Kinds of content that are not judged."""
    tool_as_user: bool = True
    """Whether the results of tools are judged as the user's text too, beside their own guard and rules (`tool`)."""


@frozen
class Policy:
    """One named policy. `version` is a hash of its text, and of the calibration if there is one.

    `tool` are the rules for the results of tools, None if they are those of `user`. `on_guard_error`, `on_overload` and
    `on_opaque` say what to do without a verdict: the guard fails, would take too long, or cannot read the content; with
    `error` the client gets no refusal but an error, and nothing passes. `on_language` decides about a text in a
    language that the guard does not read, `history` about earlier turns that would be refused now. `calibration` is the
    guard's, the same for all policies of a file: thresholds are compared with calibrated probabilities.
    """

    name: str
    version: str
    user: SideRules
    assistant: SideRules
    tool: SideRules | None = None
    on_guard_error: OnUnavailable = "error"
    on_overload: OnUnavailable = "error"
    on_opaque: Mapping[Side, OnFailure] = field(default_factory=lambda: {"user": "flag", "assistant": "flag"})
    on_language: Mapping[Side, OnFailure] = field(default_factory=lambda: {"user": "flag", "assistant": "flag"})
    judge: JudgeScope = JudgeScope()
    history: HistoryMode = "drop"
    block: BlockPolicy = BlockPolicy()
    rewrite: RewritePolicy = RewritePolicy()
    stream: StreamPolicy = StreamPolicy()
    thread: ThreadPolicy = ThreadPolicy()
    sentences: SentencePolicy = SentencePolicy()
    views: tuple[str, ...] = ()
    calibration: Calibration = UNCALIBRATED

    def side(self, side: Side) -> SideRules:
        """The rules of a side."""
        return self.user if side == "user" else self.assistant

    @property
    def floor(self) -> float:
        """The guard's lowest probability that can reach the threshold of a rule: no lower one can change a decision.

        `with_unsafe` cannot raise it: a verdict has the worst probabilities of several windows, views and guards, so a
        category can be found in a window whose own P(unsafe) is low.
        """
        sides = (self.user, self.assistant, self.tool or self.user)
        rules = [one for side in sides for one in side.by_category.values()]
        return self.calibration.lowest(min((rule.threshold for group in rules for rule in group), default=1.0))


def leading(decision: Decision) -> str:
    """The category of the most severe reason, the most probable of several; empty without reasons.

    P(unsafe) says nothing about the kind of harm, so its rule leads only if no category has reached a threshold.
    """
    reasons = [reason for reason in decision.reasons if reason.category != UNSAFE] or decision.reasons
    most = max(reasons, key=lambda reason: (SEVERITY[reason.action], reason.probability), default=None)
    return most.category if most else ""


def decide(policy: Policy, side: Side, verdict: Verdict) -> Decision:
    """The most severe action whose threshold is reached by the calibrated verdict; every such rule is a reason.

    1. Compare each finding with the rules of its category, or with those of "*" if the category has none. A rule with a
       second threshold is reached if P(unsafe) reaches that one, too.
    2. Compare P(unsafe) with the rules of "unsafe".
    3. Likewise what was found in the results of tools, P(unsafe) among it, with the rules for these.
    4. The most severe action applies. Among its rules, the one with the most probable finding says `how`; `steer` only
       if there is no other rewrite, because it forwards the text itself.
    """
    own = [finding for finding in verdict.findings if not is_of_tool(finding.view)]
    reached = _reached(policy.side(side), own, verdict.unsafe)
    if len(own) < len(verdict.findings):
        of_tool = [finding for finding in verdict.findings if is_of_tool(finding.view)]
        overall = max([finding.probability for finding in of_tool if finding.category == UNSAFE], default=0.0)
        of_tool = [finding for finding in of_tool if finding.category != UNSAFE]
        reached += _reached(policy.tool or policy.user, of_tool, overall)
    if not reached:
        return _PASS
    reason, how = max(reached, key=lambda pair: (SEVERITY[pair[0].action], pair[1] != STEER, pair[0].probability))
    return Decision(reason.action, how, tuple(pair[0] for pair in reached))


_PASS = Decision("pass", "", ())


def _reached(rules: SideRules, findings: Sequence[Finding], unsafe: float) -> list[tuple[Reason, str]]:
    """The rules that these findings and P(unsafe) reach, each with its `how`."""
    found = [(finding.category, finding.probability, rules.covering(finding.category)) for finding in findings]
    if overall := rules.by_category.get(UNSAFE):
        found.append((UNSAFE, unsafe, overall))
    return [
        (Reason(category, probability, rule.threshold, rule.action, rule.with_unsafe), rule.how)
        for category, probability, covering in found
        for rule in covering
        if probability >= rule.threshold and unsafe >= rule.with_unsafe
    ]


def on_failure(setting: OnUnavailable, cause: Cause) -> Decision:
    """The decision without a verdict: the guard failed, was overloaded, or cannot read the content.

    For `error` it is to block: nothing passes. What the client gets instead of a refusal is the pipeline's affair.
    """
    return Decision(_WITHOUT_VERDICT[setting], "", (), cause)


_WITHOUT_VERDICT: Mapping[OnUnavailable, ActionName] = {
    "error": "block",
    "block": "block",
    "flag": "flag",
    "allow": "pass",
}


def language_note(languages: tuple[str, ...]) -> str:
    """The reason of a coverage or a refusal: the languages that the guard does not read."""
    return f"language: {', '.join(languages)}"


def on_languages(setting: OnFailure, languages: tuple[str, ...]) -> Decision:
    """The decision about a text in `languages` that the guard does not read."""
    return replace(on_failure(setting, "language"), languages=languages)


def worst(decisions: list[Decision]) -> Decision:
    """The most severe decision, the first of equally severe ones; a pass if there are no decisions."""
    return max(decisions, key=lambda decision: SEVERITY[decision.action], default=_PASS)


@frozen
class Route:
    """Chooses a policy for the requests that meet every condition. Patterns are shell globs; `header` is (name, glob).

    `client` and `user` are patterns for the client and the end user as records show them. The policies in `shadow` are
    applied as well, but only recorded. A caller may choose one of the policies in `may_choose`, which then decides
    beside `policy` (`stricter`). With `overlap`, the upstream is called while the request is judged. `upstream` names
    the upstream, or the group of upstreams, that they go to; empty for the one called default.
    """

    name: str
    policy: str
    path: str = "*"
    model: str = "*"
    client: str = "*"
    header: tuple[str, str] | None = None
    shadow: tuple[str, ...] = ()
    protocol: str = "*"
    method: str = "*"
    user: str = "*"
    may_choose: tuple[str, ...] = ()
    overlap: bool = False
    upstream: str = ""

    def matches(self, asked: Asked) -> bool:
        """Whether a request meets every condition.

        The condition on the path holds if any spelling of the path matches it, so that no other spelling avoids a
        route. Patterns are compared without case and outer white space, except those of headers and end users.
        """
        if not any(fnmatchcase(folded(path), folded(self.path)) for path in asked.paths):
            return False
        if not any(fnmatchcase(name, folded(self.model)) for name in model_names(asked.model)):
            return False
        values = ((asked.client, self.client), (asked.protocol, self.protocol), (asked.method, self.method))
        if not all(pattern == ANY or fnmatchcase(folded(value), folded(pattern)) for value, pattern in values):
            return False
        if self.user != ANY and not fnmatchcase(asked.user, self.user.strip()):
            return False
        if self.header is None:
            return True
        name, pattern = self.header
        value = asked.headers.get(name.lower())
        return value is not None and fnmatchcase(value.strip(), pattern.strip())


@frozen
class Chosen:
    """The policy that acts on a request, and the shadow policies, whose decisions are only recorded.

    `may_choose`, `overlap` and `upstream` as in `Route`.
    """

    route: str
    policy: Policy
    shadow: tuple[Policy, ...] = ()
    may_choose: tuple[str, ...] = ()
    overlap: bool = False
    upstream: str = ""


@frozen
class PolicySet:
    """All policies by name, and the routes to them in order. `version` is a hash of the whole configuration text.

    `combined` keeps the policies that `stricter` has made of two others, by their names.
    """

    policies: Mapping[str, Policy]
    routes: tuple[Route, ...] = ()
    version: str = ""
    combined: dict[tuple[str, str], Policy] = field(default_factory=dict, init=False, repr=False, compare=False)

    def uncalibrated(self) -> "PolicySet":
        """The same policies for a guard whose probabilities they compare as they are."""
        policies = {name: replace(policy, calibration=UNCALIBRATED) for name, policy in self.policies.items()}
        return replace(self, policies=policies)

    @property
    def routing_headers(self) -> frozenset[str]:
        """The names, in lower case, of the headers on which a route depends."""
        return frozenset(route.header[0].lower() for route in self.routes if route.header is not None)

    @property
    def routes_by_model(self) -> bool:
        """Whether a route depends on the model."""
        return any(route.model != ANY for route in self.routes)

    @property
    def routes_to_upstreams(self) -> bool:
        """Whether a route names an upstream."""
        return any(route.upstream for route in self.routes)

    def choose(self, asked: Asked) -> Chosen:
        """The policy of the first route that matches; the policy `default` if none does."""
        for route in self.routes:
            if route.matches(asked):
                shadow = tuple(self.policies[name] for name in route.shadow)
                own = self.policies[route.policy]
                return Chosen(route.name, own, shadow, route.may_choose, route.overlap, route.upstream)
        return Chosen("default", self.policies["default"])
