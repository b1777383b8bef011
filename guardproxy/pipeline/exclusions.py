"""Exclusions: texts that people have found to be harmless, although the guard finds something in them."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from guardproxy.frozen import frozen
from guardproxy.observe.masking import text_hash
from guardproxy.pipeline.reread import SENTENCE
from guardproxy.policy import ANY, UNSAFE, Policy, decide
from guardproxy.reviews import Exclusion
from guardproxy.toolviews import is_of_image
from guardproxy.types import Message, Side, Verdict
from guardproxy.verdicts import worst_of_views
from guardproxy.views import PART, joined


@frozen
class CountedVerdict:
    """What counts of a verdict in decisions: without the findings that `exclusions` cover."""

    verdict: Verdict
    exclusions: tuple[Exclusion, ...]

    def calibrated(self, policy: Policy, side: Side) -> "CountedVerdict":
        """The same with calibrated probabilities."""
        return replace(self, verdict=policy.calibration.applied(side, self.verdict))

    def applied(self, policy: Policy, side: Side, whole: Verdict) -> str:
        """The ids of the exclusions without which a rule of the policy would have been reached, with commas.

        `whole` is the verdict with all findings.
        """
        left = {reason.category for reason in decide(policy, side, self.verdict).reasons}
        excluded = {reason.category for reason in decide(policy, side, whole).reasons} - left
        covers = {ANY, *excluded} if excluded else set()
        return ",".join(one.id for one in self.exclusions if one.category in covers)


class Exclusions:
    """The exclusions in force, from the configuration and from the audit store. `clock` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._sources: dict[str, Sequence[Exclusion]] = {}
        self._by_text: Mapping[str, list[Exclusion]] = {}

    def use(self, source: str, given: Sequence[Exclusion]) -> None:
        """Put the exclusions of a source in force, in place of those that it had before."""
        self._sources[source] = given
        by_text = defaultdict(list)
        for exclusions in self._sources.values():
            for exclusion in exclusions:
                by_text[exclusion.text].append(exclusion)
        self._by_text = dict(by_text)

    @property
    def any(self) -> bool:
        """Whether there are exclusions, expired ones included."""
        return bool(self._by_text)

    def covering(self, text: str) -> tuple[Exclusion, ...]:
        """The exclusions of exactly this text that have not expired."""
        if not self._by_text:
            return ()
        now = self._clock()
        return tuple(one for one in self._by_text.get(text_hash(text), ()) if now < one.until)

    def counted(self, message: Message, verdicts: Sequence[tuple[str, Verdict]]) -> CountedVerdict | None:
        """What counts of the verdicts on a message, given by view; None if no exclusion covers its text.

        The text and its views are covered, but not its images, and so is the thread, or the text would be blocked in
        every turn but the first. Of a message whose parts readers may join to another text, only the text, its parts
        and its sentences are covered.
        """
        covering = self.covering(message.text) if self._by_text else ()
        if not covering:
            return None
        excluded = {exclusion.category for exclusion in covering}
        covered = (
            {"text", PART, SENTENCE} if joined(message) else {view for view, _ in verdicts if not is_of_image(view)}
        )
        left = [(view, _without(verdict, excluded) if view in covered else verdict) for view, verdict in verdicts]
        return CountedVerdict(worst_of_views(left), covering)


def _without(verdict: Verdict, excluded: Iterable[str]) -> Verdict:
    """The verdict without findings of these categories; "*" excludes all of them and P(unsafe)."""
    if ANY in excluded:
        return replace(verdict, unsafe=0.0, findings=())
    findings = tuple(finding for finding in verdict.findings if finding.category not in excluded)
    return replace(verdict, unsafe=0.0 if UNSAFE in excluded else verdict.unsafe, findings=findings)
