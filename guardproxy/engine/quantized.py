"""Weights of a classifier in a GGUF file: quantised in blocks on the disk, widened to the model's type in memory.

GGUF (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) is only the container of the tensors here: their names
are those of transformers' module, and the architecture is read from the config.json beside the file.
"""

from pathlib import Path
from typing import Any

import gguf
import torch
import transformers

NAME = "model.gguf"


def read_state(path: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """All tensors of the file by name, dequantised to `dtype`. Raises OSError, or ValueError for a damaged file."""
    try:
        tensors = gguf.GGUFReader(path).tensors
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is damaged; copy or download it again: {error}") from error
    return {
        tensor.name: torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=dtype) for tensor in tensors
    }


def load_module(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """The model of `folder` by its config.json, with the weights of its GGUF file.

    `kind` is an auto class of transformers. Raises OSError, ValueError or RuntimeError if the weights are damaged or do
    not fit the configuration.
    """
    config = transformers.AutoConfig.from_pretrained(folder)
    module = kind.from_config(config, dtype=dtype)
    module.load_state_dict(read_state(folder / NAME, dtype))
    return module
