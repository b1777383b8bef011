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
from transformers import MPNetForSequenceClassification

from guardproxy.engine import quantized
from training.windows import DISCOUNT, OVER, PART, PART_OVERLAP, WINDOW

QUANTISED = gguf.GGMLQuantizationType.Q5_0  # 5.5 bits per weight


def write_weights(
    folder: Path,
    model: Any,
    tokenizer: Tokenizer,
    calibration: Mapping[str, Mapping[str, float]],
) -> None:
    """Write config.json, the weights, the tokenizer and calibration.json into `folder`.

    The weights of a BERT are float16 in model.safetensors, those of an MPNet quantised in model.gguf.
    """
    folder.mkdir(parents=True, exist_ok=True)
    is_mpnet = isinstance(model, MPNetForSequenceClassification)
    if is_mpnet:
        write_quantized(folder / quantized.NAME, model, QUANTISED)
    else:
        state = {n: value.detach().to("cpu", torch.float16).contiguous() for n, value in model.state_dict().items()}
        state.pop("bert.embeddings.position_ids", None)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = model.config.to_diff_dict()
    config |= {"architectures": [type(model).__name__], "model_type": model.config.model_type}
    config |= {"dtype": "float32" if is_mpnet else "float16"}
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
            "model_input_names": ["input_ids", *([] if is_mpnet else ["token_type_ids"]), "attention_mask"],
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
