"""Guards whose models run in other processes."""

import pytest

from guardproxy.app import guard_name, languages_read
from guardproxy.app.guards import needs_engine, traits
from guardproxy.app.registries import catalogue
from guardproxy.errors import ConfigError
from tests.settings.kit import RULES, read

HTTP = f"""version: 1
guard: {{runner: http, replicas: {{urls: ["http://guard-1:8100", "unix:/run/guard.sock"], key: "${{env:KEY}}"}}}}
policies: {{default: {{{RULES}}}}}
"""
OPENAI = """version: 1
guard: {family: llama_guard, model: served, runner: openai, replicas: {urls: ["http://vllm:8000/v1"]},
  completions: {tokenizer: /models/guard, context_tokens: 4096}}
policies: {default: {unsafe: {block: 0.5}}}
"""


def test_the_replicas_and_their_key() -> None:
    """The key is read from the environment and is not part of the repr; no model runs here."""
    settings = read(HTTP, {"KEY": "k-1"})
    assert settings.guard.replicas is not None
    assert settings.guard.replicas.urls == ("http://guard-1:8100", "unix:/run/guard.sock")
    assert settings.guard.replicas.key == "k-1"
    assert "k-1" not in repr(settings)
    assert not needs_engine(settings)
    assert needs_engine(read(f"version: 1\npolicies: {{default: {{{RULES}}}}}\n"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (HTTP, "guard.replicas.key: environment variable KEY is not set"),
        (HTTP.replace("${env:KEY}", "k-1"), "guard.replicas.key: a secret does not belong in the file"),
        (HTTP.replace("runner: http, ", ""), "guard.replicas: has no effect without runner: http"),
        ("version: 1\nguard: {runner: http}\n", "guard.replicas: is missing"),
        (
            "version: 1\nguard: {family: patterns, runner: http}\n",
            "guard.runner: has no effect, because the family needs",
        ),
        ("version: 1\nguard: {runner: http, replicas: {urls: []}}\n", "guard.replicas.urls: must"),
        (HTTP.replace("runner: http", "runner: https"), "guard.runner: must be"),
        (HTTP.replace("runner:", "dtype: float32, runner:"), "guard.dtype: has no effect, because the replicas judge"),
        (HTTP.replace("http://guard-1:8100", "guard-1:8100"), "guard.replicas.urls[0]: must be http(s)://host"),
        (HTTP.replace("unix:/run", "unix:run"), "guard.replicas.urls[1]: must be unix: and the path of a socket"),
        (HTTP.replace("unix:/run/guard.sock", "http://guard-1:8100/"), "guard.replicas.urls[1]: is already listed"),
        (HTTP.replace("http://guard-1", "http://u:p@guard-1"), "use replicas.key"),
        (HTTP.replace("key:", "eject: {first_s: 9, longest_s: 3}, key:"), "longest_s: is less than first_s"),
        (HTTP.replace("key:", "tls: {verify: false}, key:"), "guard.replicas.tls: has no effect, because no address"),
        (
            HTTP.replace("key:", "tls: {ca: /no/such.pem}, key:").replace("http:", "https:"),
            "/no/such.pem: cannot be read",
        ),
        (
            HTTP.replace("runner:", "family: openai_moderation, service: {key: '${env:KEY}'}, runner:"),
            "guard.service: has no effect, because the replicas judge",
        ),
        (OPENAI.replace("runner: openai", "runner: http"), "guard.completions: has no effect without runner: openai"),
        (OPENAI.replace("model: served, ", ""), "guard.model: is missing; write the name that the model has on"),
        (OPENAI.replace("llama_guard", "classifier"), "guard.family: the family classifier reads classifiers"),
        (OPENAI.replace("llama_guard", "openai_moderation"), "guard.family: the family openai_moderation is a service"),
        (
            OPENAI.replace("model:", "device: cuda, model:"),
            "guard.device: has no effect, because the replicas judge; the",
        ),
        (OPENAI.replace("context_tokens: 4096", "uncertainty: 2"), "guard.completions.uncertainty: must be"),
        (
            "version: 1\nguard: {family: llama_guard, model: m, runner: openai}\n",
            "the addresses of the model's servers",
        ),
    ],
)
def test_mistakes(text: str, problem: str) -> None:
    """Each mistake is reported for its setting."""
    with pytest.raises(ConfigError) as raised:
        read(text, {"KEY": "k-1"} if "is not set" not in problem else {})
    assert any(problem in line for line in raised.value.problems), raised.value.problems


def test_replicas_may_call_a_service() -> None:
    """So that its key is in one place: the proxy needs none."""
    settings = read(HTTP.replace("runner:", "family: openai_moderation, runner:"), {"KEY": "k-1"})
    assert guard_name(settings) == "openai_moderation"
    assert languages_read(settings) is None
    assert not needs_engine(settings)


def test_a_model_on_a_server() -> None:
    """Its name is the model's on the server, and no model runs here."""
    settings = read(OPENAI, {})
    assert guard_name(settings) == "served"
    assert settings.guard.completions is not None
    assert settings.guard.completions.context_tokens == 4096
    assert not needs_engine(settings)


def test_a_member_of_a_combination_may_have_replicas() -> None:
    """Beside one that runs here."""
    settings = read(
        "version: 1\nguard: {all: [embedded, far]}\n"
        'guards: {far: {model: embedded-large, runner: http, replicas: {urls: ["http://guard-1:8100"]}}}\n'
        f"policies: {{default: {{{RULES}}}}}\n"
    )
    assert needs_engine(settings)
    assert settings.members["far"].guard.replicas is not None


SEES = """version: 1
guard: {family: llama_guard, options: {version: "%s"}, reads: [text, image], %s}
policies: {default: {unsafe: {block: 0.5}}}
"""
ON_A_SERVER = 'model: m, runner: openai, replicas: {urls: ["http://vllm:8000"]}'


@pytest.mark.parametrize(
    ("version", "more", "categories", "accepted"),
    [
        ("4", ON_A_SERVER, "", True),
        ("3-11b-vision", ON_A_SERVER, "", True),
        ("4", ON_A_SERVER, "[{id: hate}, {id: sexual_content}]", True),
        ("4", 'runner: http, replicas: {urls: ["http://guard:8100"]}', "", True),
        ("3", ON_A_SERVER, "", False),
        ("4", "model: m", "", False),
        ("4", ON_A_SERVER, "[{id: hate}, {id: spam, name: Spam}]", False),
        ("4", ON_A_SERVER, "[{id: code_interpreter_abuse}]", False),
    ],
)
def test_which_models_read_images(version: str, more: str, categories: str, accepted: bool) -> None:
    """Those that were trained on them, on a server, with categories that its chat template has."""
    text = SEES % (version, f"taxonomy: mine, {more}" if categories else more)
    text += f"taxonomies: {{mine: {{categories: {categories}}}}}\n" if categories else ""
    if not accepted:
        with pytest.raises(ConfigError, match=r"guard\.reads: .* reads no images as it is configured; its versions 4"):
            read(text, names=catalogue())
        return
    reading = traits(read(text, names=catalogue())).images
    assert reading is not None
    assert reading.bounds.bytes == 20_000_000
