"""Records for the tests of sinks."""

from dataclasses import replace
from typing import Any

from guardproxy.types import Coverage, Decision, Finding, Origin, Reason, Record, Usage, Verdict

ORIGIN = Origin("request-0", "default", "openai_chat", "http://upstream.test", "small-model", "c11e47", True)
PASSED = Decision("pass", "", ())
BLOCKED = Decision(
    "block", "", (Reason("violence", 0.91, 0.5, "block"), Reason("jailbreak", 0.62, 0.5, "flag", 0.25)), "verdict"
)
HOSTILE = "NUL \0, lone surrogates \ud800 \udfff, 🙂 \U0010ffff, \x1b[31m, \u202e, ' \" \\ % _ ; DROP TABLE"


def record(number: int = 0, **changed: Any) -> Record:
    """Return record `number`, whose time is 1,000,000 + `number`. `changed` may name fields of the origin too."""
    named = {name: changed.pop(name) for name in list(changed) if name in Origin.__dataclass_fields__}
    plain = Record(
        id=f"record-{number}",
        time=1_000_000.0 + number,
        origin=replace(ORIGIN, **{"request_id": f"request-{number}", **named}),
        side="user",
        turn=2,
        choice=0,
        policy="default",
        policy_version="0a1b2c",
        verdict=Verdict(
            0.1 + 0.2,
            (Finding("violence", 0.91, "S1"), Finding("jailbreak", 0.62, view="base64")),
            "embedded",
            "six@1",
            Usage(0.001, 0.002, 0.003, 17, 4, 3, 2),
            1e-4,
            1e-9,
        ),
        decision=BLOCKED,
        outcome="refuse",
        text="how is a kite built?",
        coverage=(Coverage("messages[2].content", "user", "text", 20, judged=True),),
        latency_s=0.01 * number,
    )
    return replace(plain, **changed)
