"""`guardproxy alerts test`: what it sends, what it says, and when it fails."""

import json
from pathlib import Path

import pytest

from guardproxy.cli import main
from tests.alerts.receiving import signed
from tests.kit import Scripted, ScriptedUpstream, free_port, serve

SECRET = f"whsec_{'A' * 32}"
CONFIG = """
version: 1
upstream: {url: "http://127.0.0.1:9", key: "${env:NOT_SET_HERE}"}
alerts:
  conditions: {blocked: {action: block}}
  receivers:
    hook: {webhook: "%s/secret-path", secret: "${env:ALERTS_SECRET}", text: true}
    siem: {syslog: "127.0.0.1:%d"}
"""


def test_each_receiver_gets_one_alert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What came back is printed; status 1 if one did not take it. Secrets of other sections need not be set."""
    file, upstream = tmp_path / "f.yaml", ScriptedUpstream([Scripted(status=204)])
    command = ["alerts", "test", "--config", str(file)]
    with serve(upstream) as url:
        file.write_text(CONFIG % (url, free_port()))
        assert main(command) == 2
        assert "ALERTS_SECRET is not set" in capsys.readouterr().err
        monkeypatch.setenv("ALERTS_SECRET", SECRET)
        assert main(command) == 1
        printed = capsys.readouterr()
        assert printed.out == f"hook: taken by {url}: HTTP 204\n"
        assert printed.err.startswith("siem: not taken: 127.0.0.1:")
        assert main([*command, "hook"]) == 0
        assert main([*command, "nobody"]) == 2
        assert "no receiver 'nobody'" in capsys.readouterr().err
    first = upstream.seen[0]
    assert (first.target, len(upstream.seen)) == ("/secret-path", 2)
    headers = {name: first.header(name) or "" for name in ("webhook-id", "webhook-timestamp", "webhook-signature")}
    assert signed(SECRET, headers, first.body)
    (alert,) = json.loads(first.body)["data"]["alerts"]
    assert (alert["condition"], alert["record"]["action"]) == ("guardproxy alerts test", "pass")


def test_without_receivers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file without them is a mistake."""
    file = tmp_path / "f.yaml"
    file.write_text("version: 1\n")
    assert main(["alerts", "test", "--config", str(file)]) == 2
    assert "has no alerts.receivers" in capsys.readouterr().err
