"""Turn a valid document into the objects that the other rooms work with."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from guardproxy.access import Client, ClientKey
from guardproxy.calibration import UNCALIBRATED, Calibration
from guardproxy.durations import instant
from guardproxy.errors import ConfigError
from guardproxy.localtext import LocalText
from guardproxy.policy import (
    ANY,
    UNSAFE,
    BlockPolicy,
    OnFailure,
    Policy,
    PolicySet,
    RewritePolicy,
    Route,
    Rule,
    SideRules,
)
from guardproxy.settings.model import (
    AuditSettings,
    Document,
    GuardSettings,
    LogSettings,
)
from guardproxy.settings.model_alerts import AlertSettings
from guardproxy.settings.model_clients import ClientSettings
from guardproxy.settings.model_console import ConsoleSettings
from guardproxy.settings.model_otel import OtelSettings
from guardproxy.settings.model_paths import PathSettings
from guardproxy.settings.model_policy import (
    BlockSettings,
    OpaqueSettings,
    PolicySettings,
    RewriteTextSettings,
    RouteSettings,
    ThresholdSettings,
)
from guardproxy.settings.model_server import AdminSettings, Limits, ServerSettings
from guardproxy.settings.model_shared import SharedStateSettings
from guardproxy.settings.model_upstreams import GroupSettings, UpstreamSettings
from guardproxy.settings.yaml_tree import SettingPath
from guardproxy.types import Side, Taxonomy

DEMO = "demo"


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """A guard that `guard` combines with others; `taxonomy` is None for its family's own."""

    guard: GuardSettings
    taxonomy: Taxonomy | None


@dataclass(frozen=True, slots=True)
class Settings:
    """A valid configuration.

    `name` is the file's, or `built-in defaults`. `upstream` counts only without `upstreams`. `taxonomy` is None for the
    family's own, `wires` None for every built-in one, `apis` None for the usual ones. `members` are the guards that
    `guard.all`, `guard.cascade`, `guard.by_language` or `guard.by_role` combines, in that order, `opinion` the one that
    `audit.second_opinion` names. `version` is a hash of
    the content without secrets. `sections` are the keys at the top of the file. `unset` are the secrets whose
    environment variable is not set, with a message that has the place in the file: they are None here, and whoever
    needs one asks with `require`.
    """

    name: str
    version: str
    server: ServerSettings
    admin: AdminSettings | None
    upstream: UpstreamSettings
    upstreams: Mapping[str, UpstreamSettings]
    upstream_groups: Mapping[str, GroupSettings]
    guard: GuardSettings
    taxonomy: Taxonomy | None
    members: Mapping[str, MemberSettings]
    opinion: MemberSettings | None
    wires: tuple[str, ...] | None
    apis: tuple[str, ...] | None
    limits: Limits
    paths: PathSettings
    policies: PolicySet
    clients: tuple[Client, ...] | None
    audit: AuditSettings
    alerts: AlertSettings | None
    console: ConsoleSettings
    log: LogSettings
    otel: OtelSettings | None
    shared_state: SharedStateSettings | None
    sections: frozenset[str]
    unset: Mapping[SettingPath, str] = field(default_factory=dict)

    @property
    def by_name(self) -> Mapping[str, UpstreamSettings]:
        """Every upstream by its name; the only one is called default."""
        return self.upstreams or {"default": self.upstream}

    def with_demo(self, url: str) -> "Settings":
        """The settings with the address of the demo upstream in place of the word."""
        upstreams = {name: replace(one, url=url) if one.url == DEMO else one for name, one in self.upstreams.items()}
        only = replace(self.upstream, url=url) if self.upstream.url == DEMO else self.upstream
        return replace(self, upstream=only, upstreams=upstreams)

    def require(self, *above: str) -> None:
        """Check that every secret below a place of the file is set; without a place, every one. Raises ConfigError."""
        missing = [message for path, message in self.unset.items() if path[: len(above)] == above]
        if missing:
            raise ConfigError(missing)

    def alone(self, member: str) -> "Settings":
        """The settings with one of the guards that `guard` combines, or that of opinions, as their only guard.

        The calibration is that of the combination, so it goes.
        """
        chosen, place = self.members.get(member, self.opinion), ("guards", member)
        if chosen is None or (member not in self.members and member != self.audit.second_opinion):
            raise KeyError(member)
        own = {("guard", *path[2:]): message for path, message in self.unset.items() if path[:2] == place}
        others = {path: message for path, message in self.unset.items() if path[0] != "guard"}
        return replace(
            self,
            guard=chosen.guard,
            taxonomy=chosen.taxonomy,
            members={},
            policies=self.policies.uncalibrated(),
            unset={**others, **own},
        )


def resolve(
    name: str,
    content: Mapping[str, Any],
    document: Document,
    sections: Iterable[str],
    unset: Mapping[SettingPath, str],
) -> Settings:
    """The settings of a document. The versions are hashes of `content`: its plain value without secrets.

    `sections` are the keys of the file itself, without those that defaults have added to `content`.
    """
    version, calibration, opinion = _fingerprint(content), document.guard.calibration, document.opinion()
    # With another calibration, the same thresholds decide otherwise.
    beside = [content["guard"]["calibration"]] if calibration else []
    policies = {
        name: _policy(
            name,
            policy,
            _fingerprint([content["policies"][name], *beside] if beside else content["policies"][name]),
            calibration or UNCALIBRATED,
        )
        for name, policy in document.policies.items()
    }
    return Settings(
        name=name,
        version=version,
        server=document.server,
        admin=document.admin,
        upstream=document.upstream,
        upstreams=document.upstreams,
        upstream_groups=document.upstream_groups,
        guard=document.guard,
        taxonomy=document.taxonomy_of(document.guard),
        members={name: _member(document, one) for name, one in document.members().items()},
        opinion=_member(document, opinion) if opinion else None,
        wires=document.wires,
        apis=document.apis,
        limits=document.limits,
        paths=document.paths,
        policies=PolicySet(policies, tuple(_route(route) for route in document.routes), version),
        clients=_clients(document.clients),
        audit=document.audit,
        alerts=document.alerts,
        console=document.console,
        log=document.log,
        otel=document.otel,
        shared_state=document.shared_state,
        sections=frozenset(sections),
        unset=unset,
    )


def _member(document: Document, guard: GuardSettings) -> MemberSettings:
    return MemberSettings(guard, document.taxonomy_of(guard))


def _fingerprint(content: Any) -> str:
    """The first 12 hex digits of the SHA-256 of a plain value; layout, comments and the order of keys do not count."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _policy(name: str, policy: PolicySettings, version: str, calibration: Calibration) -> Policy:
    return Policy(
        name=name,
        version=version,
        user=_side_rules(policy.user, policy.unsafe),
        assistant=_side_rules(policy.assistant, policy.unsafe),
        tool=_tool_rules(policy),
        on_guard_error=policy.on_guard_error,
        on_overload=policy.on_overload,
        on_opaque=_by_side(policy.on_opaque),
        on_language=_by_side(policy.on_language),
        judge=policy.judge,
        history=policy.history.unsafe_turns,
        block=_block(policy.block),
        rewrite=_rewrite(policy.rewrite),
        stream=policy.stream,
        thread=policy.thread,
        sentences=policy.sentences,
        views=policy.views,
        calibration=calibration,
    )


def _block(block: BlockSettings) -> BlockPolicy:
    """What a block says; texts without places are those of all places."""
    message = block.message if isinstance(block.message, str) else BlockPolicy().message
    local = {} if isinstance(block.message, str) else block.message
    return BlockPolicy(
        block.how,
        message,
        block.finish,
        block.name_categories,
        block.closing,
        _local(local),
        (block.place_header or "").lower(),
    )


def _rewrite(rewrite: RewriteTextSettings) -> RewritePolicy:
    given = rewrite.instruction or {}
    return RewritePolicy(
        rewrite.replacement,
        rewrite.marker,
        rewrite.max_checks,
        _local({ANY: given} if isinstance(given, str) else given),
        rewrite.retry_instruction,
        rewrite.tries,
        rewrite.retry_s,
    )


def _local(texts: Mapping[str, str | Mapping[str, str]]) -> dict[str, LocalText]:
    return {name: LocalText({ANY: text} if isinstance(text, str) else text) for name, text in texts.items()}


def _side_rules(by_category: Mapping[str, ThresholdSettings], unsafe: ThresholdSettings | None) -> SideRules:
    rules = {category: _rules(thresholds) for category, thresholds in by_category.items()}
    if unsafe is not None:
        rules.setdefault(UNSAFE, _rules(unsafe))
    return SideRules(rules)


def _tool_rules(policy: PolicySettings) -> SideRules | None:
    """The rules for the results of tools, None if they are those for requests.

    With rules for "*" they stand alone, but for P(unsafe); else a category without rules has those for requests.
    """
    if not policy.tool:
        return None
    user = _side_rules(policy.user, policy.unsafe).by_category
    own = _side_rules(policy.tool, None).by_category
    inherited = {name: rules for name, rules in user.items() if ANY not in own or name == UNSAFE}
    return SideRules({**inherited, **own})


def _rules(thresholds: ThresholdSettings) -> tuple[Rule, ...]:
    """The rules of a category, mildest action first."""
    rules = []
    with_unsafe = thresholds.with_unsafe or 0.0
    if thresholds.flag is not None:
        rules.append(Rule("flag", thresholds.flag, with_unsafe=with_unsafe))
    if (rewrite := thresholds.rewrite) is not None:
        rules.append(Rule("rewrite", rewrite.at, rewrite.how, rewrite.with_unsafe or with_unsafe))
    if thresholds.block is not None:
        rules.append(Rule("block", thresholds.block, with_unsafe=with_unsafe))
    return tuple(rules)


def _by_side(setting: OnFailure | OpaqueSettings) -> dict[Side, OnFailure]:
    if isinstance(setting, OpaqueSettings):
        return {"user": setting.user, "assistant": setting.assistant}
    return {"user": setting, "assistant": setting}


def _route(route: RouteSettings) -> Route:
    when = route.when
    return Route(
        name=route.name,
        policy=route.policy,
        path=when.path or "*",
        model=when.model or "*",
        client=when.client or "*",
        header=next(iter(when.header.items())) if when.header else None,
        shadow=route.shadow,
        protocol=when.protocol or "*",
        method=when.method or "*",
        user=when.user or "*",
        may_choose=route.may_choose,
        overlap=route.overlap,
        upstream=route.upstream or "",
    )


def _clients(clients: Mapping[str, ClientSettings] | None) -> tuple[Client, ...] | None:
    if clients is None:
        return None
    return tuple(
        Client(
            name,
            tuple(
                ClientKey(bytes.fromhex(key.sha256), instant(key.expires) if key.expires else None) for key in one.keys
            ),
            one.requests_per_minute,
            one.characters_per_minute,
            {upstream: key for upstream, key in one.upstream_keys.items() if key is not None},
        )
        for name, one in clients.items()
    )
