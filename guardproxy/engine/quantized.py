"""Weights of a classifier in a GGUF file: quantised in blocks on the disk, widened to the model's type in memory.

GGUF (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) is only the container of the tensors here: their names
are those of transformers' module, and the architecture is read from the config.json beside the file.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch

NAME = "model.gguf"

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]


class _Block(NamedTuple):
    """A block of 32 values: its bytes, where those of the values begin, and the value that is zero.

    None if each value has a byte of its own, with a sign.
    """

    size: int
    start: int
    zero: int | None


_BLOCKS = {
    gguf.GGMLQuantizationType.Q4_0: _Block(18, 2, 8),
    gguf.GGMLQuantizationType.Q5_0: _Block(22, 6, 16),
    gguf.GGMLQuantizationType.Q8_0: _Block(34, 2, None),
}


class QuantizedWeights(Mapping[str, torch.Tensor]):
    """The tensors of a GGUF file by name, in float32, each dequantised whenever it is read.

    Raises OSError, or ValueError for a damaged file.
    """

    def __init__(self, path: Path) -> None:
        try:
            tensors = gguf.GGUFReader(path).tensors
        except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
            raise ValueError(f"{path.name} is damaged; copy or download it again: {error}") from error
        self._tensors = {tensor.name: tensor for tensor in tensors}

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self._tensors[name]
        return torch.from_numpy(dequantised(tensor.data.view(np.ndarray), tensor.tensor_type))

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor."""
        return {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in self._tensors.items()}


def dequantised(stored: Bytes, kind: gguf.GGMLQuantizationType) -> Floats:
    """The values of a tensor in float32, in memory of their own. `stored` is [..., bytes of a row].

    For the types of the embedded guard this takes a third of gguf's time. Their blocks of 32 values have a scale, for
    Q5_0 the fifth bit of each value, and then the values or their lower four bits.
    """
    if kind not in _BLOCKS:
        out: Floats = gguf.dequantize(stored, kind)
        return out.copy() if np.shares_memory(out, stored) else out
    block = _BLOCKS[kind]
    blocks = stored.reshape(-1, block.size)
    scale = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    rest = blocks[:, block.start :]
    if block.zero is None:
        whole = rest.view(np.int8)
    else:
        values = np.concatenate((rest & 15, rest >> 4), axis=1)
        if block.start > 2:
            values |= np.unpackbits(blocks[:, 2 : block.start], axis=1, bitorder="little") << 4
        whole = values.view(np.int8) - np.int8(block.zero)
    out = scale * whole
    return out.reshape(*stored.shape[:-1], -1)


def load_module(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """The model of `folder` by its config.json, with the weights of its GGUF file.

    `kind` is an auto class of transformers. Raises OSError, ValueError or RuntimeError if the weights are damaged or do
    not fit the configuration.
    """
    # Only this function needs it; to import it takes seconds.
    import transformers  # noqa: PLC0415

    config = transformers.AutoConfig.from_pretrained(folder)
    module = kind.from_config(config, dtype=dtype)
    module.load_state_dict(QuantizedWeights(folder / NAME))
    return module
