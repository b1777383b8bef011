"""Combined guards: their options, the guard that they become, and every mistake with its position."""

import asyncio
import shlex
from pathlib import Path

import pytest

from guardproxy.app import ConfigSource, banner, catalogue, guard
from guardproxy.app.guards import combined, local_guards, members
from guardproxy.calibration import UNCALIBRATED, Calibration, Platt
from guardproxy.engine.model_files import PACKAGED, TRAINED
from guardproxy.errors import ConfigError
from guardproxy.guards.combine import AllOf, ByLanguage, Cascade
from guardproxy.guards.local import LocalGuard
from guardproxy.registry import load
from guardproxy.settings import EMBEDDED_PARTS, MULTILINGUAL, load_text
from guardproxy.wires import REGISTRY as WIRES
from tests.settings.kit import RULES, mistakes, read

BOTH = f"policies: {{default: {{{RULES}}}}}\n"
LARGE = "guards:\n  large: {family: llama_guard, model: some/weights}\n"
SOME = "guards:\n  some: {model: some/classifier}\n"


def test_all_of_several_guards() -> None:
    """`all` lists guards in order, including `embedded`; `mean` gives their weights."""
    settings = read(f'guard:\n  all: [large, embedded]\n  mean: {{"*": [1, 2], unsafe: [0, 1.5]}}\n{LARGE}{BOTH}')
    assert list(settings.members) == ["large", "embedded"]
    assert settings.members["large"].guard.family == "llama_guard"
    assert settings.members["embedded"].guard.model == "embedded"
    assert settings.guard.mean == {"*": (1, 2), "unsafe": (0, 1.5)}


def test_a_cascade() -> None:
    """`cascade` names two guards and the bounds between which the second is asked."""
    settings = read(f"guard:\n  cascade: {{first: embedded, second: large, low: 0.1, high: 0.9}}\n{LARGE}{BOTH}")
    assert list(settings.members) == ["embedded", "large"]
    assert settings.guard.cascade is not None
    assert (settings.guard.cascade.low, settings.guard.cascade.high) == (0.1, 0.9)


def test_guards_by_language() -> None:
    """`by_language` names the guard of the known languages and that of all others."""
    settings = read(f"guard:\n  by_language: {{others: large, first: embedded}}\n{LARGE}{BOTH}")
    assert list(settings.members) == ["embedded", "large"]
    assert settings.guard.by_language is not None
    assert (settings.guard.by_language.first, settings.guard.by_language.others) == ("embedded", "large")


def test_members_have_taxonomies_of_their_own() -> None:
    """Each guard has the taxonomy that it names, and policies may name the categories of every guard."""
    text = (
        "guard: {all: [embedded, large]}\n"
        "guards:\n  large: {family: llama_guard, model: some/weights, taxonomy: own}\n"
        "taxonomies:\n  own:\n    categories: [{id: rivals, name: Rivals}]\n"
        "policies:\n  default:\n    user: {rivals: {block: 0.5}, violence_hate: {block: 0.5}}\n"
        '    assistant: {"*": {block: 0.5}}\n'
    )
    settings = read(text)
    taxonomy = settings.members["large"].taxonomy
    assert taxonomy is not None
    assert [category.id for category in taxonomy.categories] == ["rivals"]
    assert settings.members["embedded"].taxonomy is None
    assert mistakes(text.replace("rivals: {block", "rival: {block"))[0].startswith("9:12: policies.default.user.rival:")


def test_one_guard_has_no_members() -> None:
    """Without `all`, `cascade` and `by_language` there are no members; null counts as absent."""
    assert read("guard: {all: null, mean: null, cascade: null, by_language: null}\n").members == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("guard: {all: [embedded]}\n", "1:14: guard.all: needs two guards or more"),
        ("guard: {all: []}\n", "1:14: guard.all: must not be empty"),
        ("guard: {all: [embedded, small]}\n", "1:25: guard.all[1]: unknown guard 'small'; known: embedded"),
        (
            "guard: {all: [embedded, embedded]}\n",
            "1:25: guard.all[1]: 'embedded' is named twice; name another guard",
        ),
        (
            "guard: {all: [embedded, larg]}\n" + LARGE,
            "1:25: guard.all[1]: unknown guard 'larg'; did you mean large?",
        ),
        (
            LARGE,
            (
                "2:3: guards.large: is not used; name it in guard.all, guard.cascade, guard.by_language, "
                "guard.by_role, audit.second_opinion, or remove it"
            ),
        ),
        (
            "guard: {all: [embedded, large], device: cpu}\n" + LARGE,
            "1:33: guard.device: has no effect on combined guards; set it for each of them in guards",
        ),
        (
            "guard: {all: [embedded, large], cascade: {first: embedded, second: large, low: 0, high: 1}}\n" + LARGE,
            "1:33: guard.cascade: cannot be combined with guard.all; remove either",
        ),
        (
            "guard: {cascade: {first: embedded, second: large, low: 0.6, high: 0.5}}\n" + LARGE,
            "1:56: guard.cascade.low: must be at most cascade.high",
        ),
        (
            "guard: {cascade: {first: embedded, second: large, low: 0.6, high: 1.5}}\n" + LARGE,
            "1:67: guard.cascade.high: must be at most 1, not 1.5",
        ),
        (
            "guard: {by_language: {first: embedded, others: large}, all: [embedded, large]}\n" + LARGE,
            "1:9: guard.by_language: cannot be combined with guard.all; remove either",
        ),
        (
            "guard: {by_language: {first: a, others: b}, cascade: {first: a, second: b, low: 0, high: 1}}\n",
            "1:9: guard.by_language: cannot be combined with guard.cascade; remove either",
        ),
        (
            "guard: {by_language: {first: embedded, others: embedded}}\n",
            "1:48: guard.by_language.others: 'embedded' is named twice; name another guard",
        ),
        (
            "guard: {by_language: {first: embeded, others: large}}\n" + LARGE,
            "1:30: guard.by_language.first: unknown guard 'embeded'; did you mean embedded?",
        ),
        ("guard: {by_language: {first: embedded}}\n", "1:9: guard.by_language.others: is missing"),
        (
            "guard: {by_language: {first: embedded, second: large}}\n" + LARGE,
            "1:40: guard.by_language.second: unknown key; known: first, others",
        ),
        (
            "guard: {by_language: {first: embedded, others: large}, device: cpu}\n" + LARGE,
            "1:56: guard.device: has no effect on combined guards; set it for each of them in guards",
        ),
        (
            "guard: {by_language: {first: some, others: embedded}}\n" + SOME,
            "1:30: guard.by_language.first: the languages that 'some' reads are not known; set guards.some.languages",
        ),
        (
            "guard:\n  by_language:\n    first: large\n    others: embedded\n"
            + LARGE.replace("some/weights", "some/weights, languages: []"),
            "3:12: guard.by_language.first: the languages that 'large' reads are not known; set guards.large.languages",
        ),
        (
            "guard: {by_language: {first: some, others: embedded}}\nserver: {port: many}\n" + SOME,
            "1:30: guard.by_language.first: the languages that 'some' reads are not known; set guards.some.languages",
        ),
        (
            "guard: {by_language: {first: embedded, others: w}}\nguards:\n  w: {by_language: {first: a, others: b}}\n",
            "3:7: guards.w.by_language: only guard can combine guards, not an entry of guards; remove this",
        ),
        (
            "guard: {family: llama_guard, model: embedded-multilingual}\n",
            "1:37: guard.model: the embedded guard is a classifier; name a model of the family llama_guard",
        ),
        (
            'guard: {mean: {"*": [1, 2]}}\n',
            "1:9: guard.mean: has no effect without guard.all; list the guards there or remove this",
        ),
        (
            'guard: {all: [embedded, large], mean: {"*": [1]}}\n' + LARGE,
            "1:45: guard.mean.*: needs a weight for each of the 2 guards of guard.all",
        ),
        (
            'guard: {all: [embedded, large], mean: {"*": [0, 0]}}\n' + LARGE,
            "1:45: guard.mean.*: the weights must not all be 0",
        ),
        (
            "guard: {all: [embedded, large], mean: {violence: [1, 2]}}\n" + LARGE,
            "1:40: guard.mean.violence: unknown category 'violence'; did you mean violence_hate?",
        ),
        (
            "guard: {all: [embedded, large]}\nguards:\n  large: {all: [embedded, large], device: gpu}\n",
            "3:11: guards.large.all: only guard can combine guards, not an entry of guards; remove this",
        ),
        (
            "guard: {all: [embedded, large]}\nguards:\n  large: {family: lama_guard, model: some/weights}\n",
            "3:19: guards.large.family: unknown family 'lama_guard'; did you mean llama_guard?",
        ),
        (
            "guard: {all: [embedded, large]}\nguards:\n  large: {options: {labels: 5}}\n",
            "3:29: guards.large.options.labels: must be a list of labels",
        ),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    """Each mistake is reported at its position."""
    assert message in mistakes(text + BOTH)


def test_old_keys_of_a_cascade() -> None:
    """`cheap` and `dear` are mistakes that name the new keys; their values are checked under these."""
    old = "guard:\n  cascade: {cheap: embedded, dear: large, low: 0.1, high: 0.9}\n"
    assert mistakes(old + LARGE + BOTH) == [
        "2:13: guard.cascade.cheap: this key is now called first; rename it",
        "2:30: guard.cascade.dear: this key is now called second; rename it",
    ]
    assert "2:36: guard.cascade.second: unknown guard 'larg'; did you mean large?" in mistakes(
        old.replace("large", "larg") + LARGE + BOTH
    )
    inner = LARGE.replace("some/weights", "some/weights, cascade: {cheap: a}") + "guard: {all: [embedded, large]}\n"
    assert "2:63: guards.large.cascade.cheap: this key is now called first; rename it" in mistakes(inner + BOTH)


def test_the_parts_of_the_embedded_guard_are_guards_of_their_own() -> None:
    """`embedded` is one guard with the taxonomy of its two models, each of which is a guard by its name."""
    (opened,) = members(load_text("version: 1", "f.yaml", {}, catalogue()))
    assert list(PACKAGED) == list(EMBEDDED_PARTS)
    for name in EMBEDDED_PARTS:
        (alone,) = members(load_text(f"guard: {{model: {name}}}", "f.yaml", {}, catalogue()))
        assert isinstance(alone, LocalGuard)
        assert (alone.name, alone.taxonomy) == (name, opened.taxonomy)


def test_they_become_one_guard() -> None:
    """The composition root builds the combination that the file describes; its name joins those of the members."""
    several = f"policies: {{default: {{{RULES}}}}}\nguards:\n  second: {{model: embedded, timeout_s: 5}}\n"
    both = load_text(f"guard: {{all: [embedded, second]}}\n{several}", "f.yaml", {}, catalogue())
    chain = "guard: {cascade: {first: embedded, second: second, low: 0.2, high: 0.8}}\n"
    cascade = load_text(chain + several, "f.yaml", {}, catalogue())
    single = load_text("version: 1", "f.yaml", {}, catalogue())
    assert isinstance(combined(both, members(both)), AllOf)
    assert isinstance(combined(cascade, members(cascade)), Cascade)
    assert [guard(settings).name for settings in (both, cascade, single)] == [
        "embedded+second",
        "embedded>second",
        "embedded",
    ]


WORLD = f"""
guard: {{by_language: {{first: embedded, others: world}}}}
guards:
  world: {{model: embedded-multilingual}}
policies: {{default: {{{RULES}}}}}
"""


def test_by_language_they_become_one_guard() -> None:
    """The composition root builds the combination; all models inside are found, and the banner names both guards."""
    settings = load_text(WORLD, "f.yaml", {}, catalogue())
    both = combined(settings, members(settings))
    assert isinstance(both, ByLanguage)
    assert (both.name, guard(settings).name) == ("embedded|world", "embedded|world")
    assert [part.name for part in local_guards([both])] == ["embedded", "world"]
    assert [part.name for part in local_guards(members(settings))] == ["embedded", "world"]
    source = ConfigSource(None, None, False, settings, (0, 0), None)
    assert "guard         embedded, for other languages world\n" in banner(settings, source)


@pytest.mark.parametrize("url", ["", "https://guard.example"])
def test_the_banner_names_a_service(url: str) -> None:
    """A moderation service runs no model here."""
    at = f", url: '{url}'" if url else ""
    text = f"guard: {{family: openai_moderation, service: {{key: '${{env:K}}'{at}}}}}\n{BOTH}"
    settings = load_text(text, "f.yaml", {"K": "k"}, catalogue())
    shown = banner(settings, ConfigSource(None, None, False, settings, (0, 0), None))
    assert f"guard         openai_moderation (a service{f' at {url}' if url else ''})\n" in shown


@pytest.mark.parametrize(
    ("upstream", "path", "head"),
    [
        ("upstream: {url: demo}", "/v1/chat/completions", ""),
        ("upstream: {url: 'https://llm.example'}", "/v1/chat/completions", "authorization: Bearer $KEY"),
        ("upstream: {url: 'https://llm.example', key: '${env:K}'}", "/v1/chat/completions", ""),
        ("upstream: {url: 'https://api.anthropic.com'}", "/v1/messages", "x-api-key: $KEY"),
        (
            "upstream: {url: 'https://generativelanguage.googleapis.com'}",
            "/v1beta/models/MODEL:generateContent",
            "x-goog-api-key: $KEY",
        ),
        (
            "upstreams: {default: {url: 'http://a.example', client_key: true, protocols: [openai_embeddings, ollama]}}",
            "/api/chat",
            "authorization: Bearer $KEY",
        ),
    ],
)
def test_the_command_to_try_fits_the_upstream(upstream: str, path: str, head: str) -> None:
    """Its path, its key and its body are those of the upstream's protocol, and a shell can read it."""
    settings = load_text(upstream + "\n", "f.yaml", {"K": "k"}, catalogue())
    command = banner(settings, ConfigSource(None, None, False, settings, (0, 0), None)).split("Try it:\n")[1]
    words = shlex.split(command)
    assert words[:2] == ["curl", f"http://127.0.0.1:8080{path}"]
    assert head in words if head else not any("$KEY" in word for word in words)
    load(read_name(path), WIRES, "wire").parse_request(path, words[-1].encode())


def read_name(path: str) -> str:
    """The name of the wire that reads the path."""
    return next(name for name in WIRES if load(name, WIRES, "wire").claims("POST", path))


@pytest.mark.parametrize("data_dir", ["here", None])
def test_the_model_for_many_languages_is_in_the_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: str | None
) -> None:
    """It is looked for in `--data-dir`, else in the user's own; without it, the start says how to make it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GUARDPROXY_DATA_DIR", str(tmp_path / "own"))
    settings = load_text(f"guard: {{model: {MULTILINGUAL}}}", "f.yaml", {}, catalogue())
    (opened,) = members(settings, data_dir=data_dir)
    assert (opened.name, MULTILINGUAL) == (MULTILINGUAL, TRAINED)
    with pytest.raises(ConfigError) as raised:
        asyncio.run(opened.start())
    folder = tmp_path / (data_dir or "own") / MULTILINGUAL
    assert f"model '{folder}'" in str(raised.value)
    assert "run `make train-multilingual` in a clone of the repository" in str(raised.value)


CALIBRATED = "guard:\n  calibration:\n    user:\n      unsafe: {slope: 0.5, shift: -2}\n"


def test_a_calibration_is_every_policys() -> None:
    """The maps stand in the guard and in each policy, whose version changes with them; a shift may be left out."""
    plain, other = read(BOTH).policies, read(CALIBRATED.replace(", shift: -2", "") + BOTH).policies
    calibrated = read(CALIBRATED + BOTH)
    policy = calibrated.policies.policies["default"]
    assert policy.calibration == calibrated.guard.calibration == Calibration({"unsafe": Platt(0.5, -2)})
    assert other.policies["default"].calibration.user["unsafe"].shift == 0
    versions = {one.policies["default"].version for one in (plain, other, calibrated.policies)}
    assert len(versions) == 3
    assert calibrated.policies.uncalibrated().policies["default"].calibration == UNCALIBRATED


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (
            "guard: {calibration: {user: {unsafe: {slope: 0}}}}\n",
            "1:46: guard.calibration.user.unsafe.slope: must be more",
        ),
        ("guard: {calibration: {user: {unsafe: {shift: 1}}}}\n", "guard.calibration.user.unsafe.slope: is missing"),
        (
            "guard: {calibration: {user: {weapon: {slope: 1}}}}\n",
            "1:30: guard.calibration.user.weapon: unknown category",
        ),
        ('guard: {calibration: {user: {"*": {slope: 1}}}}\n', "1:30: guard.calibration.user.*: unknown category"),
        ("guard: {calibration: {both: {unsafe: {slope: 1}}}}\n", "1:23: guard.calibration.both: unknown key"),
        ('guard: {calibration: {user: {unsafe: {slope: "1"}}}}\n', "must be a number"),
        (
            f"guard: {{all: [embedded, large]}}\n{LARGE}".replace("weights}", "weights, calibration: {}}"),
            "3:53: guards.large.calibration: belongs in guard",
        ),
    ],
)
def test_mistakes_in_a_calibration(text: str, mistake: str) -> None:
    """Each mistake has its line, whether the policies name a preset or rules."""
    for policies in (BOTH, "policies: {default: {preset: balanced}}\n", ""):
        found = mistakes(text + policies)
        assert any(mistake in one for one in found), found


def test_a_combination_is_calibrated_as_a_whole() -> None:
    """A guard that combines others may have a calibration beside."""
    text = "guard: {all: [embedded, large], calibration: {assistant: {unsafe: {slope: 2}}}}\n"
    assert read(text + LARGE + BOTH).guard.calibration == Calibration({}, {"unsafe": Platt(2)})
