"""What the settings tests share: a catalogue of names, and helpers that load a text or list its mistakes."""

from collections.abc import Mapping, Sequence
from typing import Any

from guardproxy.app.languages import languages_of_guard
from guardproxy.errors import ConfigError
from guardproxy.settings import Catalogue, Settings, load_text
from guardproxy.types import Taxonomy

CATEGORIES = (
    "violence_hate",
    "sexual_content",
    "criminal_planning",
    "guns_illegal_weapons",
    "regulated_substances",
    "suicide_self_harm",
)


def categories(family: str, options: Mapping[str, Any], taxonomy: Taxonomy | None) -> tuple[str, ...]:
    """The ids of the taxonomy, or the embedded guard's six. Rejects `labels` that are not a list, like a family."""
    if "labels" in options and not isinstance(options["labels"], list):
        raise ConfigError("labels: must be a list of labels")
    return tuple(category.id for category in taxonomy.categories) if taxonomy else CATEGORIES


NAMES = Catalogue(
    families=("classifier", "llama_guard", "openai_moderation"),
    options={
        "classifier": {"labels": Any, "activation": str},
        "llama_guard": {"version": str, "scoring": str, "context": int},
        "openai_moderation": {"model": str, "categories": Mapping[str, str | Sequence[str]] | None},
    },
    categories=categories,
    languages=languages_of_guard,
    rewrites=("replace", "redact", "steer", "regenerate"),
    wires=("openai_chat", "openai_completions"),
    views=("nfkc", "base64"),
    stores=("sqlite", "postgresql"),
    services={"openai_moderation": True},
)

# The shortest policy with rules on both sides.
RULES = "unsafe: {block: 0.5}"


def read(text: str, env: Mapping[str, str] | None = None, names: Catalogue = NAMES) -> Settings:
    """The settings of a text."""
    return load_text(text, "f.yaml", env or {}, names)


def mistakes(text: str, env: Mapping[str, str] | None = None, names: Catalogue = NAMES) -> list[str]:
    """The mistakes of a text, without the name of the file; empty if it is valid."""
    try:
        read(text, env, names)
    except ConfigError as error:
        return [problem.removeprefix("f.yaml:") for problem in error.problems]
    return []
