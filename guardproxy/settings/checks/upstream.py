"""Check the address, the key and the TLS options of the upstream."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from guardproxy.settings.checks import tls
from guardproxy.settings.yaml_tree import Node, Problem

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def upstream(root: Node) -> Iterator[Problem]:
    """Every mistake in `upstream`."""
    url = root.get("upstream", "url")
    text = url.text() if url else None
    if url and text and text != "demo":
        message = url_error(text)
        if message:
            yield Problem(url.position, ("upstream", "url"), message)
    header = root.get("upstream", "key_header")
    if header and header.text() and not _HEADER_NAME.fullmatch(header.text() or ""):
        yield Problem(header.position, ("upstream", "key_header"), "is not a valid header name")
    key = root.get("upstream", "key")
    if header and (key is None or key.value is None):
        message = "has no effect without upstream.key; set the key or remove this"
        yield Problem(header.position, ("upstream", "key_header"), message)
    yield from tls.client_tls(root, ("upstream", "tls"))
    names = root.get("upstream", "response_headers")
    for index, name in names.elements() if names else ():
        if name.text() and not _HEADER_NAME.fullmatch(name.text() or ""):
            yield Problem(name.position, ("upstream", "response_headers", index), "is not a valid header name")


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
