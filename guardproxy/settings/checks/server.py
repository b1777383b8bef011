"""Check where the proxy and the operators' paths are served."""

import re
from collections.abc import Iterator

from guardproxy.settings.checks.tls import server_tls
from guardproxy.settings.model_server import AdminSettings, ServerSettings
from guardproxy.settings.yaml_tree import Node, Problem

_HOST_PATTERN = re.compile(r"[\w.*-]+|\[[0-9a-f:.]+\]", re.IGNORECASE)
_ORIGIN_PATTERN = re.compile(r"\*|null|[a-z*][a-z0-9+.-]*://([\w.*-]+|\[[0-9a-f:.]+\])(:[0-9*]+)?/?", re.IGNORECASE)


def server(root: Node) -> Iterator[Problem]:
    """Every mistake in `server`."""
    yield from _hosts(root, "server")
    for place in (("server", "origins"), ("server", "cors", "origins")):
        origins = root.get(*place)
        for index, node in origins.elements() if origins else []:
            if node.text() and not _ORIGIN_PATTERN.fullmatch(node.text() or ""):
                message = "must be scheme://host or scheme://host:port, such as https://app.example.com"
                yield Problem(node.position, (*place, index), message)
    yield from server_tls(root, ("server", "tls"))


def admin(root: Node) -> Iterator[Problem]:
    """Every mistake in `admin`."""
    section = root.get("admin")
    if section is None or section.value is None:
        return
    yield from _hosts(root, "admin")
    own, proxys = root.get("admin", "port"), root.get("server", "port")
    port = AdminSettings().port if own is None else own.number()
    if port and port == (ServerSettings().port if proxys is None else proxys.number()):
        yield Problem((own or section).position, ("admin", "port"), "is the port of the proxy; choose another")
    yield from server_tls(root, ("admin", "tls"))


def _hosts(root: Node, section: str) -> Iterator[Problem]:
    hosts = root.get(section, "hosts")
    for index, node in hosts.elements() if hosts else []:
        if node.text() and not _HOST_PATTERN.fullmatch(node.text() or ""):
            message = "must be a host name without scheme and port, such as chat.example.com"
            yield Problem(node.position, (section, "hosts", index), message)
