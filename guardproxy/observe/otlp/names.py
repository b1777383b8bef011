"""The names of spans, attributes and events: OpenTelemetry's where it has them, else `guardproxy.*`.

The conventions for generative AI have no guardrails yet. With `experimental`, judged turns have the names that are
proposed for them (open-telemetry/semantic-conventions-genai, pull request 427), which may change with any release.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from guardproxy.types import ActionName, Check, Origin, OutcomeName, Record, Side, Verdict

Value = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, Value]

# The protocol tells whose API the upstream speaks, and so whose names its models have.
_PROVIDERS: Final = {"anthropic_messages": "anthropic", "gemini": "gcp.gemini", "ollama": "ollama"}
_OPERATIONS: Final = {"gemini": "generate_content", "openai_completions": "text_completion"}

# --- proposed names --------------------------------------------------------------------------------------------------

_OPERATION: Final = "gen_ai.operation.name"
_GUARDRAIL: Final = "gen_ai.guardrail"
_TARGETS: Final[Mapping[Side, str]] = {"user": "input", "assistant": "output"}
_VERDICTS: Final[Mapping[ActionName, str]] = {"pass": "allow", "flag": "warn", "rewrite": "modify", "block": "deny"}
_ENFORCED: Final[Mapping[OutcomeName, str]] = {
    "pass": "allow",
    "replace": "modify",
    "steer": "modify",
    "refuse": "block",
    "drop": "block",
}


@dataclass(frozen=True, slots=True)
class SpanNames:
    """The name, the attributes and the events of a span. An event is a name with attributes."""

    name: str
    attributes: Attributes
    events: Sequence[tuple[str, Attributes]] = field(default=())


def of_upstream_call(origin: Origin | None, method: str, host: str, port: int) -> SpanNames:
    """The span of a call of the upstream; `origin` is None for a request that passes unread."""
    attributes: dict[str, Value] = {"http.request.method": method, "server.address": host, "server.port": port}
    if origin is None:
        return SpanNames(method, attributes)
    operation = _OPERATIONS.get(origin.wire, "chat")
    attributes |= {_OPERATION: operation, "gen_ai.provider.name": _PROVIDERS.get(origin.wire, "openai")}
    attributes |= {"gen_ai.request.model": origin.model} if origin.model else {}
    return SpanNames(f"{operation} {origin.model}".rstrip(), attributes)


def of_request(origin: Origin, policy: str, version: str) -> Attributes:
    """What is known of a request as soon as it is read."""
    found = {
        "guardproxy.request.id": origin.request_id,
        "guardproxy.route": origin.route,
        "guardproxy.wire": origin.wire,
        "guardproxy.policy": policy,
        "guardproxy.policy.version": version,
        "gen_ai.request.model": origin.model,
        "gen_ai.conversation.id": origin.session,
    }
    return {name: value for name, value in found.items() if value}


def of_check(guard: str, check: Check, verdict: Verdict) -> Attributes:
    """What a guard has found in one text, and what that cost; never the text."""
    usage = verdict.usage
    return {
        "guardproxy.guard": guard,
        "guardproxy.side": check.side,
        "guardproxy.unsafe": verdict.unsafe,
        "guardproxy.cached": usage.cached,
        "guardproxy.queue.duration": usage.queue_s,
        "guardproxy.forward.duration": usage.forward_s,
        "guardproxy.tokens.computed": usage.tokens_computed,
        "guardproxy.tokens.reused": usage.tokens_reused,
    }


def of_turn(record: Record, guard: str, *, experimental: bool) -> SpanNames:
    """The span of a judged turn: its decision, its outcome, and the rules that were reached."""
    return _proposed(record, guard) if experimental else _own(record, guard)


def _own(record: Record, guard: str) -> SpanNames:
    attributes = {
        "guardproxy.guard": guard,
        "guardproxy.side": record.side,
        "guardproxy.action": record.decision.action,
        "guardproxy.outcome": record.outcome,
        "guardproxy.cause": record.decision.cause,
        "guardproxy.categories": list(record.decision.categories),
        "guardproxy.shadow": record.shadow,
        "guardproxy.record.id": record.id,
        **_of_policy(record),
    }
    return SpanNames(f"judge {record.side} turn", attributes)


def _of_policy(record: Record) -> Attributes:
    return {"guardproxy.policy": record.policy, "guardproxy.policy.version": record.policy_version}


def _proposed(record: Record, guard: str) -> SpanNames:
    target = {f"{_GUARDRAIL}.target.type": _TARGETS[record.side], f"{_GUARDRAIL}.target.subtype": "llm"}
    policy = {f"{_GUARDRAIL}.security.policy.id": record.policy}
    attributes: dict[str, Value] = {
        _OPERATION: "run_guardrail",
        f"{_GUARDRAIL}.component.name": guard,
        f"{_GUARDRAIL}.verdict.type": _VERDICTS[record.decision.action],
        f"{_GUARDRAIL}.action.type": _ENFORCED[record.outcome],
        **target,
        **policy,
    }
    if record.decision.action != "pass":
        named = ", ".join(record.decision.categories) or record.decision.cause
        attributes[f"{_GUARDRAIL}.verdict.reason"] = named
    if record.outcome == "replace":
        attributes[f"{_GUARDRAIL}.security.content.modified"] = True
    findings: list[tuple[str, Attributes]] = [
        (
            f"{_GUARDRAIL}.security.finding",
            {
                **target,
                **policy,
                f"{_GUARDRAIL}.security.risk.category": reason.category,
                f"{_GUARDRAIL}.security.risk.score": reason.probability,
            },
        )
        for reason in record.decision.reasons
    ]
    own: dict[str, Value] = {"guardproxy.shadow": record.shadow, "guardproxy.record.id": record.id}
    return SpanNames(f"run_guardrail {guard}", {**attributes, **own, **_of_policy(record)}, findings)
