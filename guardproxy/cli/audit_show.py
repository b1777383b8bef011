"""A record in words, for `guardproxy audit show`."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from guardproxy.cli.audit_table import local
from guardproxy.plaintext import printable

if TYPE_CHECKING:
    from guardproxy.reviews import Label, Opinion
    from guardproxy.sinks.database import StoredRecord
    from guardproxy.types import Coverage, Record, Usage, Verdict

_CAUSES = {
    "verdict": "the guard's scores under the policy",
    "guard_error": "the guard failed",
    "overload": "the guard was overloaded",
    "opaque": "the turn has content that no guard reads",
    "language": "the text is in a language that the guard does not read",
}
_OUTCOMES = {
    "pass": "the text went on unchanged",
    "replace": "the text was rewritten",
    "steer": "the text went on unchanged, with an instruction for the model",
    "refuse": "the text was withheld",
    "drop": "the turn was left out of the request",
}


def details(stored: "StoredRecord", history: Sequence["Label"] = (), opinions: Sequence["Opinion"] = ()) -> str:
    """All fields of a record, over several lines, with every label and second opinion that was given on it."""
    record = stored.record
    lines = [f"{name:<10} {printable(value)}" for name, value in _pairs(stored)]
    lines += ["why", *_reasons(record)] if record.decision.reasons else []
    lines += _verdict(record.verdict) if record.verdict else ["verdict    none: the guard did not answer"]
    lines += ["coverage", *map(_coverage, record.coverage)] if record.coverage else []
    lines += ["labels", *map(_label, history)] if history else []
    lines += ["opinions", *map(opinion_line, opinions)] if opinions else []
    if record.text:
        lines += ["text", *(f"  {printable(line)}" for line in record.text.split("\n"))]
    else:
        lines.append(f"text       {'erased' if stored.text_erased else 'not stored'}")
    return "\n".join([*lines, f"hash       {stored.hash}"])


def _pairs(stored: "StoredRecord") -> Iterator[tuple[str, str]]:
    record, origin, decision = stored.record, stored.record.origin, stored.record.decision
    yield "record", f"{stored.seq}  {record.id}"
    yield "time", local(record.time, "%Y-%m-%d %H:%M:%S.%f %z")
    yield "request", f"{origin.request_id}{' (stream)' if origin.stream else ''}"
    yield "client", f"{origin.client} (hash of its key)" if origin.client else "sent no key"
    yield "user", origin.user or "not named"
    yield "session", origin.session or "not named"
    yield "route", f"{origin.route} ({origin.wire})"
    yield "upstream", f"{origin.upstream}, model {origin.model or 'not named'}"
    if record.side == "assistant":
        yield "turn", f"reply of the assistant, choice {record.choice}, to {record.turn} messages"
    else:
        yield "turn", f"turn of the user's side, message {record.turn}"
    if record.reply:
        yield from _reply(record)
    if not record.complete:
        yield "end", "cut off: the turn was not judged to its end"
    yield "policy", f"{record.policy}@{record.policy_version}{' (shadow: it did not act)' if record.shadow else ''}"
    how = f" ({decision.how})" if decision.how else ""
    languages = f": {', '.join(decision.languages)}" if decision.languages else ""
    yield "decision", f"{decision.action}{how} ({decision.cause}: {_CAUSES[decision.cause]}{languages})"
    yield "outcome", f"{record.outcome}: {_OUTCOMES[record.outcome]}"
    yield "judged in", f"{record.latency_s * 1000:.1f} ms"
    if record.exclusion:
        yield "exclusion", f"{record.exclusion} (the text counts as known harmless)"
    if record.sampled:
        yield "sample", "the request is in the random sample for review"
    if record.error:
        yield "error", record.error


def _reply(record: "Record") -> Iterator[tuple[str, str]]:
    reply = record.reply
    if reply is None:
        return
    attempt = f", attempt {reply.attempt}" if reply.attempt > 1 else ""
    yield "answered", f"by model {reply.model or 'not named'}, id {reply.id or 'not named'}{attempt}"
    if reply.input_tokens is not None or reply.output_tokens is not None:
        read, written = ("unknown" if n is None else str(n) for n in (reply.input_tokens, reply.output_tokens))
        yield "tokens", f"{read} read, {written} written, as the upstream counts"
    if reply.held_characters:
        yield "held back", f"up to {reply.held_characters} characters, for up to {reply.held_s * 1000:.1f} ms"


def _reasons(record: "Record") -> list[str]:
    return [
        f"  {reason.action}: {printable(reason.category)} {reason.probability:.4f} reaches {reason.thresholds}"
        for reason in sorted(record.decision.reasons, key=lambda reason: -reason.probability)
    ]


def _place(view: str, span: tuple[int, int] | None) -> str:
    where = "" if view == "text" else f"  in the {printable(view)} view"
    return where if span is None else f"{where}  at characters {span[0]} to {span[1]}"


def _kind(kind: str) -> str:
    return " (a label, no probability)" if kind == "label" else ""


def _verdict(verdict: "Verdict") -> list[str]:
    by = f"by {printable(verdict.guard)}, taxonomy {printable(verdict.taxonomy)}{_place(verdict.view, verdict.span)}"
    lines = [f"verdict    unsafe {verdict.unsafe:.4f}{_kind(verdict.kind)}, {by}"]
    lines += [
        f"  {printable(finding.category)} {finding.probability:.4f}{_kind(finding.kind)}"
        f"{_place(finding.view, finding.span)}"
        for finding in sorted(verdict.findings, key=lambda finding: -finding.probability)
    ]
    if verdict.rationale:
        lines.append(f"  reason: {printable(verdict.rationale)}")
    if verdict.leftover or verdict.outside:  # of generative guards only
        lines.append(
            f"  probabilities may be off by {verdict.leftover:.4f}; "
            f"not seen on the verdict tokens {verdict.outside:.4f}"
        )
    if verdict.usage.cached:
        return [*lines, "  from the verdict cache"]
    return [*lines, *_usage(verdict.usage)]


def _usage(usage: "Usage") -> list[str]:
    """The cost of a verdict. Times of a cascade's guards add up; of parallel checks the longest counts."""
    waited, computed, tokenised = (
        f"{seconds * 1000:.1f} ms" for seconds in (usage.queue_s, usage.forward_s, usage.tokenize_s)
    )
    tokens = f"{usage.tokens_computed} tokens computed and {usage.tokens_reused} reused, in {usage.windows} windows"
    return [
        f"  waited {waited} for a batch, computed {computed} (the longest of parallel checks), tokenised {tokenised}",
        f"  {tokens}, in batches of up to {usage.batch} checks",
    ]


def _coverage(part: "Coverage") -> str:
    why = f": {printable(part.why)}" if part.why else ""
    state = "judged" if part.judged else "NOT judged"
    what = part.note if part.kind == "image" else f"{part.characters} characters"
    return f"  {state}: {printable(part.path)} ({part.role}, {part.kind}, {printable(what)}){why}"


def _label(label: "Label") -> str:
    kind = "withdrawn" if label.kind == "none" else label.kind
    category = f" for {printable(label.category)}" if label.category else ""
    note = f": {printable(label.note)}" if label.note else ""
    return f"  {local(label.time)} {kind}{category}, by {printable(label.by)}{note}"


def opinion_line(opinion: "Opinion") -> str:
    """A second opinion: what it says, who says it by which policy, and why. Of labels, only those that say yes."""
    if opinion.kind == "label":
        named = ", ".join(printable(category) for category, value in opinion.findings if value)
        said = f"label {'unsafe' if opinion.unsafe else 'safe'}{f': {named}' if named else ''}"
    else:
        named = ", ".join(f"{printable(category)} {value:.4f}" for category, value in opinion.findings)
        said = f"unsafe {opinion.unsafe:.4f}{f': {named}' if named else ''}"
    who = f"by {printable(opinion.guard)}, taxonomy {printable(opinion.taxonomy)}"
    masked = "" if opinion.exact else ", of the masked text"
    line = f"  {local(opinion.time)} {said}; {who}{masked}, asked by {printable(opinion.by)}"
    return f"{line}\n    reason: {printable(opinion.rationale)}" if opinion.rationale else line
