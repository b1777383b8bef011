"""Check the upstreams: their addresses, keys and TLS options, the groups of them, and who names them."""

import re
from collections.abc import Collection, Iterator
from urllib.parse import urlsplit

from guardproxy.settings.catalogue import Catalogue
from guardproxy.settings.checks import tls
from guardproxy.settings.messages import HEADER_NAME, suggestion
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath, dotted

_NAME = re.compile(r"[\w.-]+")
# The ends of the paths that clients append themselves.
_ENDPOINT = re.compile(
    r"/(?:chat/completions|completions|responses|embeddings|messages(?:/count_tokens)?|moderations|models(?:/[^/]*:\w+)?"
    r"|api/(?:chat|generate|embed|embeddings|tags))/*$"
)
_DEFAULT = "default"


def upstreams(root: Node, catalogue: Catalogue) -> Iterator[Problem]:
    """Every mistake in `upstream`, `upstreams` and `upstream_groups`, and in what routes say of them."""
    if (only := root.get("upstream")) is not None:
        yield from _upstream(only, ("upstream",))
        for key in ("weight", "protocols", "eject"):
            if node := only.get(key):
                message = "has no effect, because there is no other upstream; remove it, or write upstreams"
                yield Problem(node.key_position, ("upstream", key), message)
    section = root.get("upstreams")
    if section is not None and section.value == {}:
        message = "must not be empty; name a service, or remove it"
        yield Problem(section.position, ("upstreams",), message)
    if section is None or not section.entries():
        yield from _without_upstreams(root)
        return
    if only is not None:
        message = "stands beside upstreams; move it there, with the name default if routes shall need no upstream"
        yield Problem(only.key_position, ("upstream",), message)
    for name, node in section.entries():
        path: SettingPath = ("upstreams", name)
        yield from _upstream(node, path)
        yield from _named(node, path, catalogue)
    yield from _groups(root, [name for name, _ in section.entries()])
    yield from _uses(root, section)


def _without_upstreams(root: Node) -> Iterator[Problem]:
    groups = root.get("upstream_groups")
    if groups is not None and groups.entries():
        yield Problem(groups.key_position, ("upstream_groups",), "needs upstreams; name its members there")
    for path, node in _named_by_routes(root):
        yield Problem(node.position, path, "names an upstream, but there are no upstreams; add them or remove this")


def _upstream(section: Node, path: SettingPath) -> Iterator[Problem]:
    """The mistakes of one upstream, whatever its name."""
    url = section.get("url")
    text = url.text() if url else None
    if url and text and text != "demo" and (message := upstream_url_error(text, dotted((*path, "key")))):
        yield Problem(url.position, (*path, "url"), message)
    header = section.get("key_header")
    if header and header.text() and not HEADER_NAME.fullmatch(header.text() or ""):
        yield Problem(header.position, (*path, "key_header"), "is not a valid header name")
    key, client_key = section.get("key"), section.get("client_key")
    has_key = key is not None and key.value is not None
    if header and not has_key:
        message = f"has no effect without {dotted((*path, 'key'))}; set the key or remove this"
        yield Problem(header.position, (*path, "key_header"), message)
    if client_key and client_key.value is True and has_key:
        message = "has no effect, because the upstream has a key of its own; remove either"
        yield Problem(client_key.position, (*path, "client_key"), message)
    strip = section.get("strip_path")
    if strip and strip.text() and not re.fullmatch(r"(/[^/?#]+)+", strip.text() or ""):
        yield Problem(strip.position, (*path, "strip_path"), "must be the beginning of a path, such as /v1")
    yield from tls.upstream_tls(section, path)
    names = section.get("response_headers")
    for index, name in names.elements() if names else ():
        if name.text() and not HEADER_NAME.fullmatch(name.text() or ""):
            yield Problem(name.position, (*path, "response_headers", index), "is not a valid header name")


def _named(node: Node, path: SettingPath, catalogue: Catalogue) -> Iterator[Problem]:
    """The mistakes that only one of several upstreams can have."""
    yield from _name(node, path)
    if isinstance(node.value, dict) and node.get("url") is None:
        yield Problem(node.key_position, (*path, "url"), "is missing; write the address of the service")
    key, client_key = node.get("key"), node.get("client_key")
    if isinstance(node.value, dict) and key is None and (client_key is None or client_key.value is None):
        message = (
            "is missing; write key: ${env:NAME} for a key of its own, client_key: true to send it the client's keys, "
            "which may be those of another upstream, or client_key: false to send it none"
        )
        yield Problem(node.key_position, (*path, "key"), message)
    protocols = node.get("protocols")
    for index, protocol in protocols.elements() if protocols else ():
        name = protocol.text()
        if name and (message := catalogue.name_error(name, catalogue.wires, "protocol") or ""):
            yield Problem(protocol.position, (*path, "protocols", index), message)
    first, longest = node.get("eject", "first_s"), node.get("eject", "longest_s")
    if first and longest and (first.number() or 0) > (longest.number() or 0):
        message = "is less than first_s; make it the longer of both"
        yield Problem(longest.position, (*path, "eject", "longest_s"), message)


def _name(node: Node, path: SettingPath) -> Iterator[Problem]:
    if not _NAME.fullmatch(str(path[-1])):
        yield Problem(node.key_position, path, "is no name; use letters, digits, dots, underscores and hyphens")


def _groups(root: Node, names: Collection[str]) -> Iterator[Problem]:
    section = root.get("upstream_groups")
    for name, group in section.entries() if section else ():
        path: SettingPath = ("upstream_groups", name)
        yield from _name(group, path)
        if name in names:
            yield Problem(group.key_position, path, "is the name of an upstream, too; choose another")
        members, seen = group.get("members"), set[str]()
        for index, member in members.elements() if members else ():
            wanted = member.text() or ""
            if wanted and wanted not in names:
                message = f"unknown upstream {wanted!r}; {suggestion(wanted, names)}"
                yield Problem(member.position, (*path, "members", index), message)
            elif wanted in seen:
                yield Problem(member.position, (*path, "members", index), "is already listed; remove it")
            seen.add(wanted)


def _uses(root: Node, section: Node) -> Iterator[Problem]:
    """What routes name and does not exist, what nothing names, and what has no effect where it is named."""
    groups = root.get("upstream_groups")
    grouped = groups.entries() if groups else []
    known = [*(name for name, _ in section.entries()), *(name for name, _ in grouped)]
    if _DEFAULT not in known:
        message = "is missing, as an upstream or in upstream_groups; requests whose route names none need it"
        yield Problem(section.key_position, ("upstreams", _DEFAULT), message)
    named = {_DEFAULT}
    for path, node in _named_by_routes(root):
        wanted = node.text() or ""
        named.add(wanted)
        if wanted not in known:
            yield Problem(node.position, path, f"unknown upstream {wanted!r}; {suggestion(wanted, known)}")
    members: set[str] = set()
    for name, group in grouped:
        if name not in named:
            message = "is unreachable; name it in a route or remove it"
            yield Problem(group.key_position, ("upstream_groups", name), message)
        nodes = group.get("members")
        members |= {node.text() or "" for _, node in nodes.elements()} if nodes else set()
    for name, node in section.entries():
        if name not in named | members:
            message = "is unreachable; name it in a route or a group, or remove it"
            yield Problem(node.key_position, ("upstreams", name), message)
        retries = node.get("retries")
        if retries and name in members and name not in named:
            message = "has no effect, because only groups use this upstream; set attempts and repeat_after there"
            yield Problem(retries.key_position, ("upstreams", name, "retries"), message)


def _named_by_routes(root: Node) -> list[tuple[SettingPath, Node]]:
    """The upstreams that routes name, with their paths."""
    routes = root.get("routes")
    found = [(index, route.get("upstream")) for index, route in routes.elements()] if routes else []
    return [(("routes", index, "upstream"), node) for index, node in found if node is not None and node.text()]


def upstream_url_error(text: str, key: str = "upstream.key") -> str | None:
    """Why a text cannot be the base address of an upstream, or None; `key` is the setting of its key."""
    if message := url_error(text):
        return message.replace("upstream.key", key)
    if found := _ENDPOINT.search(urlsplit(text).path):
        base = text.rstrip("/")[: -len(found[0].rstrip("/"))]
        return f"ends in {found[0].rstrip('/')}, which clients append themselves; write {base}"
    return None


def url_error(text: str) -> str | None:
    """Why a text cannot be the base address of an upstream or service, or None."""
    form = "must be http(s)://host[:port][/path]"
    try:
        parts = urlsplit(text)
        is_port_zero = parts.port == 0
    except ValueError as error:
        return f"{form}: {error}"
    if parts.username or parts.password:
        return f"{form}: a user or password in an address ends up in logs; use upstream.key"
    if parts.scheme not in {"http", "https"} or not parts.hostname or is_port_zero or not text.isprintable():
        return form
    if parts.query or parts.fragment or " " in text:
        return f"{form}, without a query, fragment or space"
    return None
