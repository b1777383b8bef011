"""Check the section `audit`."""

import re
from collections.abc import Collection, Iterator, Mapping

from guardproxy.durations import duration_s, instant
from guardproxy.policy import ANY, UNSAFE
from guardproxy.settings.catalogue import IMPORT_STRING, Catalogue
from guardproxy.settings.messages import suggestion
from guardproxy.settings.model import CONTINUED, CREDENTIAL_HEADERS
from guardproxy.settings.secrets import CHAIN_KEY, ENCRYPT, STORE
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

# 32 bytes in base64, as `Fernet.generate_key` makes them.
_FERNET_KEY = re.compile(r"[A-Za-z0-9_-]{43}=")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLACE_PATTERN = re.compile(r"body [^\s.]+(?:\.[^\s.]+)*|header [\w!#$%&'*+.^`|~-]+", re.ASCII)


def audit(
    root: Node, catalogue: Catalogue, secrets: Mapping[SettingPath, str], categories: Collection[str] | None
) -> list[Problem]:
    """Every mistake in the section.

    `secrets` are the values of the secret settings; `categories` those that a policy may name, None if unknown.
    """
    return [
        *_store(root, catalogue, secrets),
        *_places(root),
        *_keep(root),
        *_keys(root, secrets),
        *_exclusions(root, categories),
    ]


def _store(root: Node, catalogue: Catalogue, secrets: Mapping[SettingPath, str]) -> Iterator[Problem]:
    node = root.get(*STORE)
    if node is None or node.reported or STORE not in secrets:
        return
    store = secrets[STORE]
    message = _store_error(store, catalogue)
    if message:
        yield Problem(node.position, STORE, message)
    required = root.get("audit", "required")
    if store == "none" and required and required.value is True:
        message = "cannot be true with store: none; choose a store or remove this"
        yield Problem(required.position, ("audit", "required"), message)
    in_database = store == "embedded" or store.startswith(("sqlite:", "postgresql:"))
    for key in () if in_database else ("keep", "encrypt", "chain_key"):
        if node := root.get("audit", key):
            message = "needs a store in a database: write store: embedded, or an address with sqlite or postgresql"
            yield Problem(node.key_position, ("audit", key), message)


def _store_error(store: str, catalogue: Catalogue) -> str | None:
    """Why a value cannot be `audit.store`, or None. Never shows an address: it may hold a password."""
    scheme, colon, _ = store.partition("://")
    if colon and scheme not in catalogue.stores:
        return "unknown kind of store; " + suggestion(scheme, sorted(catalogue.stores))
    if colon:
        return catalogue.store_error(store)
    if store in {"embedded", "none"}:
        return None
    if IMPORT_STRING.fullmatch(store):
        return catalogue.name_error(store, ("embedded", "none"), "store")
    return "must be embedded, none, an address such as postgresql://host/db, or module:attribute"


def _places(root: Node) -> Iterator[Problem]:
    for key in ("user", "session"):
        places = root.get("audit", key)
        elements = places.elements() if places else []
        for index, node in elements:
            place = node.text() or ""
            if key == "session" and place == CONTINUED:
                is_last = index == len(elements) - 1
                message = None if is_last else "must be the last item, because every request has such a session"
            else:
                message = _place_error(place) if place else None
            if message:
                yield Problem(node.position, ("audit", key, index), message)


def _place_error(place: str) -> str | None:
    """Why a value cannot be an item of `audit.user` or `audit.session`, or None."""
    if not _PLACE_PATTERN.fullmatch(place):
        return "must be body and a key, such as body metadata.user_id, or header and a name, such as header x-user-id"
    kind, _, name = place.partition(" ")
    if kind == "header" and name.lower() in {*CREDENTIAL_HEADERS, "cookie", "proxy-authorization"}:
        return "names a header with a credential, which no record may hold; records have the hash of the key as client"
    return None


def _keep(root: Node) -> Iterator[Problem]:
    keep = root.get("audit", "keep")
    for key, node in keep.entries() if keep else []:
        text = node.text()
        if text is None:
            continue
        try:
            duration_s(text)
        except ValueError as error:
            yield Problem(node.position, ("audit", "keep", key), str(error))


def _keys(root: Node, secrets: Mapping[SettingPath, str]) -> Iterator[Problem]:
    """The malformed keys of the store; a message never shows a key."""
    for path, key in secrets.items():
        node = root.get(*path)
        if node is None:
            continue
        if path[:2] == ENCRYPT and not _FERNET_KEY.fullmatch(key):
            message = (
                "is no key: its variable must hold what `python -c 'from cryptography.fernet import Fernet; "
                "print(Fernet.generate_key().decode())'` prints"
            )
            yield Problem(node.position, path, message)
        if path == CHAIN_KEY and len(key) < 32:
            message = "is too short for a key: its variable must hold at least 32 characters, as `openssl rand -hex 32`"
            yield Problem(node.position, path, message)


def _exclusions(root: Node, categories: Collection[str] | None) -> Iterator[Problem]:
    exclusions = root.get("audit", "exclusions")
    for index, node in exclusions.elements() if exclusions else []:
        path = ("audit", "exclusions", index)
        text, category, until = (node.child(key) for key in ("sha256", "category", "until"))
        known = None if categories is None else sorted({*categories, ANY, UNSAFE})
        if category and category.text() and known is not None and category.text() not in known:
            message = "unknown category; " + suggestion(category.text() or "", known)
            yield Problem(category.position, (*path, "category"), message)
        if text and text.text() and not _SHA256.fullmatch(text.text() or ""):
            yield Problem(text.position, (*path, "sha256"), "must be 64 hex digits in lower case, as sha256sum prints")
        if until and until.text():
            try:
                instant(until.text() or "")
            except ValueError:
                yield Problem(until.position, (*path, "until"), "must be a date or time, such as 2030-12-31")
