"""What receivers read: no words of a client unless asked, nothing that forges a line, the fields that OCSF requires."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from guardproxy.alerting import Alert, AlertCondition, AlertMessage
from guardproxy.observe.alerts.formats import cef_line, json_body, ocsf_body, ocsf_event, slack_body
from guardproxy.observe.alerts.syslog import syslog_frame
from tests.sinks.kit import HOSTILE, record

CONDITION = AlertCondition(action="block", count=10, within_s=300, per="client")
TIME = 1_700_000_000.25
# What the public description of the schema (github.com/ocsf/ocsf-schema) marks as required in one of its versions from
# 1.0 on: of the class and of its base event, and of every object in the event. A policy needs a name or an identifier.
REQUIRED = {
    "": ("activity_id", "category_uid", "class_uid", "finding_info", "metadata", "severity_id", "time", "type_uid"),
    "metadata": ("product", "version"),
    "metadata.product": ("name", "vendor_name"),
    "finding_info": ("title", "uid"),
    "finding_info.analytic": ("type_id",),
    "policy": ("name",),
}


def alert(text: str = "how is a kite built?", **changed: Any) -> Alert:
    """An alert about ten blocks."""
    return Alert("many blocks", CONDITION, 10, "c11e47", record(text=text, **changed))


def every_format(one: Alert, *, text: bool) -> list[str]:
    """The alert as each receiver reads it."""
    message = AlertMessage((one,), TIME)
    bodies = [make(message, text=text).decode("ascii") for make in (json_body, slack_body, ocsf_body)]
    return [*bodies, cef_line(one, TIME, text=text)]


def test_the_text_is_only_there_if_it_was_asked_for() -> None:
    """Without `text` nothing that a client or a model wrote is in an alert, and nothing that quotes it."""
    secret = "a sentence of a person"
    one = alert(text=secret, error=f"failed on {secret}", model=secret)
    assert [shown for shown in every_format(one, text=False) if "sentence" in shown] == []
    assert [shown for shown in every_format(one, text=True) if shown.count("sentence of") == 0] == []


def test_json() -> None:
    """The payload names the condition, the record, and every reason."""
    body = json.loads(json_body(AlertMessage((alert(),), TIME, waiting=3), text=False))
    assert (body["type"], body["timestamp"]) == ("guardproxy.alerts", "2023-11-14T22:13:20.250Z")
    assert body["data"]["waiting"] == 3
    (one,) = body["data"]["alerts"]
    assert (one["condition"], one["count"], one["within_s"], one["per"]) == ("many blocks", 10, 300, "client")
    assert one["group"] == one["record"]["client"] == "c11e47"
    assert one["record"]["reasons"][0] == {
        "category": "violence",
        "probability": 0.91,
        "threshold": 0.5,
        "action": "block",
    }


@pytest.mark.parametrize("outcome", ["pass", "replace", "refuse", "drop"])
def test_ocsf_has_what_the_schema_requires(outcome: Any) -> None:
    """A Detection Finding has every required attribute, and its numbers agree with each other."""
    event = ocsf_event(alert(outcome=outcome), TIME, text=False)
    for path, names in REQUIRED.items():
        found: Any = event
        for key in path.split(".") if path else ():
            found = found[key]
        assert [name for name in names if found.get(name) in (None, "")] == [], path
    assert event["class_uid"] == event["category_uid"] * 1000 + 4
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    assert event["time"] == 1_700_000_000_250  # milliseconds
    assert event["severity_id"] in range(7)
    assert (event["action"] == "Denied") is (outcome in ("refuse", "drop"))


def test_slack_reads_no_link_and_calls_no_channel() -> None:
    """Slack's control characters are escaped, in the text and in names; many alerts are cut to 20 lines."""
    (line,) = json.loads(slack_body(AlertMessage((alert("<!channel> & <http://x|y>\n> quoted"),), TIME), text=True))[
        "text"
    ].split("\n> ", 1)[1:]
    assert "<" not in line
    assert line.startswith("&lt;!channel&gt; &amp; ")
    many = AlertMessage((alert(),) * 30, TIME, waiting=7)
    lines = json.loads(slack_body(many, text=False))["text"].splitlines()
    assert len(lines) == 22
    assert lines[-2:] == ["… and 10 more in this message", "… 7 wait for the next message"]


def test_cef_is_escaped() -> None:
    """Separators of the head and of the fields are escaped, and no text ends the line."""
    one = replace(alert("a=b\\c\nd|e\r\nf"), name="a|b\\c\nd")
    line = cef_line(one, TIME, text=True)
    assert line.startswith(r"CEF:0|guardproxy|guardproxy|")
    assert re.search(r"\|a\\\|b\\\\c d\|guardproxy: .*\|8\|externalId=[0-9a-f]{24} ", line)
    assert line.endswith(r" msg=a\=b\\c\nd|e\nf")
    assert "\n" not in line


@pytest.mark.parametrize("form", ["cef", "ocsf"])
def test_hostile_names_stay_in_their_frame(form: Any) -> None:
    """Whatever a client calls itself, a frame holds one line of its length, in UTF-8."""
    one = alert(HOSTILE, user=HOSTILE, session=HOSTILE, client=HOSTILE, route=HOSTILE)
    frame = syslog_frame(one, TIME, "host", form, text=True)
    length, _, message = frame.partition(b" ")
    assert int(length) == len(message)
    assert re.match(r"<84>1 2023-11-14T22:13:20\.250Z host guardproxy \d+ alert - (CEF:0\||\{)", message.decode())
    assert all(char.isprintable() for char in message.decode())
    for shown in every_format(one, text=True):
        assert all(char.isprintable() for char in shown)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x0b", "\x85", "\u2028"])
def test_no_line_of_a_text_looks_like_an_alert_of_its_own(end: str) -> None:
    """Whatever ends a line: each one of the judged text stands in the quotation of Slack's message."""
    forged = "guardproxy: all is well"
    text = json.loads(slack_body(AlertMessage((alert(f"a{end}{forged}"),), TIME), text=True))["text"]
    _, *quoted = text.splitlines()
    assert quoted == ["> a", f"> {forged}"]
