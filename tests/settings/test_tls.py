"""Mistakes in certificates, keys and authorities, and in the section `admin`."""

from pathlib import Path

import pytest

from tests.certificates import Authority, Pair
from tests.settings.kit import RULES, mistakes, read

POLICY = f"policies: {{default: {{{RULES}}}}}\n"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority whose files are in the test's folder."""
    return Authority(tmp_path)


def of_server(pair: Pair, more: str = "") -> list[str]:
    """The mistakes of a file whose server has this certificate."""
    return mistakes(f"{POLICY}server:\n  tls:\n    cert: {pair.cert}\n    key: {pair.key}\n{more}")


def test_files_of_every_kind_are_valid(authority: Authority) -> None:
    """A certificate with its key, for every listener and for the upstream; `verify: false` with a certificate."""
    one, other = authority.issue("one"), authority.issue("other")
    both = f"{{cert: {one.cert}, key: {one.key}, client_ca: {authority.file}}}"
    upstream = f"{{cert: {other.cert}, key: {other.key}, ca: {authority.file}}}"
    text = f"{POLICY}server: {{tls: {both}}}\nadmin: {{tls: {both}}}\nupstream: {{tls: {upstream}}}\n"
    settings = read(text)
    assert settings.server.tls is not None
    assert settings.admin is not None
    assert settings.admin.tls == settings.server.tls
    assert settings.upstream.tls.ca == str(authority.file)
    assert mistakes(f"{POLICY}upstream: {{tls: {{verify: false, cert: {one.cert}, key: {one.key}}}}}") == []


def test_a_pair_that_does_not_fit(authority: Authority) -> None:
    """The key of another certificate is a mistake at the key."""
    one, other = authority.issue("one"), authority.issue("other")
    assert of_server(Pair(one.cert, other.key)) == [
        f"5:10: server.tls.key: {other.key}: is not the key of {one.cert}; name the key that belongs to it"
    ]


def test_certificates_that_are_not_valid_now(authority: Authority) -> None:
    """An expired certificate, and one that is not valid yet, are mistakes at the certificate; so are authorities."""
    pair = authority.issue("old", days=-2)
    [message] = of_server(pair)
    assert message.startswith(f"4:11: server.tls.cert: {pair.cert}: has expired on ")
    assert message.endswith("; renew it")
    [message] = mistakes(f"{POLICY}upstream: {{tls: {{ca: {pair.cert}}}}}")
    assert "upstream.tls.ca: " in message
    assert "has expired" in message
    pair.cert.write_bytes(pair.cert.read_bytes() + authority.file.read_bytes())  # one valid authority is enough
    assert mistakes(f"{POLICY}upstream: {{tls: {{ca: {pair.cert}}}}}") == []


@pytest.mark.parametrize("name", ["cert", "key", "client_ca"])
def test_files_that_cannot_be_read(authority: Authority, tmp_path: Path, name: str) -> None:
    """A missing file, a folder, an empty file and another kind of file are mistakes where they are named."""
    pair = authority.issue("one")
    files = {"cert": pair.cert, "key": pair.key, "client_ca": authority.file}
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "binary").write_bytes(b"\x00\xff" * 9)
    for file, reason in (
        ("missing", "cannot be read: No such file or directory"),
        (".", "cannot be read: Is a directory"),
        ("empty", "has no"),
        ("binary", "has no"),
    ):
        text = "".join(f"    {key}: {tmp_path / file if key == name else path}\n" for key, path in files.items())
        [message] = mistakes(f"{POLICY}server:\n  tls:\n{text}")
        assert message.startswith(f"{4 + [*files].index(name)}:"), message
        assert f"server.tls.{name}: {tmp_path / file}: {reason}" in message


def test_a_key_with_a_passphrase(authority: Authority) -> None:
    """Nothing asks for the passphrase: the key is a mistake."""
    pair = authority.issue("locked", password=b"x")
    [message] = of_server(pair)
    assert "server.tls.key: " in message
    assert "a passphrase; write it without" in message


def test_the_old_keys_of_the_upstream(authority: Authority) -> None:
    """`verify` and `ca_file` have moved; their values are checked at the new place."""
    found = mistakes(f"{POLICY}upstream: {{verify: yes, ca_file: /no/such/file}}")
    assert "2:12: upstream.verify: this key is now upstream.tls.verify; move it" in found
    assert "2:25: upstream.ca_file: this key is now upstream.tls.ca; move it" in found
    assert any('upstream.tls.verify: must be true or false, not "yes"' in message for message in found)
    assert any("upstream.tls.ca: /no/such/file: cannot be read" in message for message in found)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("admin: {port: 8080}", "2:15: admin.port: is the port of the proxy; choose another"),
        ("server: {port: 9090}\nadmin: {}", "3:8: admin.port: is the port of the proxy; choose another"),
        ("admin: {hosts: ['http://a']}", "2:17: admin.hosts[0]: must be a host name without scheme and port"),
        ("admin: {prot: 1}", "2:9: admin.prot: unknown key; did you mean port?"),
        ("admin: true", "2:8: admin: must be a mapping"),
        ("upstream: {tls: {key: /k}}", "2:23: upstream.tls.key: needs upstream.tls.cert beside it"),
        ("upstream: {tls: {ca: null, verify: false}}", ""),
        ("server: {tls: {cert: /c}}", "key: is missing"),
        ("admin:", ""),
        ("server: {port: 0}\nadmin: {port: 0}", ""),
    ],
)
def test_sections(section: str, message: str) -> None:
    """Ports that collide, names that are none, halves of pairs."""
    found = mistakes(f"{POLICY}{section}\n")
    assert not message or any(message in one for one in found), found
    assert message or found == []
