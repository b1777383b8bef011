"""Check the meaning of a whole document."""

import re
from collections.abc import Iterator, Mapping

from guardproxy.settings.catalogue import Catalogue
from guardproxy.settings.checks import (
    alerts,
    audit,
    clients,
    console,
    families,
    guards,
    otel,
    patterns,
    policies,
    rewrites,
    routes,
    server,
    shared_state,
    taxonomies,
    upstream,
)
from guardproxy.settings.model import Document
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath
from guardproxy.types import SIGNALS

_PATH_PATTERN = re.compile(r"[A-Z]+ /\S*")


def check(
    root: Node, document: Document | None, catalogue: Catalogue, secrets: Mapping[SettingPath, str]
) -> list[Problem]:
    """Every mistake in the meaning of a document.

    `document` holds at least the guards and taxonomies, or is None if these have mistakes of type. `secrets` are the
    values of the secret settings.
    """
    categories, problems = families.categories(root, document, catalogue)
    allowed = None if categories is None else [*dict.fromkeys((*categories, *sorted(SIGNALS)))]
    return [
        *problems,
        *server.server(root),
        *server.admin(root),
        *upstream.upstreams(root, catalogue),
        *guards.guards(root, document, catalogue, categories),
        *patterns.masked(root),
        *patterns.without_unsafe(root),
        *taxonomies.taxonomies(root),
        *_wires(root, catalogue),
        *_paths(root),
        *audit.audit(root, catalogue, secrets, allowed),
        *alerts.alerts(root, secrets, allowed),
        *console.console(root, secrets),
        *otel.otel(root),
        *shared_state.shared_state(root, secrets),
        *rewrites.on_routes(root, catalogue),
        *policies.policies(root, catalogue, allowed),
        *policies.default_policies(root, catalogue, categories),
        *clients.clients(root),
        *routes.routes(root, catalogue),
    ]


def _wires(root: Node, catalogue: Catalogue) -> Iterator[Problem]:
    wires = root.get("wires")
    seen: set[str] = set()
    for index, node in wires.elements() if wires else []:
        name = node.text()
        if not name:
            continue
        repeated = "is already listed; remove it" if name in seen else None
        message = repeated or catalogue.name_error(name, catalogue.wires, "wire")
        seen.add(name)
        if message:
            yield Problem(node.position, ("wires", index), message)


def _paths(root: Node) -> Iterator[Problem]:
    for key in ("allow", "refuse"):
        patterns = root.get("paths", key)
        for index, node in patterns.elements() if patterns else []:
            text = node.text()
            if text is not None and not _PATH_PATTERN.fullmatch(text):
                yield Problem(node.position, ("paths", key, index), "must be METHOD /path, such as GET /v1/models/**")
