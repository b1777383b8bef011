"""Guards that answer with labels: where they run, their policy texts, and what they cannot be combined with."""

from pathlib import Path

import pytest

from guardproxy.app import catalogue, label_note, traits
from guardproxy.errors import ConfigError
from guardproxy.settings import Settings, load

GUARD = """\
version: 1
guard:
  family: policy_text
  options: {policy: "file:policy.md"}
  model: served
  runner: openai
  replicas: {urls: ["http://vllm:8000/v1"]}
policies: {default: {unsafe: {block: 0.5}}}
"""
CASCADE = """\
version: 1
guard: {cascade: {first: embedded, second: reasoner, low: 0.2, high: 0.8}}
guards:
  reasoner:
    family: gpt_oss_safeguard
    options: {policy: "file:policy.md", effort: low}
    model: served
    runner: openai
    replicas: {urls: ["http://vllm:8000"]}
policies: {default: {unsafe: {block: 0.5}}}
"""
OPINION = CASCADE.replace("guard: {cascade: {first: embedded, second: reasoner, low: 0.2, high: 0.8}}\n", "") + (
    "audit: {second_opinion: reasoner}\n"
)

NEMOTRON = """
version: 1
guard:
  family: nemotron
  model: nvidia/Nemotron-3-Content-Safety
  runner: openai
  replicas: {urls: ["http://127.0.0.1:8000"]}
  reads: [text, image]
policies: {default: {unsafe: {block: 0.5}}}
"""


def loaded(folder: Path, text: str, policy: str = "No bombs.") -> Settings:
    """The settings of a file beside a policy text."""
    (folder / "policy.md").write_text(policy)
    (folder / "f.yaml").write_text(text)
    return load(folder / "f.yaml", {}, catalogue())


def test_the_policy_text_is_read_and_is_part_of_the_version(tmp_path: Path) -> None:
    """Another text is another configuration."""
    settings = loaded(tmp_path, GUARD)
    assert settings.guard.options["policy"] == "No bombs."
    assert loaded(tmp_path, GUARD, "No knives.").version != settings.version
    assert "served: gives labels, 0 or 1, and no probability" in label_note(settings)
    assert "reasoner: gives labels" in label_note(loaded(tmp_path, CASCADE))
    assert label_note(loaded(tmp_path, "version: 1\npolicies: {default: {unsafe: {block: 0.5}}}\n")) == ""


def test_a_guard_for_second_opinions_decides_nothing(tmp_path: Path) -> None:
    """It is described in `guards` and is no member of the guard."""
    settings = loaded(tmp_path, OPINION)
    assert settings.members == {}
    assert settings.opinion is not None
    assert settings.alone("reasoner").guard.model == "served"
    assert label_note(settings) == ""


def test_a_policy_of_ones_own_may_find_the_canaries_harmless(tmp_path: Path) -> None:
    """A guard by a policy text alone is ready if it answers; beside a guard that knows harm, the canaries count."""
    assert not traits(loaded(tmp_path, GUARD)).tells_canaries
    assert traits(loaded(tmp_path, GUARD)).has_model
    assert traits(loaded(tmp_path, CASCADE)).tells_canaries
    by_role = CASCADE.replace(
        "cascade: {first: embedded, second: reasoner, low: 0.2, high: 0.8}",
        "by_role: {user: reasoner, assistant: embedded}",
    )
    assert not traits(loaded(tmp_path, by_role)).tells_canaries


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GUARD.replace("file:policy.md", "policy.md"), "guard.options.policy: must name a file"),
        (GUARD.replace("file:policy.md", "file:no.md"), "no.md: cannot be read"),
        (GUARD.replace("file:policy.md", "file:."), "is no file"),
        (GUARD.replace('{policy: "file:policy.md"}', "{}"), "policy: is missing"),
        (GUARD.replace("  runner: openai\n", ""), "guard.runner: must be openai"),
        (GUARD.replace("runner: openai", "completions: {logprobs: 5}\n  runner: openai"), "no token's probability"),
        (GUARD.replace("  model: served\n", ""), "guard.model: is missing"),
        (
            GUARD.replace("md}", "md, effort: low}").replace('md"}', 'md", effort: low}'),
            "options.effort: unknown option",
        ),
        (GUARD.replace('md"}', 'md", response_format: xml}'), "guard.options.response_format: must be"),
        (
            GUARD.replace("  model", "  calibration: {user: {unsafe: {slope: 1.0}}}\n  model"),
            "guard.calibration: has no effect, because the family answers with labels",
        ),
        (CASCADE.replace("effort: low", "effort: none"), "guards.reasoner.options.effort: must be"),
        (CASCADE.replace("first: embedded, second: reasoner", "first: reasoner, second: embedded"), "never unsure"),
        (
            CASCADE.replace(
                "{cascade: {first: embedded, second: reasoner, low: 0.2, high: 0.8}}",
                '{all: [embedded, reasoner], mean: {"*": [1, 1]}}',
            ),
            "guard.mean: cannot be formed",
        ),
        (NEMOTRON.replace("openai\n", "local\n"), "guard.runner: must be openai"),
        (
            NEMOTRON.replace("reads", "completions: {tokenizer: x}\n  reads"),
            "guard.completions.tokenizer: has no effect",
        ),
        (OPINION.replace("second_opinion: reasoner", "second_opinion: raesoner"), "unknown guard 'raesoner'"),
        (OPINION.replace("audit: {second_opinion: reasoner}\n", ""), "audit.second_opinion, or remove it"),
        (OPINION.replace("effort: low", "effort: 3"), "guards.reasoner.options.effort: must be"),
        (OPINION.replace(", effort: low", ", max_answer_tokens: 1"), "max_answer_tokens: must be from"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, problem: str) -> None:
    """Each with its place and what to do."""
    with pytest.raises(ConfigError) as failure:
        loaded(tmp_path, text)
    assert problem in str(failure.value)


@pytest.mark.parametrize(("policy", "problem"), [(" \n", "is empty"), ("x" * 100_001, "has more than 100000 bytes")])
def test_a_policy_text_has_bounds(tmp_path: Path, policy: str, problem: str) -> None:
    """An empty one would leave the judgement to the model."""
    with pytest.raises(ConfigError, match=problem):
        loaded(tmp_path, GUARD, policy)


def test_a_guard_with_labels_of_categories_alone_says_so(tmp_path: Path) -> None:
    """P(unsafe) of such a guard is a probability, and it reads images where its settings say so."""
    settings = loaded(tmp_path, NEMOTRON)
    assert "nvidia/Nemotron-3-Content-Safety: gives labels of categories, 0 or 1" in label_note(settings)
    assert traits(settings).images is not None
