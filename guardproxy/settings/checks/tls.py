"""Check certificates, their keys and lists of authorities: the files themselves, as a start would read them."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from guardproxy.settings.yaml_tree import Node, Problem, SettingPath, dotted


def server_tls(root: Node, path: SettingPath) -> Iterator[Problem]:
    """Every mistake in the certificate of a listener, whose section is at `path`."""
    section = root.get(*path)
    yield from _pair(section, path, ssl.PROTOCOL_TLS_SERVER)
    yield from _authorities(section, path, "client_ca")


def upstream_tls(section: Node, above: SettingPath) -> Iterator[Problem]:
    """Every mistake in the `tls` of an upstream or a receiver of alerts, which is at the path `above`."""
    path = (*above, "tls")
    authorities, verify = section.get("tls", "ca"), section.get("tls", "verify")
    if authorities and authorities.value is not None and verify and verify.value is False:
        yield Problem(authorities.position, (*path, "ca"), "has no effect with verify: false; remove either")
    for name, other in (("cert", "key"), ("key", "cert")):
        node, beside = section.get("tls", name), section.get("tls", other)
        if node and node.text() and (beside is None or beside.value is None):
            yield Problem(node.position, (*path, name), f"needs {dotted((*path, other))} beside it")
    yield from _pair(section.get("tls"), path, ssl.PROTOCOL_TLS_CLIENT)
    yield from _authorities(section.get("tls"), path)


def _pair(section: Node | None, path: SettingPath, protocol: int) -> Iterator[Problem]:
    """The mistakes in the files `cert` and `key` of a section, which is at `path`; none if either is not named."""
    named = {name: section.get(name) for name in ("cert", "key")} if section else {}
    nodes = {name: node for name, node in named.items() if node and node.text()}
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


def _authorities(section: Node | None, path: SettingPath, name: str = "ca") -> Iterator[Problem]:
    node = section.get(name) if section else None
    file = node.text() if node else None
    if node and file and (message := _unread(file) or _certificates(file, first_only=False)):
        yield Problem(node.position, (*path, name), message)


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
