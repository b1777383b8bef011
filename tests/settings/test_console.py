"""The section `console`."""

import pytest

from tests.settings.kit import RULES, mistakes, read

ENV = {"KEY": "a-key-of-24-characters--", "SHORT": "short"}
HASH = "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4"


def file(console: str, store: str = "embedded") -> str:
    """A configuration with this section."""
    return f'version: 1\npolicies: {{default: {{{RULES}}}}}\naudit: {{store: "{store}"}}\nconsole: {console}\n'


def test_keys() -> None:
    """Keys come from the environment or as hashes; the default has none, and is on."""
    console = read(
        file(f'{{keys: [{{name: a, key: "${{env:KEY}}"}}, {{name: b, role: read, hash: {HASH}}}]}}'), ENV
    ).console
    assert [(one.name, one.role, one.key, one.hash) for one in console.keys] == [
        ("a", "label", ENV["KEY"], None),
        ("b", "read", None, HASH),
    ]
    assert read("version: 1\n").console.enabled
    assert ENV["KEY"] not in repr(console)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{key: plain-text-key-in-the-file}", "a secret does not belong in the file"),
        ('{key: "${env:SHORT}"}', "fewer than 16 characters"),
        ('{key: "${env:MISSING}"}', "MISSING is not set"),
        ("{keys: [{name: a}]}", "needs either key or hash"),
        (f'{{keys: [{{name: a, key: "${{env:KEY}}", hash: {HASH}}}]}}', "needs either key or hash"),
        ("{keys: [{name: a, hash: abc}]}", "must be 64 hex digits"),
        (f"{{keys: [{{name: a, hash: {HASH}}}, {{name: a, hash: {HASH}}}]}}", "has a key already"),
        (f'{{key: "${{env:KEY}}", keys: [{{name: operator, hash: {HASH}}}]}}', "has a key already"),
        (f'{{keys: [{{name: "a ", hash: {HASH}}}]}}', "must be printable"),
        (f"{{keys: [{{name: a, role: owner, hash: {HASH}}}]}}", "role"),
    ],
)
def test_mistakes(section: str, message: str) -> None:
    """Each mistake is named; no message shows a key."""
    found = mistakes(file(section), ENV)
    assert len(found) == 1, found
    assert message in found[0]
    assert "plain-text" not in found[0]


def test_keys_need_a_store() -> None:
    """Keys without a store in a database have no effect, which is a mistake."""
    section = f"{{keys: [{{name: a, hash: {HASH}}}]}}"
    assert "without an audit store in a database" in mistakes(file(section, "none"), ENV)[0]
    assert mistakes(file(section, "sqlite:////tmp/a.sqlite3"), ENV) == []
