"""Records of turns about which a policy has decided."""

import random
from typing import get_args

from guardproxy import app
from guardproxy.policy import decide
from guardproxy.settings import load_text
from guardproxy.types import Coverage, Finding, Record, Side, Verdict
from tests.sinks.kit import record

OLD = """version: 1
policies:
  default:
    user:
      violence_hate: {flag: 0.3, block: 0.6}
      "*": {block: 0.7}
    assistant: {"*": {rewrite: {at: 0.8, how: redact}}}
"""
NEW = OLD.replace("block: 0.6", "block: 0.5")
CATEGORIES = ("violence_hate", "sexual_content", "criminal_planning")
SIDES: tuple[Side, ...] = get_args(Side)


def records(count: int) -> list[Record]:
    """Records of turns about which the old policy has decided."""
    source = random.Random(7)
    policy = load_text(OLD, "old.yaml", {}, app.catalogue()).policies.policies["default"]
    out: list[Record] = []
    for number in range(count):
        scores = {category: source.random() ** 2 for category in CATEGORIES}
        verdict = Verdict(max(scores.values()), tuple(Finding(*item) for item in scores.items()), "embedded", "six@1")
        side = SIDES[number % 2]
        text = f"text {number}"
        covered = (Coverage("messages[0].content", side, "text", len(text), judged=True),)
        decision = decide(policy, side, verdict)
        out.append(
            record(
                number,
                side=side,
                verdict=verdict,
                decision=decision,
                text=text,
                coverage=covered,
                client=f"{number % 3}",
            )
        )
    return out
