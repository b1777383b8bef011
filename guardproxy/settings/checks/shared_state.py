"""Check the section `shared_state`: the address of the server, the secret, and how long values stay."""

import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from guardproxy.durations import duration_s
from guardproxy.settings.checks import tls
from guardproxy.settings.secrets import SHARED_SECRET, SHARED_URL
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
_LEAST_SECRET = 32  # characters: 128 bits in hex
_SCHEMES = ("redis", "rediss", "unix")


def shared_state(root: Node, secrets: Mapping[SettingPath, str]) -> Iterator[Problem]:
    """Every mistake in the section; `secrets` are the values of the secret settings."""
    section = root.get("shared_state")
    if section is None:
        return
    url = section.get("url")
    address = secrets.get(SHARED_URL)
    if url is not None and not url.reported and address and (message := _address_error(address)):
        yield Problem(url.position, SHARED_URL, message)
    secret = section.get("secret")
    if secret is not None and len(secrets.get(SHARED_SECRET, "x" * _LEAST_SECRET)) < _LEAST_SECRET:
        message = f"has fewer than {_LEAST_SECRET} characters; `openssl rand -hex 32` makes a good one"
        yield Problem(secret.position, SHARED_SECRET, message)
    namespace = section.get("namespace")
    if namespace is not None and (text := namespace.text()) and not _NAME.fullmatch(text):
        message = "may have letters, digits, dots, dashes and underscores, at most 64"
        yield Problem(namespace.position, ("shared_state", "namespace"), message)
    yield from _durations(section)
    yield from tls.upstream_tls(section, ("shared_state",))
    options = section.get("tls")
    if options is not None and options.value is not None and address and not address.startswith("rediss:"):
        message = "has no effect, because the address does not begin with rediss://; remove it"
        yield Problem(options.key_position, ("shared_state", "tls"), message)


def _durations(section: Node) -> Iterator[Problem]:
    for key in ("keep_verdicts", "keep_replies"):
        node = section.get(key)
        text = node.text() if node else None
        if node is None or not text:
            continue
        try:
            message = None if duration_s(text) >= 1 else "must be at least 1s"
        except ValueError as error:
            message = str(error)
        if message:
            yield Problem(node.position, ("shared_state", key), message)


def _address_error(text: str) -> str | None:
    """Why a value cannot be the address, or None. Never shows it: it may hold a password."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return "is no address; write redis://host:6379"
    if parts.scheme not in _SCHEMES:
        return "must begin with redis://, rediss:// or unix://, such as redis://host:6379"
    if parts.query or parts.fragment:
        return "may have no options behind ? or #; write them below shared_state"
    if parts.scheme == "unix":
        return None if parts.path.startswith("/") and not parts.hostname else "must be unix:///path of a socket"
    if not parts.hostname or port == 0:
        return "needs a host, such as redis://host:6379"
    database = parts.path.strip("/")
    return None if not database or database.isdecimal() else "has a path that is no number of a database, such as /0"
