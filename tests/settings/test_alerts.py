"""The section `alerts`: every mistake with its place, and what a valid section says."""

import pytest

from guardproxy.alerting import AlertCondition
from tests.settings.kit import mistakes, read

ENV = {"SECRET": f"{'A' * 43}=", "WHSEC": f"whsec_{'A' * 32}", "SHORT": "c2hvcnQ=", "HOOK": "https://hooks.test/T/B/x"}
CONDITIONS = "conditions: {a: {action: block}}"
HOOK = 'webhook: "https://hooks.test/x"'
SIGNED = f'{HOOK}, secret: "${{env:SECRET}}"'

PLANTED = """\
alerts:
  conditions:
    a: {action: blok, category: [violence_hat, unsafe], policy: strict}
    b: {action: [block, x], count: 10, per: client}
    c: {side: user}
    d: {score: 0.8, within_s: 300, per: client, route: nowhere}
    e: {category: 5, cause: guard_error, client: []}
    unused: {action: block}
  receivers:
    ops: {webhook: "hooks.test/x", conditions: [a, b, zz], format: cef}
    p: {webhook: "http://hooks.test/x", secret: "${env:NOPE}", conditions: [c, d]}
    q: {webhook: "${env:NO_HOOK}", secret: "abc", conditions: [e]}
    r: {syslog: "http://x", format: json, secret: "${env:SHORT}", conditions: [a], tls: {ca: /nope}}
    s: {webhook: "https://x.test/y", secret: "${env:SHORT}", conditions: [a], every_s: -1}
    t: {conditions: [a], webhook: "https://x.test/y", syslog: x}
"""
FOUND = """\
3:17: alerts.conditions.a.action: must be one of pass, flag, rewrite, block, not "blok"; did you mean block?
3:34: alerts.conditions.a.category[0]: unknown category 'violence_hat'; did you mean violence_hate?
3:65: alerts.conditions.a.policy: unknown policy 'strict'; known: default
4:25: alerts.conditions.b.action[1]: must be one of pass, flag, rewrite, block, not "x"
4:36: alerts.conditions.b.count: needs within_s beside it: within how many seconds
5:8: alerts.conditions.c: every such turn would be an alert; write what it is about, such as action: block
6:21: alerts.conditions.d.within_s: has no effect without a count of at least 2; write count, or remove this
6:36: alerts.conditions.d.per: has no effect without a count of at least 2; write count, or remove this
6:56: alerts.conditions.d.route: unknown route 'nowhere'; known: default
7:19: alerts.conditions.e.category: must be a string, not 5; quote it
7:50: alerts.conditions.e.client: must not be empty
8:5: alerts.conditions.unused: no receiver is told of it; name it in the conditions of one, or remove it
10:10: alerts.receivers.ops.secret: is missing: the receiver could not tell who sent an alert; write ${env:NAME}; \
`openssl rand -base64 32` prints one
10:20: alerts.receivers.ops.webhook: must be https://host[:port]/path
10:55: alerts.receivers.ops.conditions[2]: unknown condition 'zz'; known: a, b, c, d, e, unused
10:68: alerts.receivers.ops.format: must be one of json, slack, ocsf for a webhook
11:18: alerts.receivers.p.webhook: must be https://host[:port]/path: over http everybody in the network reads the \
alerts; only a loopback address may have http
11:49: alerts.receivers.p.secret: environment variable NOPE is not set
12:18: alerts.receivers.q.webhook: environment variable NO_HOOK is not set
12:44: alerts.receivers.q.secret: a secret does not belong in the file; write ${env:NAME} and set that variable
13:17: alerts.receivers.r.syslog: must be host or host:port, such as siem.example.com:6514
13:37: alerts.receivers.r.format: must be one of cef, ocsf for a syslog
13:43: alerts.receivers.r.secret: has no effect: only a webhook with the format json or ocsf is signed; remove this
13:94: alerts.receivers.r.tls.ca: /nope: cannot be read: No such file or directory; name a PEM file that guardproxy \
may read
14:46: alerts.receivers.s.secret: must be base64 of 24 to 64 bytes, also behind whsec_; `openssl rand -base64 32` \
prints one
14:88: alerts.receivers.s.every_s: must be at least 0, not -1
15:8: alerts.receivers.t: needs either webhook or syslog
"""


def test_every_mistake_is_reported_at_once() -> None:
    """With its line and column, in the order of the file."""
    assert mistakes(PLANTED, ENV) == FOUND.splitlines()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"alerts: {{{CONDITIONS}}}", "alerts.receivers: is missing"),
        (f"alerts: {{{CONDITIONS}, receivers: {{}}}}", "alerts.receivers: must not be empty"),
        (f"alerts: {{conditions: {{}}, receivers: {{r: {{{SIGNED}}}}}}}", "alerts.conditions: must not be empty"),
        (f"alerts: {{{CONDITIONS}, receivers: {{r: 5}}}}", "alerts.receivers.r: must be a mapping, not 5"),
        (f"alerts: {{{CONDITIONS}, receivers: {{r: {{}}}}}}", "alerts.receivers.r: needs either webhook or syslog"),
        (
            f"audit: {{text: none}}\nalerts: {{{CONDITIONS}, receivers: {{r: {{{SIGNED}, text: true}}}}}}",
            "alerts.receivers.r.text: has no effect with audit.text: none",
        ),
        (
            f'alerts: {{{CONDITIONS}, receivers: {{r: {{webhook: "https://u@h.test/x", format: slack}}}}}}',
            "webhook: must be https://host[:port]/path, without a user, a fragment or a space",
        ),
        (
            f"alerts: {{{CONDITIONS}, receivers: {{r: {{syslog: 'a.test:x'}}}}}}",
            "alerts.receivers.r.syslog: must be host or host:port",
        ),
        (f"alerts: {{conditions: {{a: {{action: block, count: 1001, within_s: 5}}}}, receivers: {{r: {{{SIGNED}}}}}}}",
         "alerts.conditions.a.count: must be at most 1000, not 1001"),
    ],
)  # fmt: skip
def test_a_mistake(text: str, message: str) -> None:
    """One mistake is one message."""
    (found,) = mistakes(text, ENV)
    assert message in found


def test_no_address_of_a_webhook_is_shown() -> None:
    """It may hold a secret, whether it stands in the file or in a variable."""
    one, two = (f'{{webhook: "{url}", format: slack}}' for url in ("${env:HOOK}", "ftp://h.test/key"))
    receivers = f"receivers: {{r: {one}, s: {two}}}"
    found = mistakes(f"alerts: {{{CONDITIONS}, {receivers}}}", {"HOOK": "http://h.test/T/key"})
    assert len(found) == 2
    assert "key" not in "".join(found)


def test_a_valid_section() -> None:
    """Names alone or in lists; the address and the secret come from the environment and are not shown."""
    settings = read(
        """\
routes: [{name: team, policy: default, when: {path: "/v1/*"}}]
alerts:
  conditions:
    harm: {category: suicide_self_harm, score: 0.8, side: user, route: [team, default]}
    many: {action: [block, rewrite], count: 10, within_s: 300, per: client}
    blind: {cause: [guard_error, overload], count: 2, within_s: 60}
  receivers:
    chat: {webhook: "${env:HOOK}", format: slack, conditions: [harm, many]}
    ops: {webhook: "http://127.0.0.1:9/x", secret: "${env:WHSEC}"}
    siem: {syslog: "[::1]:6514", format: ocsf, text: true}
""",
        ENV,
    )
    assert settings.alerts is not None
    assert settings.alerts.conditions["harm"] == AlertCondition(
        category="suicide_self_harm", score=0.8, side="user", route=("team", "default")
    )
    assert settings.alerts.receivers["chat"].webhook == ENV["HOOK"]
    assert settings.alerts.receivers["ops"].secret == ENV["WHSEC"]
    assert ENV["HOOK"] not in repr(settings)
    assert ENV["WHSEC"] not in repr(settings)


def test_an_empty_section_tells_nobody() -> None:
    """It is a mistake, not a section that is left out."""
    assert mistakes("alerts:\n") == ["1:8: alerts: must not be empty; write its options, or remove it"]
    (message,) = mistakes(
        "alerts: {conditions: {a: {action: block}}, receivers: {chat: https://hooks.example/secret-part}}\n"
    )
    assert message == (
        "1:62: alerts.receivers.chat: must be a mapping, not a text; write {webhook: ADDRESS} or {syslog: HOST}"
    )


def test_slacks_address_with_another_format() -> None:
    """Slack would refuse every alert."""
    address = "https://hooks.slack.com/services/T/B/x"
    text = f"alerts: {{conditions: {{a: {{action: block}}}}, receivers: {{chat: {{webhook: '{address}', MORE}}}}}}\n"
    assert mistakes(text.replace("MORE", "format: slack")) == []
    (message,) = mistakes(text.replace("MORE", "secret: '${env:S}'"), {"S": "whsec_" + "A" * 40})
    assert message.endswith("webhook: is Slack's, which reads only its own format: format: slack")
    assert "services" not in message


def test_the_client_of_a_condition_is_one_of_clients() -> None:
    """With that section, no record has the hash of a key."""
    condition = "alerts: {conditions: {a: {action: block, client: NAME}}, receivers: {s: {syslog: siem.example}}}\n"
    section = f"clients: {{red: {{keys: [{{sha256: {'a' * 64}}}]}}}}\n"
    assert mistakes(section + condition.replace("NAME", "red")) == []
    assert mistakes(condition.replace("NAME", "0123456789abcdef")) == []
    (message,) = mistakes(section + condition.replace("NAME", "0123456789abcdef"))
    assert message.endswith("alerts.conditions.a.client: unknown client '0123456789abcdef'; known: red")
