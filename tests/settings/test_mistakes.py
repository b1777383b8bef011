"""Every kind of mistake with its position and message, and all mistakes of a file at once."""

from dataclasses import replace

import pytest

from guardproxy.app import catalogue
from tests.settings.kit import NAMES, RULES, mistakes

PLANTED = """\
version: 2
server: {port: 80800, hots: x}
upstream:
  url: ftp://llm.example
  key: sk-literal
  timeouts: {connect_s: "5"}
guard: {family: classifier, options: {lables: 2}, timeout_s: 0}
policies:
  default:
    user:
      violence_hat: {block: 0.5}
      sexual_content: {block: 75}
      criminal_planning: {flag: 0.6, block: 0.5}
      suicide_self_harm: {rewrite: {at: 0.5, how: redactt}, blok: 1}
      suicide_self_harm: {block: -1}
    on_guard_error: blokc
    on_opaque: falg
    stream: {mode: hold_all, exposure: 5}
    views: [nfkd]
  strict:
    user: {"*": {rewrite: {how: redact}}}
    on_opaque: {user: blok, x: 1}
    unsafe: &a {block: 0.1}
routes:
  - {name: a, policy: strictt}
  - {name: b, policy: default, when: {path: x}}
audit: {store: "postgresql://u:${env:NOPE}@h/d"}
log: *a
"""

FOUND = """\
1:10: version: must be one of 1, not 2
2:16: server.port: must be at most 65535, not 80800
2:23: server.hots: unknown key; did you mean hosts?
4:8: upstream.url: must be http(s)://host[:port][/path]
5:8: upstream.key: a secret does not belong in the file; write ${env:NAME} and set that variable
6:25: upstream.timeouts.connect_s: must be a number, not "5"; write 5
7:39: guard.options.lables: unknown option; did you mean labels?
7:62: guard.timeout_s: must be more than 0, not 0
9:3: policies.default.assistant: has no rules, so no replies are acted on; if you mean that, write \
assistant: {"*": {}}
11:7: policies.default.user.violence_hat: unknown category 'violence_hat'; did you mean violence_hate?
12:31: policies.default.user.sexual_content.block: must be at most 1, not 75; write 0.75 for 75 %
13:33: policies.default.user.criminal_planning.flag: is unreachable, because block applies from 0.5; lower it
14:51: policies.default.user.suicide_self_harm.rewrite.how: unknown rewrite 'redactt'; did you mean redact?
14:61: policies.default.user.suicide_self_harm.blok: unknown key; did you mean block?
15:7: policies.default.user.suicide_self_harm: duplicate key, already set in line 14; keep only one
15:34: policies.default.user.suicide_self_harm.block: must be at least 0, not -1
16:21: policies.default.on_guard_error: must be one of error, block, flag, allow, not "blokc"; did you mean block?
17:16: policies.default.on_opaque: must be one of block, flag, allow, not "falg"; did you mean flag?
18:30: policies.default.stream.exposure: has no effect with mode: hold_all, because nothing is released before the \
whole reply is judged; remove it
19:13: policies.default.views[0]: unknown view 'nfkd'; did you mean nfkc?
20:3: policies.strict: is unreachable; name it in a route or remove it
21:18: policies.strict.user.*.rewrite.at: is missing
22:23: policies.strict.on_opaque.user: must be one of block, flag, allow, not "blok"; did you mean block?
22:29: policies.strict.on_opaque.x: unknown key; known: user, assistant
23:13: policies.strict.unsafe: anchor &a is not supported; remove it
25:23: routes[0].policy: unknown policy 'strictt'; did you mean strict?
26:5: routes[1]: is unreachable, because routes[0] matches all its requests; remove or reorder them
26:45: routes[1].when.path: must begin with / or *
27:16: audit.store: environment variable NOPE is not set
28:6: log: alias *a is not supported; write the value out
"""


STREAM = "policies: {default: {unsafe: {block: 0.5}, stream: {"
ENVIRONMENT = {"K": "k", "SPACED": "a b", "FERNET": f"{'A' * 43}="}
AZURE = "guard: {family: azure_content_safety, service: {key: '${env:KEY}'"


def test_every_planted_mistake_is_reported_at_once() -> None:
    """Thirty mistakes of every kind, each with its line and column, in the order of the file."""
    assert mistakes(PLANTED) == FOUND.splitlines()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ('a: "\\Uffffffff"', "not YAML: a number in an escape or directive is too large"),
        ("a: \x00", "1:4: character U+0000 is not allowed"),
        ('a: "\\ud800"', "1:4: a: contains an unpaired surrogate"),
        ("a: 1\n---\nb: 1", "2:1: a second document"),
        ("a: !!int 1", "1:4: a: tag tag:yaml.org,2002:int is not supported"),
        ("? [a]\n: 1", "1:3: a key must be a string"),
        ("<<: {a: 1}", "1:1: merge key << is not supported"),
        ("[" * 40, "nested more than 32 deep"),
        ("- 1", "1:1: must be a mapping, not a list"),
        ("just a text", '1:1: must be a mapping, not "just a text"'),
        ("server:", "1:8: server: must be a mapping, not empty"),
        ("server: {workers: 1.0}", "server.workers: must be an integer, not 1.0"),
        ("server: {host: 5}", "server.host: must be a string, not 5; quote it"),
        ('server: {host: ""}', "server.host: must not be empty"),
        ("upstream: {tls: {verify: yes}}", 'upstream.tls.verify: must be true or false, not "yes"'),
        (f"{STREAM}every: atuo}}}}}}", 'must be auto or an integer, not "atuo"; did you mean auto?'),
        (f"{STREAM}every: 0}}}}}}", "stream.every: must be at least 1, not 0"),
        (f"{STREAM}every: []}}}}}}", "stream.every: must be auto or an integer, not a list"),
        (f"{STREAM}every: 1.5}}}}}}", "stream.every: must be an integer, not 1.5"),
        (f"{STREAM}every: 9, lag: 4}}}}}}", "stream.lag: has no effect with a number for every; write every: auto"),
        (f"{STREAM}mode: monitor, lag: 4}}}}}}", "stream.lag: has no effect with mode: monitor"),
        ("wires: openai_chat", 'wires: must be a list, not "openai_chat"'),
        ("wires: [openai_chat, openai_chat]", "wires[1]: is already listed"),
        ("wires: [openai]", "wires[0]: unknown wire 'openai'; did you mean openai_chat?"),
        ("upstream: {url: 'http://u:p@h'}", "use upstream.key"),
        ("upstream: {url: 'http://h?q'}", "without a query"),
        ("upstream: {url: 'http://h:99999'}", "upstream.url: must be http(s)://host[:port][/path]: Port out of range"),
        ("upstream: {url: 'http://['}", "upstream.url: must be http(s)"),
        ("upstream: {key_header: x-key}", "has no effect without upstream.key"),
        ("upstream: {key: '${env:K}', key_header: 'a b'}", "upstream.key_header: is not a valid header name"),
        ("upstream: {response_headers: [x-a, 'x b']}", "upstream.response_headers[1]: is not a valid header name"),
        ("upstream: {tls: {verify: false, ca: a.pem}}", "has no effect with verify: false"),
        ("upstream: {key: '${env:SPACED}'}", "variable SPACED holds a space"),
        (
            "server: {host: '${env:K}'}",
            "1:16: server.host: ${env:...} is only allowed in upstream.key, audit.store, audit.encrypt",
        ),
        ("audit: {store: 'sqlite:///${oops}'}", "audit.store: contains a malformed reference; write ${env:NAME}"),
        ("audit: {store: 'mysql://h/d'}", "audit.store: unknown kind of store; known: postgresql, sqlite"),
        ("audit: {store: sqlite}", "audit.store: must be embedded, none, an address"),
        ("audit: {user: [user]}", "1:16: audit.user[0]: must be body and a key, such as body metadata.user_id"),
        ("audit: {session: [body a., body b]}", "1:19: audit.session[0]: must be body and a key"),
        ("audit: {session: [body b, 'header x y']}", "1:27: audit.session[1]: must be body and a key"),
        ("audit: {session: [conversation, body b]}", "1:19: audit.session[0]: must be the last item"),
        ("audit: {user: [body b, conversation]}", "1:24: audit.user[1]: must be body and a key"),
        ("audit: {user: [header X-Api-Key]}", "1:16: audit.user[0]: names a header with a credential"),
        ("audit: {sample_passed: 1.5}", "audit.sample_passed: must be"),
        ("audit: {after_disconnect_s: -1}", "audit.after_disconnect_s: must be"),
        ("audit: {passed: some}", "audit.passed: must be"),
        ("audit: {keep: {text: 30}}", "1:22: audit.keep.text: must be a string, not 30; quote it"),
        (
            "audit: {keep: {blocked: 1y}}",
            "1:25: audit.keep.blocked: '1y' is no duration: write a number with s, m, h, d",
        ),
        ("audit: {keep: {passed: -3d}}", "audit.keep.passed: '-3d' is no duration"),
        ("audit: {keep: {all: 3d}}", "audit.keep.all: unknown key; known: blocked, passed, text"),
        (
            "audit: {store: none, keep: {text: 3d}}",
            "1:22: audit.keep: needs a store in a database: write store: embedded",
        ),
        ("audit: {encrypt: hunter2}", "1:18: audit.encrypt: a secret does not belong in the file"),
        ("audit: {encrypt: '${env:K}'}", "1:18: audit.encrypt: is no key: its variable must hold what `python"),
        ("audit: {encrypt: ['${env:FERNET}', '${env:K}']}", "1:36: audit.encrypt[1]: is no key"),
        ("audit: {encrypt: []}", "audit.encrypt: must not be empty"),
        ("audit: {chain_key: '${env:K}'}", "1:20: audit.chain_key: is too short for a key"),
        ("audit: {chain_key: '${env:NOPE}'}", "audit.chain_key: environment variable NOPE is not set"),
        ("audit: {exclusions: [{sha256: a}]}", "audit.exclusions[0].sha256: must be 64 hex digits in lower case"),
        ("audit: {exclusions: [{until: never}]}", "audit.exclusions[0].until: must be a date or time"),
        (
            "audit: {exclusions: [{category: violense_hate}]}",
            "exclusions[0].category: unknown category; did you mean viol",
        ),
        ("audit: {exclusions: [{by: ann}]}", "audit.exclusions[0].reason: is missing"),
        ("audit: {store: none, required: true}", "audit.required: cannot be true with store: none"),
        ("guard: {family: llama_guard}", "guard.model: the embedded guard is a classifier"),
        ("guard: {device: tpu}", "guard.device: must be auto, cpu, cuda or cuda:N"),
        ("guard: {options: {labels: 5}}", "1:27: guard.options.labels: must be a list of labels"),
        ("guard: {taxonomy: mine}", "guard.taxonomy: unknown taxonomy 'mine'; define it under taxonomies"),
        ("taxonomies: {mine: {categories: [{id: a}]}}", "taxonomies.mine: is not used"),
        ("taxonomies: {mine: {categories: []}}", "taxonomies.mine.categories: must not be empty"),
        ("taxonomies: {m: {categories: [{id: A b}]}}", "categories[0].id: must be lower-case letters"),
        ("taxonomies: {m: {categories: [{id: unsafe}]}}", "not a reserved name (unsafe, guard_injection, jailbreak)"),
        ("taxonomies: {m: {categories: [{id: a}, {id: a}]}}", "id 'a' is already that of categories[0]"),
        ("server: {hosts: [https://a.example]}", "server.hosts[0]: must be a host name without scheme and port"),
        ("server: {hosts: [a.example:80]}", "server.hosts[0]: must be a host name without scheme and port"),
        ("server: {hosts: [a, a b]}", "server.hosts[1]: must be a host name without scheme and port"),
        ("server: {origins: [a.example]}", "server.origins[0]: must be scheme://host"),
        ('server: {origins: ["*", https://a.example/x]}', "server.origins[1]: must be scheme://host"),
        ("paths: {allow: [/v1/models]}", "paths.allow[0]: must be METHOD /path"),
        ("policies: {}", "policies.default: is missing"),
        (f"policies: {{default: {{{RULES}, judge: {{roles: [tool]}}}}}}", "judge.roles: must include user"),
        (f"policies: {{default: {{{RULES}, judge: {{skip: [text]}}}}}}", "judge.skip[0]: must be one of refusal"),
        (
            f"policies: {{default: {{{RULES}, on_opaque: [flag]}}}}",
            "on_opaque: must be one of block, flag, allow, not a",
        ),
        (f"policies: {{default: {{{RULES}, block: {{how: error, finish: stop}}}}}}", "finish: has no effect with how"),
        (f"policies: {{default: {{{RULES}, user: {{jailbrek: {{}}}}}}}}", "did you mean jailbreak?"),
        (
            f"policies: {{default: {{{RULES}}}}}\nroutes: [{{name: default, policy: default}}]",
            "the name default is that of requests without a route",
        ),
        ("routes: [{policy: default}]", "1:10: routes[0].name: is missing"),
        ("routes: [{name: a, policy: default, when: {header: {}}}]", "when.header: must have exactly one entry"),
        ("routes: [{name: a, policy: default, when: {header: {a: b, c: d}}}]", "must have exactly one entry"),
        (
            "routes: [{name: a, policy: default, when: {model: m}}, {name: a, policy: default, when: {model: n}}]",
            "the name a is that of an earlier route",
        ),
        (
            "upstream: {key: ${KEY}}",
            "1:18: not YAML: expected ',' or '}', but got '{'; between braces, quote it: ",
        ),
        ("upstream: {key: ${env:KEY}}", 'quote it: "${env:KEY}"'),
        ("upstream: {key: $KEY}", "upstream.key: names a variable in another way; write ${env:KEY}"),
        ("upstream: {key: '${KEY}'}", "upstream.key: names a variable in another way; write ${env:KEY}"),
        (
            "audit: {store: 'postgresql://u:pw@h/d'}",
            "audit.store: a password does not belong in the file; write ${env:",
        ),
        ("audit: {store: 'postgresql://h/d?password=pw'}", "audit.store: a password does not belong in the file"),
        (
            "policies: {default: {unsafe: 0.5}}",
            "must be a mapping, not 0.5; for a threshold, write {block: 0.5}, or fl",
        ),
        ("policies: {default: {unsafe: {rewrite: 1}}}", "must be a mapping, not 1; for a threshold, write {at: 1}"),
        ("server: {cors: {origins: [app.example]}}", "server.cors.origins[0]: must be scheme://host"),
    ],
)
def test_mistake(text: str, message: str) -> None:
    """Each mistake is reported with this message."""
    assert any(message in line for line in mistakes(text, ENVIRONMENT)), mistakes(text, ENVIRONMENT)


def test_star_that_covers_nothing_is_unreachable() -> None:
    """A rule for all other categories is a mistake if there are no others."""
    rules = "".join(f"      {name}: {{block: 0.5}}\n" for name in NAMES.categories("classifier", {}, None) or ())
    text = f"policies:\n  default:\n    assistant: {{unsafe: {{block: 0.5}}}}\n    user:\n{rules}"
    assert mistakes(text) == []
    assert mistakes(text + '      "*": {flag: 0.5}') == [
        "11:7: policies.default.user.*: is unreachable, because every category has rules; remove it"
    ]


@pytest.mark.parametrize("section", ["block", "rewrite", "stream", "judge", "history", "on_opaque"])
def test_unknown_keys_of_a_policy(section: str) -> None:
    """A section of a policy accepts no other keys, whether its class is the settings' or the policy's own."""
    text = f"policies:\n  default:\n    {RULES}\n    {section}: {{zzz: 1}}"
    (line,) = mistakes(text)
    place, _, keys = line.partition(": unknown key; known: ")
    assert place == f"4:{len(section) + 8}: policies.default.{section}.zzz"
    assert keys


def test_mistakes_under_a_duplicate_key_are_found_too() -> None:
    """The entries under a duplicate key are checked with those under the first."""
    assert mistakes("server: {port: x}\nlog: {}\nserver: {hst: 1}") == [
        '1:16: server.port: must be an integer, not "x"',
        "3:1: server: duplicate key, already set in line 1; keep only one",
        "3:10: server.hst: unknown key; did you mean host?",
    ]


def test_words_of_yaml_1_1_are_what_is_written() -> None:
    """`on`, `1:30` and `0o17` are strings, and a string is not a number."""
    for word in ("on", "1:30", "0o17", "1_000", ".inf", "1e400"):
        assert mistakes(f"server: {{port: {word}}}") == [f'1:16: server.port: must be an integer, not "{word}"']


def test_own_code_can_be_forbidden() -> None:
    """`module:attribute` is allowed wherever a plug-in is named, and a mistake with builtin_only."""
    text = "wires: ['my.wire:wire']\naudit: {store: 'my.sink:open'}\npolicies: {default: {unsafe: {rewrite: "
    text += "{at: 0.5, how: 'my.act:open'}}}}"
    assert mistakes(text) == []
    lines = mistakes(text, names=replace(NAMES, builtin_only=True))
    assert len(lines) == 3
    assert all("own code is forbidden by --builtin-only" in line for line in lines)


def test_own_code_that_cannot_be_loaded() -> None:
    """An own wire, rewrite or store that cannot be imported is a mistake at the position of its name."""
    text = "wires: ['no.such:wire']\naudit: {store: 'json:nothing'}\npolicies: {default: {unsafe: {rewrite: "
    text += "{at: 0.5, how: 'no.such:open'}}}}"
    assert mistakes(text, names=catalogue()) == [
        "1:9: wires[0]: wire 'no.such:wire' cannot be loaded: No module named 'no'",
        "2:16: audit.store: store 'json:nothing' cannot be loaded: module 'json' has no attribute 'nothing'",
        "3:55: policies.default.unsafe.rewrite.how: rewrite 'no.such:open' cannot be loaded: No module named 'no'",
    ]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("model: 5", "must be a string, not 5; quote it"),
        ("model: null", "must be a string, not empty"),
        ("model: []", "must be a string, not a list"),
        ("categories: x", 'must be a mapping to strings or lists of strings, not "x"'),
        ("categories: {hate: 5}", 'must be a mapping to strings or lists of strings, not {"hate": 5}'),
    ],
)
def test_options_of_another_type(option: str, message: str) -> None:
    """The message names the required type before the family sees the value; other mistakes are reported as well."""
    text = "guard: {family: openai_moderation, service: {key: '${env:KEY}'}, options: {%s}}\nlgo: 1"
    name = option.partition(":")[0]
    for names in (NAMES, catalogue()):
        first, second = mistakes(text % option, {"KEY": "k"}, names)
        assert first.endswith(f": guard.options.{name}: {message}")
        assert second == "2:1: lgo: unknown key; did you mean log?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("audit: {store: 'sqlite://audit.db'}", "1:16: audit.store: an audit store in SQLite must be a file: "),
        (
            "audit: {store: 'postgresql://h:port/hunter2'}",
            "1:16: audit.store: the address of the audit store must have ",
        ),
        ("audit: {store: 'jsonl://'}", "1:16: audit.store: audit store 'jsonl://': write a JSON lines file as "),
        (f"{AZURE}}}}}", "1:39: guard.service.url: is missing; set it, because azure_content_safety gives "),
        (f"{AZURE}, url: x}}}}", "1:73: guard.service.url: must be http(s)://host[:port][/path]"),
        (f"{AZURE}, url: 'http://u:hunter2@h'}}}}", "1:73: guard.service.url: must be http(s)://host[:port][/path]: a"),
        ("upstream: {key: null, key_header: x-key}", "1:35: upstream.key_header: has no effect without upstream.key"),
    ],
)
def test_addresses_that_cannot_be_used(text: str, message: str) -> None:
    """Unusable addresses of stores and services are mistakes before the start; passwords in them are not shown."""
    (line,) = mistakes(f"{text}\npolicies: {{default: {{{RULES}}}}}", {"KEY": "k"}, catalogue())
    assert line.startswith(message)
    assert "hunter2" not in line


def test_routes_by_header() -> None:
    """Routes for different headers can coexist; a route with fewer conditions makes a later one unreachable."""
    policies = f"policies: {{default: {{{RULES}}}}}\nroutes:\n"
    first, second, both = (
        "- {name: a, policy: default, when: {header: {x-team: red}}}\n",
        "- {name: b, policy: default, when: {header: {x-team: blue}}}\n",
        "- {name: c, policy: default, when: {header: {x-team: red}, model: m}}\n",
    )
    assert mistakes(policies + first + second) == []
    assert mistakes(policies + both + first) == []
    assert mistakes(policies + first + both) == [
        "4:3: routes[1]: is unreachable, because routes[0] matches all its requests; remove or reorder them"
    ]
    assert mistakes(policies + "- {name: z, policy: default, when: {path: [x]}}\n" + first) == [
        "3:43: routes[0].when.path: must be a string, not a list"
    ]


def test_secrets_are_never_in_a_message() -> None:
    """Messages show neither a literal secret nor the value of a variable."""
    text = "upstream: {key: hunter2}\naudit: {store: '${env:STORE}'}"
    shown = " ".join(mistakes(text, {"STORE": "hunter2://hunter2"}))
    assert "upstream.key" in shown
    assert "audit.store" in shown
    assert "hunter2" not in shown


def test_built_in_policy_is_for_the_embedded_guard() -> None:
    """A file without policies is a mistake if its guard has other categories than the built-in policy."""
    text = "guard: {taxonomy: m}\ntaxonomies: {m: {categories: [{id: a}]}}"
    assert mistakes(text) == ["1:1: policies: is missing; add it, because the built-in policy is for another guard"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "upstream: https://api.openai.com/v1",
            ['1:11: upstream: must be a mapping, not "https://api.openai.com/v1"; write {url: ADDRESS}'],
        ),
        (
            "server: {cors: {origins: https://app.test}}",
            [
                '1:26: server.cors.origins: must be a list, not "https://app.test"; put it in brackets: [https://app.test]'
            ],
        ),
        (
            "upstreams: {}",
            ["1:12: upstreams: must not be empty; name a service, or remove it"],
        ),
        (
            "upstream:\n\turl: http://a",
            ["2:1: not YAML: found character '\\t' that cannot start any token; indent with spaces"],
        ),
        (
            f"policies: {{default: {{{RULES}, user: {{violence_hate: block}}}}}}",
            [
                (
                    '1:66: policies.default.user.violence_hate: must be a mapping, not "block"; write an action with '
                    "its threshold, such as {block: 0.5}"
                )
            ],
        ),
        (
            f"policies: {{default: {{{RULES}, block: {{message: {{'*': {{de: 5, '*': No.}}}}}}}}}}",
            ["1:72: policies.default.block.message.*.de: must be a string, not 5; quote it"],
        ),
        (
            f"policies: {{default: {{{RULES}, block: {{message: [No.]}}}}}}",
            ["1:61: policies.default.block.message: must be a string, not a list"],
        ),
    ],
)
def test_one_mistake_is_one_message_with_its_mend(text: str, found: list[str]) -> None:
    """No second line about another form that the value might have had."""
    assert mistakes(text) == found


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("true", "must be a mapping, not true; write an action with its threshold, such as {block: 0.5}"),
        ('{block: "0,5"}', 'must be a number, not "0,5"; write 0.5'),
        ("{block: 50%}", 'must be a number, not "50%"; write 0.5'),
        ("{block: 50}", "must be at most 1, not 50; write 0.5 for 50 %"),
        ("{block: 1.5}", "must be at most 1, not 1.5"),
        ("{block: high}", 'must be a number, not "high"'),
    ],
)
def test_what_is_meant_by_a_number_in_another_form(rule: str, message: str) -> None:
    """Commas, percents and switches in place of thresholds get the number that is meant."""
    assert mistakes(f"policies: {{default: {{user: {{violence_hate: {rule}}}, assistant: {{'*': {{}}}}}}}}\n")[
        0
    ].endswith(message)
