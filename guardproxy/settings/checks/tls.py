"""Check certificates, their keys and lists of authorities: the files themselves, as a start would read them."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from guardproxy.settings.yaml_tree import Node, Problem, SettingPath, dotted


def server_tls(root: Node, path: SettingPath) -> Iterator[Problem]:
    """Every mistake in the certificate of a listener, whose section is at `path`."""
    yield from _pair(root, path, ssl.PROTOCOL_TLS_SERVER)
    yield from _authorities(root, (*path, "client_ca"))


def client_tls(root: Node, path: SettingPath) -> Iterator[Problem]:
    """Every mistake in how a server is checked to which the proxy connects; the section is at `path`."""
    authorities, verify = root.get(*path, "ca"), root.get(*path, "verify")
    if authorities and authorities.value is not None and verify and verify.value is False:
        yield Problem(authorities.position, (*path, "ca"), "has no effect with verify: false; remove either")
    for name, other in (("cert", "key"), ("key", "cert")):
        node, beside = root.get(*path, name), root.get(*path, other)
        if node and node.text() and (beside is None or beside.value is None):
            yield Problem(node.position, (*path, name), f"needs {dotted((*path, other))} beside it")
    yield from _pair(root, path, ssl.PROTOCOL_TLS_CLIENT)
    yield from _authorities(root, (*path, "ca"))


def _pair(root: Node, path: SettingPath, protocol: int) -> Iterator[Problem]:
    """The mistakes in the files `cert` and `key`; none if either is not named."""
    nodes = {name: node for name in ("cert", "key") if (node := root.get(*path, name)) and node.text()}
    files = {name: node.text() or "" for name, node in nodes.items()}
    unread = {name: message for name, file in files.items() if (message := _unread(file))}
    for name, message in unread.items():
        yield Problem(nodes[name].position, (*path, name), message)
    if unread or len(files) < 2:
        return
    if message := _certificates(files["cert"], first_only=True):
        yield Problem(nodes["cert"].position, (*path, "cert"), message)
        return
    try:
        # The password is for a key that has one: without it, OpenSSL would ask for it on the terminal.
        ssl.SSLContext(protocol).load_cert_chain(files["cert"], files["key"], password=lambda: "")
    except ssl.SSLError as error:
        message = f"{files['key']}: has no private key in PEM form, or one with a passphrase; write it without"
        if error.reason == "KEY_VALUES_MISMATCH":
            message = f"{files['key']}: is not the key of {files['cert']}; name the key that belongs to it"
        elif error.reason and "TOO_" in error.reason:
            message = f"OpenSSL refuses the certificate or its key: {error.reason}; make a stronger one"
        yield Problem(nodes["key"].position, (*path, "key"), message)


def _authorities(root: Node, path: SettingPath) -> Iterator[Problem]:
    node = root.get(*path)
    file = node.text() if node else None
    if node and file and (message := _unread(file) or _certificates(file, first_only=False)):
        yield Problem(node.position, path, message)


def _unread(file: str) -> str | None:
    """Why a file cannot be read, or None."""
    try:
        Path(file).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return f"{file}: cannot be read: {reason}; name a PEM file that guardproxy may read"
    return None


def _certificates(file: str, *, first_only: bool) -> str | None:
    """Why the certificates in a file cannot be used, or None. Of a list of authorities a single valid one is enough."""
    try:
        found = x509.load_pem_x509_certificates(Path(file).read_bytes())
    except ValueError:
        return f"{file}: has no certificate in PEM form"
    now = datetime.now(UTC)
    if first_only:
        found = found[:1]
    if all(certificate.not_valid_after_utc < now for certificate in found):
        return f"{file}: has expired on {max(one.not_valid_after_utc for one in found):%Y-%m-%d}; renew it"
    if all(certificate.not_valid_before_utc > now for certificate in found):
        return f"{file}: is not valid before {min(one.not_valid_before_utc for one in found):%Y-%m-%d %H:%M} UTC"
    return None
