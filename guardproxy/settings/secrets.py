"""Secrets: `${env:NAME}` stands for an environment variable, in the few settings that may hold a secret.

Its value may be in a file instead, which the variable NAME_FILE names, as in the images of Docker's library.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from guardproxy.settings.yaml_tree import Node, Problem, SettingPath, dotted

KEY: SettingPath = ("upstream", "key")
STORE: SettingPath = ("audit", "store")
ENCRYPT: SettingPath = ("audit", "encrypt")
CHAIN_KEY: SettingPath = ("audit", "chain_key")
SHARED_URL: SettingPath = ("shared_state", "url")
SHARED_SECRET: SettingPath = ("shared_state", "secret")
_RECEIVERS = ("alerts", "receivers")
# Addresses that may hold a password: the rest of them belongs in the file.
_ADDRESSES = (STORE, SHARED_URL)

_REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
# Ways of other tools to name a variable, and a password in an address, before its host or in its query.
_OTHER_REFERENCE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?|%([A-Za-z_][A-Za-z0-9_]*)%")
_PASSWORD = re.compile(r"://[^/?#@]*?:([^/?#@]+)@|[?&]password=([^&#]+)")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]+")
_HEADER_LINE = re.compile(r"[\x20-\x7e]+")
_LONGEST = 65_536  # bytes of a file: a device such as /dev/zero has no end


@dataclass(frozen=True, slots=True)
class Secrets:
    """The values of the secret settings, with references replaced.

    `unset` are those whose environment variable is not set, `mistakes` the malformed and misplaced references.
    """

    values: Mapping[SettingPath, str]
    unset: Sequence[Problem]
    mistakes: Sequence[Problem]


class _Variables:
    """The values of environment variables, from the environment or from files. Each file is read once."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._found: dict[str, tuple[str, str]] = {}

    def get(self, name: str) -> str:
        """The value; empty if there is none."""
        return self._read(name)[0]

    def missing(self, name: str) -> str:
        """Why there is no value; empty if there is one."""
        return self._read(name)[1]

    def _read(self, name: str) -> tuple[str, str]:
        if name not in self._found:
            self._found[name] = self._looked_up(name)
        return self._found[name]

    def _looked_up(self, name: str) -> tuple[str, str]:
        value, file = self._env.get(name, ""), self._env.get(f"{name}_FILE", "")
        if value and file:
            return "", f"environment variables {name} and {name}_FILE are both set; unset one of them"
        if not file:
            return value, "" if value else f"environment variable {name} is not set"
        told = f"environment variable {name}_FILE names {file}, which"
        try:
            with Path(file).open("rb") as opened:
                content = opened.read(_LONGEST + 1)
            if len(content) > _LONGEST:
                return "", f"{told} is longer than {_LONGEST:,} bytes"
            value = content.decode().rstrip("\r\n")
        except OSError as error:
            return "", f"{told} cannot be read: {error.strerror}"
        except UnicodeDecodeError:
            return "", f"{told} is not UTF-8"
        return value, "" if value else f"{told} is empty"


def read_secrets(root: Node, env: Mapping[str, str]) -> Secrets:
    """Read the secret settings of a document. Marks settings without a value as reported.

    The value of a reference inside a longer text (a password in an address) is percent-encoded.
    """
    variables = _Variables(env)
    values: dict[SettingPath, str] = {}
    problems: list[Problem] = []
    unset: list[Problem] = []
    for path, node in _strings(root):
        text = node.text() or ""
        if _is_key(path) or path in _ADDRESSES or _is_webhook(path):
            messages = _mistakes(path, text, variables)
            missing = [] if messages else _missing(text, variables)
            unset += [Problem(node.position, path, message) for message in missing]
            if messages or missing:
                node.reported = True
            else:
                values[path] = _substituted(text, variables)
        elif "${env:" in text:
            named = ", ".join(map(dotted, (KEY, STORE, ENCRYPT, CHAIN_KEY, SHARED_URL, SHARED_SECRET)))
            allowed = (
                f"{named}, the key of each of upstreams, the upstream_keys of a client, "
                "the service.key and replicas.key of a guard, webhook and secret in alerts, "
            )
            allowed += "otel.headers and the keys of console"
            messages = [f"${{env:...}} is only allowed in {allowed}; write the value itself"]
        else:
            messages = []
        problems += [Problem(node.position, path, message) for message in messages]
    return Secrets(values, unset, problems)


def with_secrets(content: Any, secrets: Secrets) -> Any:
    """A copy of a document's plain value with the values of its secret settings, null for a key that is not set.

    Of a list of keys, those that are set stay; without any, the list is null. A header that is not set is left out. An
    address stays as the file has it.
    """
    filled = copy.deepcopy(content)
    unset = dict.fromkeys(problem.path for problem in secrets.unset if problem.path not in _ADDRESSES)
    values: dict[SettingPath, str | None] = {**unset, **secrets.values}
    for path, value in values.items():
        *above, key = path
        section = filled
        for step in above:
            section = section[step]
        if value is None and _is_header(path):
            del section[key]
        else:
            section[key] = value
    if any(path[:2] == ENCRYPT and len(path) > len(ENCRYPT) for path in unset):
        filled["audit"]["encrypt"] = [key for key in filled["audit"]["encrypt"] if key is not None] or None
    return filled


def _is_key(path: SettingPath) -> bool:
    """Whether the whole setting must be a secret: a key of an upstream, a guard, the store, the console, alerts."""
    of_guard = path[:1] in (("guard",), ("guards",)) and path[-2:] in (("service", "key"), ("replicas", "key"))
    of_console = path[:1] == ("console",) and path[-1:] == ("key",)
    of_upstream = len(path) == 3 and path[0] == "upstreams" and path[2] == "key"
    of_client = len(path) == 4 and path[0] == "clients" and path[2] == "upstream_keys"
    of_receiver = path[:2] == _RECEIVERS and path[3:] == ("secret",)
    whole = of_guard or of_console or of_upstream or of_client or of_receiver or _is_header(path)
    return whole or path in (KEY, CHAIN_KEY, SHARED_SECRET) or path[:2] == ENCRYPT


def _is_header(path: SettingPath) -> bool:
    """Whether the setting is a header of the collector's: its value may have spaces, as `Bearer ...` has."""
    return path[:2] == ("otel", "headers")


def _is_webhook(path: SettingPath) -> bool:
    """Whether the setting is the address of a receiver of alerts, which may hold a secret."""
    return path[:2] == _RECEIVERS and path[3:] == ("webhook",)


def _strings(root: Node) -> list[tuple[SettingPath, Node]]:
    """Every string of the tree with its path, less those with a reported mistake."""
    strings: list[tuple[SettingPath, Node]] = []
    pending: list[tuple[SettingPath, Node]] = [((), root)]
    while pending:
        path, node = pending.pop()
        pending += [((*path, key), child) for key, child in node.entries()]
        pending += [((*path, index), child) for index, child in node.elements()]
        if node.text() is not None and not node.reported:
            strings.append((path, node))
    return strings


def _mistakes(path: SettingPath, text: str, variables: _Variables) -> list[str]:
    """The messages about a secret setting; none of them shows its value."""
    if _is_key(path) and not _REFERENCE.fullmatch(text):
        if found := _OTHER_REFERENCE.fullmatch(text):
            return [f"names a variable in another way; write ${{env:{found[1] or found[2]}}}"]
        return ["a secret does not belong in the file; write ${env:NAME} and set that variable"]
    if "${" in _REFERENCE.sub("", text):
        return ["contains a malformed reference; write ${env:NAME}"]
    if any("${env:" not in "".join(password) for password in _PASSWORD.findall(text)):
        return ["a password does not belong in the file; write ${env:NAME} in its place and set that variable"]
    names = _REFERENCE.findall(text)
    allowed = _HEADER_LINE if _is_header(path) else _HEADER_VALUE
    if _is_key(path) and variables.get(names[0]) and not allowed.fullmatch(variables.get(names[0])):
        return [f"environment variable {names[0]} holds a space or another character that no key may have; correct it"]
    return []


def _missing(text: str, variables: _Variables) -> list[str]:
    return [message for name in _REFERENCE.findall(text) if (message := variables.missing(name))]


def _substituted(text: str, variables: _Variables) -> str:
    whole = _REFERENCE.fullmatch(text)
    if whole:
        return variables.get(whole[1])
    return _REFERENCE.sub(lambda match: quote(variables.get(match[1]), safe=""), text)
