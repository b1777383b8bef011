"""Check the section `clients`: names, keys, and when they end."""

import re
from collections.abc import Iterator

from guardproxy.access import CLIENT_NAME
from guardproxy.durations import instant
from guardproxy.settings.messages import suggestion
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

_SHA256 = re.compile(r"[0-9a-f]{64}")


def clients(root: Node) -> Iterator[Problem]:
    """Every mistake in the section."""
    section = root.get("clients")
    owners: dict[str, str] = {}
    seen: dict[str, str] = {}
    for name, client in section.entries() if section else []:
        path: SettingPath = ("clients", name)
        if not CLIENT_NAME.fullmatch(name):
            message = "is no name for a client: use letters, digits, dots, dashes and underscores, at most 64"
            yield Problem(client.key_position, path, message)
        if other := seen.get(name.casefold()):
            message = f"differs from {other} by case alone, which routes do not tell apart; choose another name"
            yield Problem(client.key_position, path, message)
        seen[name.casefold()] = name
        known = _upstreams(root)
        upstream_keys = client.get("upstream_keys")
        for upstream, node in upstream_keys.entries() if upstream_keys else []:
            if upstream not in known:
                message = f"unknown upstream {upstream!r}; {suggestion(upstream, known)}"
                yield Problem(node.key_position, (*path, "upstream_keys", upstream), message)
        keys = client.get("keys")
        for index, key in keys.elements() if keys else []:
            yield from _key((*path, "keys", index), name, key, owners)


def _upstreams(root: Node) -> list[str]:
    """The names of the upstreams; a single one is called default."""
    section = root.get("upstreams")
    return [name for name, _ in section.entries()] if section else ["default"]


def _key(path: SettingPath, client: str, key: Node, owners: dict[str, str]) -> Iterator[Problem]:
    """The mistakes of a key. `owners` are the clients of the hashes before it. No message shows what may be a key."""
    digest, expires = key.get("sha256"), key.get("expires")
    text = digest.text() if digest else None
    if digest and text and not _SHA256.fullmatch(text):
        message = "must be the SHA-256 of the key, 64 hex digits in lower case, as guardproxy key new NAME prints it"
        yield Problem(digest.position, (*path, "sha256"), message)
    elif digest and text and text in owners:
        owner = "this client" if owners[text] == client else owners[text]
        yield Problem(
            digest.position, (*path, "sha256"), f"is a key of {owner} already; every key is one client's, once"
        )
    elif text:
        owners[text] = client
    if expires and expires.text():
        try:
            instant(expires.text() or "")
        except ValueError:
            yield Problem(expires.position, (*path, "expires"), "must be a date or time, such as 2030-12-31")
