"""Export of the trained guard as a folder that transformers can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import Tokenizer

from guardproxy.engine import quantized
from training.windows import DISCOUNT, OVER, PART, PART_OVERLAP, WINDOW, special_pieces

Kind = gguf.GGMLQuantizationType
# How the layers and the embeddings of a model are stored: in 8.5, 5.5 or 4.5 bits per weight. The larger model gets
# fewer bits, because the package must stay below 95 MB; a table of embeddings needs fewer than a layer. The embeddings
# of the multilingual model stay as its base has them.
QUANTISED = {"bert": (Kind.Q8_0, Kind.Q5_0), "mpnet": (Kind.Q5_0, Kind.Q4_0), "multilingual": (Kind.Q8_0, Kind.Q4_0)}


def write_weights(
    folder: Path,
    model: Any,
    tokenizer: Tokenizer,
    calibration: Mapping[str, Mapping[str, float]],
) -> None:
    """Write config.json, the quantised weights, the tokenizer and calibration.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = special_pieces(tokenizer)
    is_multilingual = pieces["cls"] == "<s>"
    kind = "multilingual" if is_multilingual else model.config.model_type
    write_quantized(folder / quantized.NAME, model, *QUANTISED[kind])
    has_types = model.config.model_type == "bert"
    config: dict[str, Any] = model.config.to_diff_dict()
    config |= {"architectures": [type(model).__name__], "model_type": model.config.model_type}
    config |= {"dtype": "float32"}
    config["guard"] = {"over": OVER, "part": PART, "overlap": PART_OVERLAP, "discount": DISCOUNT}
    config.pop("_name_or_path", None)
    _write(folder / "config.json", config)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        {
            **(
                {"tokenizer_class": "PreTrainedTokenizerFast"}
                if is_multilingual
                else {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
            ),
            "model_max_length": WINDOW,
            "model_input_names": ["input_ids", *(["token_type_ids"] if has_types else []), "attention_mask"],
            **{f"{name}_token": piece for name, piece in pieces.items()},
        },
    )
    _write(folder / "calibration.json", calibration)


def write_quantized(path: Path, model: torch.nn.Module, layers: Kind, embeddings: Kind) -> None:
    """Write the weights as a GGUF file: matrices quantised in blocks of 32 as their kind, vectors in float32."""
    writer = gguf.GGUFWriter(path, "encoder")
    for name, value in model.state_dict().items():
        array = value.detach().to("cpu", torch.float32).numpy()
        if array.ndim == 2 and array.shape[1] % 32 == 0:
            kind = embeddings if "embeddings" in name else layers
            writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=False) + "\n")
