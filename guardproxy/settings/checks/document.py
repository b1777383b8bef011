"""Second pass: do the names exist, can every rule be reached, does the document contradict itself?

Works on the tree and not on the document, so that one mistake of shape does not hide the mistakes of meaning.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from guardproxy.settings.checks import guards as guard_checks
from guardproxy.settings.checks import policies as policy_checks
from guardproxy.settings.schema import suggest
from guardproxy.settings.secrets import STORE
from guardproxy.settings.yaml_tree import Node, Path, Problem
from guardproxy.types import SIGNALS, Taxonomy

OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
_PATH_PATTERN = re.compile(r"[A-Z]+ /\S*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _no_fault(*names: str) -> None:
    """Nothing is wrong with a name."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The names that a document may use, from the registries.

    `options` are the options of each built-in family with their types, `services` the families that are moderation
    services with whether they have one address for everybody, `stores` the schemes of `audit.store`. `store` says what
    is wrong with an address of one of these, `own` why a `module:attribute` cannot be loaded as what it is wanted for;
    None where nothing is. `categories` gives the category ids that a guard of a family, with its options and a taxonomy
    (None: the family's own), reports; it raises ConfigError where the family does not take them, and returns None where
    only the loaded model knows. With `builtin_only` no `module:attribute` is allowed.
    """

    families: Collection[str]
    options: Mapping[str, Mapping[str, Any]]
    categories: Callable[[str, Mapping[str, Any], Taxonomy | None], Collection[str] | None]
    rewrites: Collection[str]
    wires: Collection[str]
    views: Collection[str]
    stores: Collection[str]
    services: Mapping[str, bool] = field(default_factory=dict)
    builtin_only: bool = False
    store: Callable[[str], str | None] = _no_fault
    own: Callable[[str, str], str | None] = _no_fault

    def fault(self, name: str, names: Collection[str], kind: str) -> str | None:
        """What is wrong with a name that is neither one of `names` nor a user's own `module:attribute`."""
        if name in names:
            return None
        if OWN.fullmatch(name):
            if self.builtin_only:
                return f"own code is forbidden by --builtin-only; {kind} is one of {_list(names)}"
            return self.own(name, kind)
        return f"unknown {kind} {name!r}; {suggest(name, sorted(names))}"


def check(
    root: Node, known: Catalogue, categories: Collection[str] | None, filled: Mapping[Path, str]
) -> Iterator[Problem]:
    """Every mistake in what the document means. `categories` are those of its guard, None where they are unknown."""
    yield from _upstream(root)
    yield from guard_checks.guards(root, known, categories)
    yield from _services(root, known)
    yield from _taxonomies(root)
    yield from _wires(root, known)
    yield from _paths(root)
    yield from _audit(root, known, filled)
    allowed = None if categories is None else [*categories, *sorted(SIGNALS)]
    yield from policy_checks.policies(root, known, allowed)
    yield from policy_checks.routes(root)


def _list(names: Collection[str]) -> str:
    return ", ".join(sorted(names))


def _upstream(root: Node) -> Iterator[Problem]:
    url = root.get("upstream", "url")
    text = url.text() if url else None
    if url and text and text != "demo":
        fault = url_fault(text)
        if fault:
            yield Problem(url.mark, ("upstream", "url"), fault)
    header = root.get("upstream", "key_header")
    if header and header.text() and not _HEADER_NAME.fullmatch(header.text() or ""):
        yield Problem(header.mark, ("upstream", "key_header"), "is no name of a header")
    key = root.get("upstream", "key")
    if header and (key is None or key.value is None):
        yield Problem(header.mark, ("upstream", "key_header"), "has no effect without upstream.key")
    authorities = root.get("upstream", "ca_file")
    verify = root.get("upstream", "verify")
    if authorities and verify and verify.value is False:
        yield Problem(authorities.mark, ("upstream", "ca_file"), "has no effect with verify: false")


def url_fault(text: str) -> str | None:
    """What keeps a text from being the address of an upstream."""
    form = "must be http(s)://host[:port][/path]"
    try:
        parts = urlsplit(text)
        port_fault = parts.port == 0
    except ValueError as error:
        return f"{form}: {error}"
    if parts.username or parts.password:
        return f"{form}: a user or password in an address ends up in logs; use upstream.key"
    if parts.scheme not in {"http", "https"} or not parts.hostname or port_fault or not text.isprintable():
        return form
    if parts.query or parts.fragment or " " in text:
        return f"{form}, without a query, fragment or space"
    return None


def _services(root: Node, known: Catalogue) -> Iterator[Problem]:
    """The addresses of guards that are services."""
    for path, guard in _guards(root):
        service, family = guard.get("service"), guard.get("family")
        name = family.text() if family else None
        if service is None or not name or name not in known.services:
            continue
        url = service.get("url")
        text = url.text() if url else None
        if url and text and (fault := url_fault(text)):
            yield Problem(url.mark, (*path, "service", "url"), fault.replace("upstream.key", "service.key"))
        if service.entries() and not known.services[name] and (url is None or url.value is None):
            message = f"is missing: {name} gives each customer an address of its own"
            yield Problem(service.key, (*path, "service", "url"), message)


def _guards(root: Node) -> Iterator[tuple[Path, Node]]:
    """`guard` and every one of `guards`, as far as they are there."""
    one, several = root.get("guard"), root.get("guards")
    if one is not None:
        yield ("guard",), one
    for key, node in several.entries() if several else []:
        yield ("guards", key), node


def _taxonomies(root: Node) -> Iterator[Problem]:
    own = root.get("taxonomies")
    names = [key for key, _ in own.entries()] if own else []
    used: set[str] = set()
    for path, guard in _guards(root):
        chosen = guard.get("taxonomy")
        name = chosen.text() if chosen else None
        if chosen and name:
            used.add(name)
            if name not in names:
                yield Problem(chosen.mark, (*path, "taxonomy"), f"unknown taxonomy {name!r}; " + _defined(name, names))
    for key, node in own.entries() if own else []:
        if key not in used:
            yield Problem(node.key, ("taxonomies", key), "not used: guard.taxonomy does not name it")
        categories = node.get("categories")
        yield from _ids(("taxonomies", key), categories) if categories else ()


def _defined(name: str, names: list[str]) -> str:
    return suggest(name, names) if names else "there is none under taxonomies"


def _ids(path: Path, categories: Node) -> Iterator[Problem]:
    """Ids and codes: well-formed, and each once."""
    for key in ("id", "code"):
        seen: dict[str, int] = {}
        for place, category in categories.items():
            node = category.get(key)
            text = node.text() if node else None
            if node is None or not text:
                continue
            here = (*path, "categories", place, key)
            if key == "id" and (not _IDENTIFIER.fullmatch(text) or text in {"unsafe", *SIGNALS}):
                yield Problem(node.mark, here, "must be lower-case letters, digits and _, and no reserved name")
            if text in seen:
                yield Problem(node.mark, here, f"{key} {text!r} is already that of categories[{seen[text]}]")
            seen.setdefault(text, place)


def _wires(root: Node, known: Catalogue) -> Iterator[Problem]:
    wires = root.get("wires")
    seen: set[str] = set()
    for place, node in wires.items() if wires else []:
        name = node.text()
        if not name:
            continue
        fault = "is already listed" if name in seen else known.fault(name, known.wires, "wire")
        seen.add(name)
        if fault:
            yield Problem(node.mark, ("wires", place), fault)


def _paths(root: Node) -> Iterator[Problem]:
    for key in ("allow", "refuse"):
        patterns = root.get("paths", key)
        for place, node in patterns.items() if patterns else []:
            text = node.text()
            if text is not None and not _PATH_PATTERN.fullmatch(text):
                yield Problem(node.mark, ("paths", key, place), "must be METHOD /path, such as GET /v1/models/*")


def _audit(root: Node, known: Catalogue, filled: Mapping[Path, str]) -> Iterator[Problem]:
    node = root.get(*STORE)
    if node is None or node.broken or STORE not in filled:
        return
    scheme, colon, _ = filled[STORE].partition("://")
    if colon and scheme not in known.stores:
        # Never the address itself: it may hold a password.
        yield Problem(node.mark, STORE, "unknown kind of store; " + suggest(scheme, sorted(known.stores)))
    elif colon and (unusable := known.store(filled[STORE])):
        yield Problem(node.mark, STORE, unusable)
    elif not colon and filled[STORE] not in {"embedded", "none"}:
        fault = known.fault(filled[STORE], ("embedded", "none"), "store") if OWN.fullmatch(filled[STORE]) else None
        unclear = "must be embedded, none, an address such as postgresql://host/db, or module:attribute"
        if fault or not OWN.fullmatch(filled[STORE]):
            yield Problem(node.mark, STORE, fault or unclear)
    if filled[STORE] == "none":
        required = root.get("audit", "required")
        if required and required.value is True:
            yield Problem(required.mark, ("audit", "required"), "cannot be true with store: none")
