"""`guardproxy key new`: the key is what the printed hash is of."""

import re
import time
from hashlib import sha256

import pytest

from guardproxy.cli import main
from guardproxy.settings import load_text
from tests.settings.kit import NAMES


def test_the_printed_lines_are_a_configuration_for_the_printed_key(capsys: pytest.CaptureFixture[str]) -> None:
    """They can be pasted; the key itself is not in them; two keys differ."""
    assert main(["key", "new", "red-team", "--expires-in", "90d"]) == 0
    out = capsys.readouterr().out
    (key,) = re.findall(r"^  (gp-\S{43})$", out, re.MULTILINE)
    lines = out[out.index("clients:") :]
    assert key not in lines
    (client,) = load_text(lines, "f.yaml", {}, NAMES).clients or ()
    assert (client.name, client.keys[0].digest) == ("red-team", sha256(key.encode()).digest())
    assert 89 * 86_400 < (client.keys[0].expires or 0) - time.time() < 91 * 86_400
    assert main(["key", "new", "red-team"]) == 0
    other = capsys.readouterr().out
    assert key not in other
    assert "expires" not in other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a b"], "'a b' is no name for a client"),
        (["../x"], "is no name for a client"),
        (["x", "--expires-in", "soon"], "--expires-in: 'soon' is no duration"),
        (["x", "--expires-in", "999999999w"], "--expires-in: "),
        (["x", "--expires-in", "0d"], "--expires-in: the key would have ended already"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that no configuration may have, and a duration that is none, print no key."""
    assert main(["key", "new", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
