"""How several verdicts on one text become one, and what they cost together. Pure.

Two kinds of sum: the checks of one text run *in parallel* (windows, views, guards that are asked at once), or *in
sequence* (a cascade's second guard waits for its first). Only waiting times differ: in parallel the longest counts, in
sequence they add up.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from guardproxy.ports import Reading
from guardproxy.toolviews import is_of_tool
from guardproxy.types import Finding, Usage, Verdict


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The highest probability of each category, and of `unsafe`, over one or more verdicts.

    `guard` and `taxonomy` are those of the first verdict, the usage is that of verdicts given in parallel.
    """
    first, *others = verdicts
    if not others:
        return first
    most = max(verdicts, key=lambda verdict: verdict.unsafe)
    return replace(
        first,
        unsafe=most.unsafe,
        view=most.view,
        span=most.span,
        kind=most.kind,
        rationale=most.rationale or next((one.rationale for one in verdicts if one.rationale), ""),
        findings=_worst_of_each_kind([finding for verdict in verdicts for finding in verdict.findings]),
        leftover=max(verdict.leftover for verdict in verdicts),
        outside=max(verdict.outside for verdict in verdicts),
        raw=_highest_raw(verdicts),
        usage=usage_in_parallel([verdict.usage for verdict in verdicts]),
    )


def _worst_of_each_kind(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The most probable finding of each category, and that in the results of tools, which have other rules."""
    own = worst_findings([finding for finding in findings if not is_of_tool(finding.view)])
    of_tool = worst_findings([finding for finding in findings if is_of_tool(finding.view)])
    return (*own.values(), *of_tool.values())


def _highest_raw(verdicts: Sequence[Verdict]) -> tuple[tuple[str, float], ...]:
    """The guard's own highest probabilities: calibration keeps their order, so they belong to the worst findings."""
    highest: dict[str, float] = {}
    for category, probability in (pair for verdict in verdicts for pair in verdict.raw):
        highest[category] = max(probability, highest.get(category, 0.0))
    return tuple(highest.items())


def worst_of_views(verdicts: Sequence[tuple[str, Verdict]]) -> Verdict:
    """The worst of the verdicts on one or more views of a text, as (view, verdict); each finding names its view."""
    return worst([_on_view(view, verdict) for view, verdict in verdicts])


def _on_view(view: str, verdict: Verdict) -> Verdict:
    # A finding on the text itself names it already. Most turns have no other view, and the copies would cost them.
    if view == "text":
        return verdict
    findings = tuple(replace(finding, view=view) for finding in verdict.findings)
    if is_of_tool(view):
        # P(unsafe) of the results of tools has rules of its own, so it is a finding beside that of the turn.
        overall = Finding("unsafe", verdict.unsafe, view=view, span=verdict.span, kind=verdict.kind)
        return replace(verdict, unsafe=0.0, view=view, findings=(*findings, overall))
    return replace(verdict, view=view, findings=findings)


def worst_findings(findings: Iterable[Finding]) -> dict[str, Finding]:
    """The most probable finding of each category, by category id in order of first appearance."""
    found: dict[str, Finding] = {}
    for finding in findings:
        known = found.get(finding.category)
        if known is None or finding.probability > known.probability:
            found[finding.category] = finding
    return found


def worst_reading(readings: Sequence[Reading]) -> Reading:
    """The highest value of each field over the readings of one prompt's windows (one or more, of equal length).

    NaN in any of them gives NaN: `max` alone would skip it unless it came first. A probability has the span of the
    window that it comes from, if all windows have spans.
    """
    columns = list(zip(*(reading.probabilities for reading in readings), strict=True))
    spans = [reading.spans for reading in readings]
    return Reading(
        tuple(_highest(values) for values in columns),
        _highest([reading.leftover for reading in readings]),
        _highest([reading.outside for reading in readings]),
        tuple(spans[values.index(max(values))][place] for place, values in enumerate(columns)) if all(spans) else (),
    )


def usage_in_parallel(usages: Sequence[Usage]) -> Usage:
    """The usage of checks that ran at the same time: the longest `queue_s` and `forward_s`, the sum of all work."""
    return replace(
        usage_in_sequence(usages),
        queue_s=max(usage.queue_s for usage in usages),
        forward_s=max(usage.forward_s for usage in usages),
    )


def usage_in_sequence(usages: Sequence[Usage]) -> Usage:
    """The usage of checks that ran one after the other: seconds, tokens and windows add up; the largest batch."""
    return Usage(
        queue_s=sum(usage.queue_s for usage in usages),
        tokenize_s=sum(usage.tokenize_s for usage in usages),
        forward_s=sum(usage.forward_s for usage in usages),
        tokens_computed=sum(usage.tokens_computed for usage in usages),
        tokens_reused=sum(usage.tokens_reused for usage in usages),
        batch=max(usage.batch for usage in usages),
        windows=sum(usage.windows for usage in usages),
        cached=all(usage.cached for usage in usages),
        share_s=sum(usage.share_s for usage in usages),
    )


def _highest(values: Sequence[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else max(values)
