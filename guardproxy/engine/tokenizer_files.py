"""Load the tokenizer of a model that runs elsewhere: from the hub, a directory or a GGUF file."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from guardproxy.engine.model_files import locate, why_not_loaded
from guardproxy.engine.tokenizer import without_limits
from guardproxy.errors import ConfigError

_GENERATION = "generation_config.json"


@dataclass(frozen=True, slots=True)
class StoredTokenizer:
    """A tokenizer, the tokens that end an answer of its model, and a hash of both."""

    backend: Tokenizer
    eos: tuple[int, ...]
    version: str


def load_tokenizer(model: str) -> StoredTokenizer:
    """The tokenizer of `model`, a hub id, a directory or a GGUF file. Raises ConfigError."""
    import transformers  # noqa: PLC0415 - its import takes seconds

    location, gguf = locate(model)
    try:
        options = {"gguf_file": gguf} if gguf is not None else {}
        tokenizer = transformers.AutoTokenizer.from_pretrained(location, **options)
        config = _generation_config(transformers, location) if gguf is None else {}
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        reason = why_not_loaded(error, hub=not Path(location).is_dir())
        raise ConfigError(f"tokenizer {model!r}: {reason}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(f"tokenizer {model!r}: it has no fast tokenizer (tokenizer.json)")
    text = tokenizer.backend_tokenizer.to_str()
    named = config.get("eos_token_id")
    ids = [*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id]
    eos = tuple(dict.fromkeys(int(token) for token in ids if token is not None))
    version = hashlib.sha256(f"{text}\n{eos}".encode()).hexdigest()[:12]
    return StoredTokenizer(without_limits(Tokenizer.from_str(text)), eos, version)


def _generation_config(transformers: Any, location: str) -> dict[str, Any]:
    """What the model's files say of its answers; {} if they say nothing. Raises OSError, ValueError."""
    options = {"_raise_exceptions_for_missing_entries": False}
    path = transformers.utils.cached_file(location, _GENERATION, **options)
    content = json.loads(Path(path).read_text()) if path else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object")  # noqa: TRY004 - as any other content that is wrong
    return content
