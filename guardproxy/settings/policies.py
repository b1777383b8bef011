"""A valid document's policies, routes and taxonomies as the objects that the other rooms work with."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from guardproxy.policy import (
    UNSAFE,
    OnFailure,
    Policy,
    PolicySet,
    Route,
    Rule,
    SideRules,
)
from guardproxy.settings.model import Document, GuardSettings
from guardproxy.settings.model_policy import CategoryRules, OnOpaque, PolicySettings, RouteSettings
from guardproxy.types import Category, Side, Taxonomy


def fingerprint(content: Any) -> str:
    """The first 12 hex digits of the SHA-256 of a part of a document: of what it says, not of how it is laid out."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def policy_set(document: Document, content: Mapping[str, Any], version: str) -> PolicySet:
    """The policies and routes of a document. `content` holds its policies as they stand in the file."""
    policies = {name: _policy(name, one, fingerprint(content[name])) for name, one in document.policies.items()}
    return PolicySet(policies, tuple(_route(one) for one in document.routes), version)


def taxonomy(document: Document, guard: GuardSettings) -> Taxonomy | None:
    """The taxonomy that a guard is to judge by; None where it is the family's own."""
    name = guard.taxonomy
    if name is None or name not in document.taxonomies:
        return None
    listed = document.taxonomies[name].categories
    categories = tuple(Category(one.id, one.name, one.description, one.code, one.examples) for one in listed)
    return Taxonomy(name, categories)


def _policy(name: str, given: PolicySettings, version: str) -> Policy:
    return Policy(
        name=name,
        version=version,
        user=_side(given.user, given.unsafe),
        assistant=_side(given.assistant, given.unsafe),
        on_guard_error=given.on_guard_error,
        on_overload=given.on_overload,
        on_opaque=_opaque(given.on_opaque),
        judge=given.judge,
        history=given.history.unsafe_turns,
        block=given.block,
        rewrite=given.rewrite,
        stream=given.stream,
        views=given.views,
    )


def _side(given: Mapping[str, CategoryRules], unsafe: CategoryRules | None) -> SideRules:
    rules = {category: _rules(one) for category, one in given.items()}
    if unsafe is not None:
        rules.setdefault(UNSAFE, _rules(unsafe))
    return SideRules(rules)


def _rules(given: CategoryRules) -> tuple[Rule, ...]:
    """The thresholds that are given, mildest action first."""
    rules = []
    if given.flag is not None:
        rules.append(Rule("flag", given.flag))
    if given.rewrite is not None:
        rules.append(Rule("rewrite", given.rewrite.at, given.rewrite.how))
    if given.block is not None:
        rules.append(Rule("block", given.block))
    return tuple(rules)


def _opaque(given: OnFailure | OnOpaque) -> dict[Side, OnFailure]:
    if isinstance(given, OnOpaque):
        return {"user": given.user, "assistant": given.assistant}
    return {"user": given, "assistant": given}


def _route(given: RouteSettings) -> Route:
    when = given.when
    return Route(
        name=given.name,
        policy=given.policy,
        path=when.path or "*",
        model=when.model or "*",
        client=when.client or "*",
        header=next(iter(when.header.items())) if when.header else None,
        shadow=given.shadow,
    )
