"""What `validate` says of a file without mistakes: effects that somebody may not expect. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from guardproxy.access import Client
from guardproxy.policy import UNSAFE, Policy, Rule, SideRules
from guardproxy.settings.checks.patterns import PII
from guardproxy.settings.model import GuardSettings
from guardproxy.types import Side

_TURNS: dict[Side, str] = {"user": "requests", "assistant": "replies"}


def notes(policy: Policy) -> Iterator[str]:
    """One line for each such effect."""
    replaced = [name for name, rules in policy.user.by_category.items() if any(rule.how == "replace" for rule in rules)]
    if replaced:
        yield (
            f"requests with {', '.join(replaced)}: the model reads {policy.rewrite.replacement!r} in their place, and "
            "the client the model's answer to it; a text for the client is block.message"
        )
    for side, turns in _TURNS.items():
        for category, at, blocked in _behind_unsafe(policy.side(side)):
            yield (
                f"{turns} with {category}: rewritten from {at:g}, but `{UNSAFE}` blocks from {blocked:g}; only a text "
                "whose P(unsafe) is below that of the category is rewritten"
            )


def guard_notes(guard: GuardSettings, members: Mapping[str, GuardSettings]) -> Iterator[str]:
    """One line for each side whose guards look for personal data alone; `members` are those that `guard` combines."""
    for side, turns in _TURNS.items():
        named = guard.by_role.of(side) if guard.by_role else tuple(members)
        asked = [members[name] for name in named] or [guard]
        if all(one.family == PII for one in asked):
            yield (
                f"{turns} are read for personal data alone: rules of `{UNSAFE}` and of other harm act on nothing "
                "there; for harm as well, name another guard beside it, such as embedded; see docs/pii.md"
            )


def image_notes(policy: Policy, guards: Iterable[GuardSettings]) -> Iterator[str]:
    """One line if one of the guards reads images, and images in requests that it does not read pass."""
    setting = policy.on_opaque["user"]
    if setting in ("flag", "allow") and any("image" in guard.reads for guard in guards):
        yield (
            f"images that the guard does not read, such as remote ones and animations, pass: on_opaque is {setting}; "
            "see docs/images.md"
        )


def client_notes(clients: Iterable[Client], now: float) -> Iterator[str]:
    """One line for each client with keys that have ended at the time `now`, in seconds since 1970."""
    for client in clients:
        ended = [key for key in client.keys if key.expires is not None and key.expires <= now]
        if not ended:
            continue
        named = ", ".join(f"{key.digest.hex()[:8]}… ({_date(key.expires or 0)})" for key in ended)
        left = len(client.keys) - len(ended)
        what = "no key of it is left, so nobody can use it" if not left else "requests with them get HTTP 401"
        yield f"client {client.name}: keys that have ended: {named}; {what}"


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="minutes").removesuffix("+00:00") + "Z"


def _behind_unsafe(rules: SideRules) -> Iterator[tuple[str, float, float]]:
    """Each category with a rewrite that the block of `unsafe` mostly forestalls, and both thresholds."""
    blocks = _thresholds(rules.by_category.get(UNSAFE, ()), "block")
    for category, own in rules.by_category.items():
        for at in _thresholds(own, "rewrite") if category != UNSAFE else ():
            if blocks and at >= min(blocks):
                yield category, at, min(blocks)


def _thresholds(rules: tuple[Rule, ...], action: str) -> list[float]:
    return [rule.threshold for rule in rules if rule.action == action]
