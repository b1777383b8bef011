"""Check the keys of the reviewer's page."""

import re
from collections.abc import Iterator, Mapping

from guardproxy.settings.model_console import OPERATOR
from guardproxy.settings.secrets import STORE
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_SHORTEST = 16  # characters; a shorter key can be guessed


def console(root: Node, secrets: Mapping[SettingPath, str]) -> Iterator[Problem]:
    """Every mistake in `console`. `secrets` are the values of the secret settings."""
    single, keys = root.get("console", "key"), root.get("console", "keys")
    entries = keys.elements() if keys else []
    if single is not None:
        yield from _length(("console", "key"), single, secrets)
    seen = {OPERATOR} if single is not None and single.value is not None else set()
    for index, node in entries:
        yield from _entry(("console", "keys", index), node, secrets, seen)
    if seen and secrets.get(STORE, "embedded") != "embedded" and "://" not in secrets[STORE]:
        first = single or keys
        message = "has no effect without an audit store in a database; set audit.store or remove this"
        if first:
            yield Problem(first.key_position, ("console",), message)


def _entry(path: SettingPath, node: Node, secrets: Mapping[SettingPath, str], seen: set[str]) -> Iterator[Problem]:
    name = node.get("name")
    text = name.text() if name else None
    if name and text:
        if text in seen:
            yield Problem(name.position, (*path, "name"), f"{text!r} has a key already; choose another name")
        if not text.isprintable() or text != text.strip():
            yield Problem(name.position, (*path, "name"), "must be printable, without a space at either end")
        seen.add(text)
    given = [option for key in ("key", "hash") if (option := node.get(key)) and option.value is not None]
    if len(given) != 1:
        yield Problem(node.position, path, "needs either key or hash")
    hashed = node.get("hash")
    if hashed and hashed.text() is not None and not _SHA256.fullmatch(hashed.text() or ""):
        message = 'must be 64 hex digits; printf %s "$KEY" | sha256sum prints them'
        yield Problem(hashed.position, (*path, "hash"), message)
    if key := node.get("key"):
        yield from _length((*path, "key"), key, secrets)


def _length(path: SettingPath, node: Node, secrets: Mapping[SettingPath, str]) -> Iterator[Problem]:
    if path in secrets and len(secrets[path]) < _SHORTEST:
        message = f"the key has fewer than {_SHORTEST} characters; openssl rand -hex 24 prints a better one"
        yield Problem(node.position, path, message)
