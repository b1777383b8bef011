"""Classifiers with quantised weights in a folder, such as the embedded guard, loaded without transformers.

Importing transformers takes longer than everything else that a start does, and the packed encoder needs nothing of it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer

from guardproxy.engine import quantized
from guardproxy.engine.encoder.architectures import shapes_of, supports
from guardproxy.engine.load import LoadedModel
from guardproxy.engine.model_files import locate
from guardproxy.engine.tokenizer import without_limits
from guardproxy.errors import ConfigError


class StoredClassifier:
    """The config and the float32 weights of a classifier; `class_name` is its class in transformers."""

    dtype = torch.float32

    def __init__(self, config: Any, weights: Mapping[str, torch.Tensor]) -> None:
        self.config = config
        self.class_name = _class_name(config)
        self._weights = weights

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """The weights by name."""
        return self._weights


def load_stored(model: str) -> LoadedModel | None:
    """The classifier of the folder `model` if it has quantised weights and the packed encoder supports it, else None.

    Raises ConfigError if the files are damaged or do not fit each other.
    """
    location, _ = locate(model)
    folder = Path(location)
    if not (folder / quantized.NAME).is_file():
        return None
    try:
        config = _config(folder)
        if not supports(_class_name(config), config):
            return None
        weights = quantized.QuantizedWeights(folder / quantized.NAME)
        _check(weights.shapes(), shapes_of(_class_name(config), config))
        backend = without_limits(Tokenizer.from_file(str(folder / "tokenizer.json")))
        return LoadedModel(StoredClassifier(config, weights), backend, _tokenizer(folder, backend), folder)
    except Exception as error:  # tokenizers raises no narrower class
        why = str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"model {model!r}: {why}") from error


def _config(folder: Path) -> Any:
    """config.json with the attributes that transformers adds to it."""
    config = SimpleNamespace(**json.loads((folder / "config.json").read_text()))
    config.id2label = {int(index): name for index, name in config.id2label.items()}
    config.num_labels = len(config.id2label)
    return config


def _class_name(config: Any) -> str:
    return str(next(iter(getattr(config, "architectures", None) or ()), ""))


def _tokenizer(folder: Path, backend: Tokenizer) -> Any:
    """What the runner reads of a tokenizer of transformers."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    return SimpleNamespace(
        model_input_names=settings["model_input_names"],
        model_max_length=settings["model_max_length"],
        pad_token_id=backend.token_to_id(settings["pad_token"]),
    )


def _check(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError with the first three differences if the tensors are not those of the config."""
    differences = sorted(
        f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'no such tensor')}"
        for name in found.keys() | expected.keys()
        if found.get(name) != expected.get(name)
    )
    if differences:
        raise ValueError(f"{quantized.NAME} does not fit config.json: {'; '.join(differences[:3])}")
