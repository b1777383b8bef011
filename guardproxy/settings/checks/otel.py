"""Check the address of the collector and the names of its headers."""

import re
from collections.abc import Iterator

from guardproxy.settings.checks.upstream import url_error
from guardproxy.settings.yaml_tree import Node, Problem

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def otel(root: Node) -> Iterator[Problem]:
    """Every mistake in `otel`."""
    node = root.get("otel", "endpoint")
    text = node.text() if node else None
    if node and text:
        message = url_error(text)
        if re.search(r"/v1/(traces|metrics|logs)/?$", text):
            message = "is the address of one signal; write the base address, such as http://localhost:4318"
        if message:
            yield Problem(node.position, ("otel", "endpoint"), message)
    headers = root.get("otel", "headers")
    for name, header in headers.entries() if headers else ():
        if not _HEADER_NAME.fullmatch(name):
            yield Problem(header.position, ("otel", "headers", name), "is not a valid header name")
