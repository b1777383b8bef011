"""Check the section `alerts`: conditions, receivers, and the names by which these refer to each other."""

import base64
import binascii
import ipaddress
from collections.abc import Collection, Iterator, Mapping
from urllib.parse import urlsplit

from guardproxy.policy import UNSAFE
from guardproxy.settings.checks import tls
from guardproxy.settings.messages import suggestion
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

_ABOUT = ("action", "category", "score", "cause")
_FORMATS = {"webhook": ("json", "slack", "ocsf"), "syslog": ("cef", "ocsf")}
_SLACK = "hooks.slack.com"
_GENERATE = "`openssl rand -base64 32` prints one"


def alerts(root: Node, secrets: Mapping[SettingPath, str], categories: Collection[str] | None) -> Iterator[Problem]:
    """Every mistake in the section.

    `secrets` are the values of the secret settings; `categories` those that a policy may name, None if unknown.
    """
    section = root.get("alerts")
    if section is None or not isinstance(section.value, dict):
        return
    conditions, receivers = section.get("conditions"), section.get("receivers")
    for name, node in (("conditions", conditions), ("receivers", receivers)):
        if node is not None and node.value == {}:
            yield Problem(node.position, ("alerts", name), "must not be empty; without alerts, remove the section")
    names = [name for name, _ in conditions.entries()] if conditions else []
    for name, node in conditions.entries() if conditions else ():
        yield from _condition(root, ("alerts", "conditions", name), node, categories)
    told: set[str] = set()
    for name, node in receivers.entries() if receivers else ():
        yield from _receiver(root, ("alerts", "receivers", name), node, secrets)
        wanted = node.get("conditions")
        told.update(names if wanted is None else (text for _, one in wanted.elements() if (text := one.text())))
        for index, one in wanted.elements() if wanted else ():
            if one.text() and one.text() not in names:
                message = f"unknown condition {one.text()!r}; {suggestion(one.text() or '', names)}"
                yield Problem(one.position, ("alerts", "receivers", name, "conditions", index), message)
    for name, node in conditions.entries() if conditions and receivers and receivers.value else ():
        if name not in told:
            message = "no receiver is told of it; name it in the conditions of one, or remove it"
            yield Problem(node.key_position, ("alerts", "conditions", name), message)


def _condition(root: Node, path: SettingPath, node: Node, categories: Collection[str] | None) -> Iterator[Problem]:
    if not isinstance(node.value, dict):
        return
    if not any(key in node.value for key in _ABOUT):
        message = "every such turn would be an alert; write what it is about, such as action: block"
        yield Problem(node.position, path, message)
    policies, routes, clients = root.get("policies"), root.get("routes"), root.get("clients")
    known: dict[str, Collection[str] | None] = {
        "category": None if categories is None else [*categories, UNSAFE],
        "policy": [name for name, _ in policies.entries()] if policies else ["default"],
        "route": ["default", *(_text(route, "name") for _, route in (routes.elements() if routes else ()))],
    }
    if clients is not None:
        known["client"] = [name for name, _ in clients.entries()]
    for key, names in known.items():
        for below, one in _listed(node, key):
            if names is not None and one.text() and one.text() not in names:
                message = f"unknown {key} {one.text()!r}; {suggestion(one.text() or '', names)}"
                yield Problem(one.position, (*path, key, *below), message)
    count, within = node.get("count"), node.get("within_s")
    counts = count is not None and (count.number() or 0) > 1
    if count is not None and counts and within is None:
        yield Problem(count.position, (*path, "count"), "needs within_s beside it: within how many seconds")
    for key in ("within_s", "per"):
        if (option := node.get(key)) is not None and not counts:
            message = "has no effect without a count of at least 2; write count, or remove this"
            yield Problem(option.key_position, (*path, key), message)


def _listed(node: Node, key: str) -> list[tuple[SettingPath, Node]]:
    """The names that an option lists, one or several, with the rest of their paths."""
    option = node.get(key)
    if option is None:
        return []
    return [((index,), one) for index, one in option.elements()] or [((), option)]


def _text(node: Node, key: str) -> str:
    option = node.get(key)
    return (option.text() if option else None) or ""


def _receiver(root: Node, path: SettingPath, node: Node, secrets: Mapping[SettingPath, str]) -> Iterator[Problem]:
    if not isinstance(node.value, dict):
        return
    kinds = [kind for kind in _FORMATS if kind in node.value]
    if len(kinds) != 1:
        yield Problem(node.position, path, "needs either webhook or syslog")
        return
    kind = kinds[0]
    address, form = node.get(kind), node.get("format")
    wanted = (form.text() if form else None) or _FORMATS[kind][0]
    if form and wanted not in _FORMATS[kind] and wanted in {*_FORMATS["webhook"], *_FORMATS["syslog"]}:
        yield Problem(form.position, (*path, "format"), f"must be one of {', '.join(_FORMATS[kind])} for a {kind}")
    if address is not None:
        given = secrets.get((*path, kind)) if kind == "webhook" else address.text()
        message = None if given is None else (_webhook_error(given) if kind == "webhook" else _syslog_error(given))
        if message:
            yield Problem(address.position, (*path, kind), message)
        if wanted != "slack" and given and urlsplit(given).hostname == _SLACK and not message:
            yield Problem(address.position, (*path, kind), "is Slack's, which reads only its own format: format: slack")
    yield from _secret(path, node, secrets, signs=kind == "webhook" and wanted != "slack")
    store, text = root.get("audit", "text"), node.get("text")
    if text and text.value is True and store and store.text() == "none":
        yield Problem(text.position, (*path, "text"), "has no effect with audit.text: none; remove this")
    yield from tls.upstream_tls(node, path)


def _webhook_error(url: str) -> str | None:
    """Why a text cannot be the address of a webhook, or None. Never shows the address: it may hold a secret."""
    form = "must be https://host[:port]/path"
    try:
        parts = urlsplit(url)
        has_port = parts.port != 0
    except ValueError:
        return form
    if parts.scheme not in {"http", "https"} or not parts.hostname or not has_port or not url.isprintable():
        return form
    if " " in url or parts.fragment or parts.username or parts.password:
        return f"{form}, without a user, a fragment or a space"
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        return f"{form}: over http everybody in the network reads the alerts; only a loopback address may have http"
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _syslog_error(address: str) -> str | None:
    """Why a text cannot be the address of a syslog server, or None."""
    form = "must be host or host:port, such as siem.example.com:6514"
    try:
        parts = urlsplit(f"//{address}")
        has_port = parts.port != 0
    except ValueError:
        return form
    plain = "/" not in address and "@" not in address and " " not in address and address.isprintable()
    return None if plain and parts.hostname and has_port and not (parts.query or parts.fragment) else form


def _secret(path: SettingPath, node: Node, secrets: Mapping[SettingPath, str], *, signs: bool) -> Iterator[Problem]:
    secret = node.get("secret")
    if not signs:
        if secret is not None:
            message = "has no effect: only a webhook with the format json or ocsf is signed; remove this"
            yield Problem(secret.key_position, (*path, "secret"), message)
        return
    if secret is None:
        message = f"is missing: the receiver could not tell who sent an alert; write ${{env:NAME}}; {_GENERATE}"
        yield Problem(node.position, (*path, "secret"), message)
    elif (*path, "secret") in secrets and not 24 <= _bytes_of(secrets[(*path, "secret")]) <= 64:
        message = f"must be base64 of 24 to 64 bytes, also behind whsec_; {_GENERATE}"
        yield Problem(secret.position, (*path, "secret"), message)


def _bytes_of(secret: str) -> int:
    """How many bytes a secret encodes; 0 if it is no base64."""
    try:
        return len(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
    except binascii.Error:
        return 0
