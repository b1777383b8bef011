"""Two policies as one that is at least as strict as each of them: what a caller may choose beside a route's own. Pure.

Theory of operation. Both policies decide about the same verdicts, and the stricter decision applies. The combination
has the rules of both, so it reaches every rule that either of them reaches, and `decide` takes the most severe. Which
texts are judged, and in which form, is the route's own affair, so that the verdicts are those of the route's policy: a
policy that reads more is not combined (`reads_more`). The texts that a client reads are those of the chosen policy, and
a model is told what either of them would tell it.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from guardproxy.localtext import LocalText, reader_at
from guardproxy.policy import (
    ANY,
    STEER,
    UNSAFE,
    HistoryMode,
    Policy,
    PolicySet,
    Rule,
    SideRules,
    StreamMode,
    StreamPolicy,
)
from guardproxy.sentences import SentencePolicy
from guardproxy.types import Side

Setting = TypeVar("Setting", bound=str)

_FAILURE: Final[Mapping[Any, int]] = {"allow": 0, "flag": 1, "error": 2, "block": 2}
_HISTORY: Final[Mapping[HistoryMode, int]] = {"allow": 0, "drop": 1, "block": 2}
_STREAM: Final[Mapping[StreamMode, int]] = {"monitor": 0, "window": 1, "hold_all": 2}
_EVERYTHING: Final = sys.maxsize


def stricter(policies: PolicySet, own: Policy, chosen: Policy) -> Policy:
    """The combination of a route's `own` policy with a `chosen` one; each time the same object."""
    known = policies.combined.get((own.name, chosen.name))
    if known is None:
        known = policies.combined[own.name, chosen.name] = combined(own, chosen)
    return known


def combined(own: Policy, chosen: Policy) -> Policy:
    """The combination of two policies of one configuration. `reads_more(own, chosen)` must be empty."""
    return replace(
        own,
        name=f"{own.name}+{chosen.name}",
        version=f"{own.version}+{chosen.version}",
        user=_rules(own.user, chosen.user),
        assistant=_rules(own.assistant, chosen.assistant),
        tool=_rules(own.tool or own.user, chosen.tool or chosen.user) if own.tool or chosen.tool else None,
        on_guard_error=_stricter(own.on_guard_error, chosen.on_guard_error, _FAILURE),
        on_overload=_stricter(own.on_overload, chosen.on_overload, _FAILURE),
        on_opaque=_by_side(own.on_opaque, chosen.on_opaque),
        on_language=_by_side(own.on_language, chosen.on_language),
        history=_stricter(own.history, chosen.history, _HISTORY),
        stream=_stream(own.stream, chosen.stream),
        thread=own.thread if own.thread.turns > 1 else chosen.thread,
        sentences=_sentences(own.sentences, chosen.sentences),
        block=chosen.block,
        rewrite=replace(chosen.rewrite, instructions=_instructions(own, chosen)),
    )


def reads_more(own: Policy, chosen: Policy) -> tuple[str, ...]:
    """The options by which `chosen` reads a text that `own` does not read, or in another way; empty if it does not.

    A guard may find less in a longer text than in a part of it. So a policy that reads more, or joins other turns,
    could let pass what `own` stops.
    """
    differing = []
    wider = not set(chosen.judge.roles) <= set(own.judge.roles) or not set(chosen.judge.skip) >= set(own.judge.skip)
    if wider or (chosen.judge.tool_as_user and not own.judge.tool_as_user):
        differing.append("judge")
    if own.thread.turns > 1 and chosen.thread.turns > 1 and own.thread != chosen.thread:
        differing.append("thread")
    if not set(chosen.views) <= set(own.views):
        differing.append("views")
    return tuple(differing)


def _rules(own: SideRules, chosen: SideRules) -> SideRules:
    """The rules of both. A category without rules of its own in one of them has those of "*" there, as `covering`."""
    categories = {**own.by_category, **chosen.by_category}
    return SideRules({category: _covering(own, chosen, category) for category in categories})


def _covering(own: SideRules, chosen: SideRules, category: str) -> tuple[Rule, ...]:
    if category == UNSAFE:  # P(unsafe) is no category, to which the rules of "*" could apply
        first, second = own.by_category.get(UNSAFE, ()), chosen.by_category.get(UNSAFE, ())
    else:
        first, second = own.covering(category), chosen.covering(category)
    return (*first, *(rule for rule in second if rule not in first))


def _instructions(own: Policy, chosen: Policy) -> dict[str, LocalText]:
    """What the model is told of a category: the instructions of both policies, as far as they have rules that steer."""
    used = [policy.rewrite.instructions for policy in (own, chosen) if _steers(policy)]
    categories = {category for texts in used for category in texts}
    return {
        category: _told([text for texts in used if (text := texts.get(category) or texts.get(ANY))])
        for category in sorted(categories)
    }


def _steers(policy: Policy) -> bool:
    sides = (policy.user, policy.tool or policy.user)
    return any(rule.how == STEER for side in sides for rules in side.by_category.values() for rule in rules)


def _told(texts: Sequence[LocalText]) -> LocalText:
    """The texts of a category, each once, for every place that one of them names."""
    places = {place: reader_at(place) for text in texts for place in text.by_place}
    told = {
        place: dict.fromkeys(text.by_place[text.place(reader)] for text in texts) for place, reader in places.items()
    }
    return LocalText({place: "\n\n".join(found) for place, found in told.items()})


def _sentences(own: SentencePolicy, chosen: SentencePolicy) -> SentencePolicy:
    """Sentences are judged if one of the policies wants it, and count from the lower of their bounds on."""
    bounds = [policy.unsafe for policy in (own, chosen) if policy.unsafe is not None]
    return SentencePolicy(min(bounds, default=None))


def _stricter(own: Setting, chosen: Setting, strictness: Mapping[Setting, int]) -> Setting:
    """The stricter setting; `own` if they are equally strict."""
    return max(own, chosen, key=strictness.__getitem__)


def _by_side(own: Mapping[Side, Setting], chosen: Mapping[Side, Setting]) -> dict[Side, Setting]:
    return {side: _stricter(own[side], chosen[side], _FAILURE) for side in own}


def _stream(own: StreamPolicy, chosen: StreamPolicy) -> StreamPolicy:
    """How streams are held back: checked where `own` checks them, and released where both release them.

    A stream that the chosen policy holds to its end is still checked on its way, as `own` would: the whole of a reply
    may look more harmless than its beginning.
    """
    if (own.mode, chosen.mode) == ("window", "hold_all"):
        return replace(own, exposure=-_EVERYTHING)
    if _STREAM[own.mode] < _STREAM[chosen.mode]:
        return chosen
    if own.mode != chosen.mode:
        return own
    # `lag` counts beside `every: auto` only; the own one stays where the own policy has none.
    lag = max(own.lag, chosen.lag) if chosen.every == "auto" else own.lag
    return replace(own, lag=lag, exposure=min(own.exposure, chosen.exposure))
