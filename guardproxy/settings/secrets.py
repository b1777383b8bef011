"""Secrets come from the environment, written `${env:NAME}`, in the settings that may hold one and in no other."""

import re
from collections.abc import Mapping
from urllib.parse import quote

from guardproxy.settings.yaml_tree import Node, Path, Problem, dotted

KEY: Path = ("upstream", "key")
STORE: Path = ("audit", "store")

_REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]+")


def fill(root: Node, env: Mapping[str, str]) -> tuple[dict[Path, str], list[Problem]]:
    """The secret settings with their references replaced, and every reference that is missing or out of place.

    A reference that is part of a longer text (a password in an address) is percent-encoded.
    """
    filled: dict[Path, str] = {}
    problems: list[Problem] = []
    for path, node in _texts(root):
        text = node.text() or ""
        if _is_key(path) or path == STORE:
            found = _faults(path, text, env)
            if found:
                node.broken = True
            else:
                filled[path] = _replace(text, env)
        else:
            where = f"{dotted(KEY)}, {dotted(STORE)} and the service.key of a guard"
            found = [f"${{env:...}} is only for {where}"] if "${env:" in text else []
        problems += [Problem(node.mark, path, message) for message in found]
    return filled, problems


def _is_key(path: Path) -> bool:
    """Whether a setting is a key as a whole: the upstream's, or that of a guard which is a service."""
    return path == KEY or (path[:1] in (("guard",), ("guards",)) and path[-2:] == ("service", "key"))


def _texts(root: Node) -> list[tuple[Path, Node]]:
    """Every text of the tree with its path."""
    found: list[tuple[Path, Node]] = []
    waiting: list[tuple[Path, Node]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        waiting += [((*path, key), child) for key, child in node.entries()]
        waiting += [((*path, place), child) for place, child in node.items()]
        if node.text() is not None and not node.broken:
            found.append((path, node))
    return found


def _faults(path: Path, text: str, env: Mapping[str, str]) -> list[str]:
    """What is wrong with a secret setting; never its value."""
    if _is_key(path) and not _REFERENCE.fullmatch(text):
        return ["a secret does not belong in the file; write ${env:NAME} and set that variable"]
    if "${" in _REFERENCE.sub("", text):
        return ["a reference is written ${env:NAME}"]
    names = _REFERENCE.findall(text)
    missing = [f"environment variable {name} is not set" for name in names if not env.get(name)]
    if missing or not _is_key(path):
        return missing
    if not _HEADER_VALUE.fullmatch(env[names[0]]):
        return [f"environment variable {names[0]} holds a space or other character that no key may have"]
    return []


def _replace(text: str, env: Mapping[str, str]) -> str:
    alone = _REFERENCE.fullmatch(text)
    if alone:
        return env[alone[1]]
    return _REFERENCE.sub(lambda match: quote(env[match[1]], safe=""), text)
