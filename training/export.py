"""Export of the trained guard as a folder that transformers can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import BertForSequenceClassification

from training.windows import DISCOUNT, OVER, PART, PART_OVERLAP, WINDOW


def write_weights(
    folder: Path,
    model: BertForSequenceClassification,
    tokenizer: Tokenizer,
    calibration: Mapping[str, Mapping[str, float]],
) -> None:
    """Write config.json, model.safetensors (float16), the tokenizer and calibration.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in model.state_dict().items()}
    state.pop("bert.embeddings.position_ids", None)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = model.config.to_diff_dict()
    config |= {"architectures": ["BertForSequenceClassification"], "dtype": "float16", "model_type": "bert"}
    config["guard"] = {"over": OVER, "part": PART, "overlap": PART_OVERLAP, "discount": DISCOUNT}
    config.pop("_name_or_path", None)
    _write(folder / "config.json", config)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            "model_max_length": WINDOW,
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "mask_token": "[MASK]",
        },
    )
    _write(folder / "calibration.json", calibration)


def write_quantized(path: Path, model: torch.nn.Module, kind: gguf.GGMLQuantizationType) -> None:
    """Write the weights as a GGUF file: matrices quantised in blocks of 32 as `kind`, vectors in float32."""
    writer = gguf.GGUFWriter(path, "mpnet")
    for name, value in model.state_dict().items():
        array = value.detach().to("cpu", torch.float32).numpy()
        if array.ndim == 2 and array.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=False) + "\n")
