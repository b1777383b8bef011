"""The multilingual encoder: the package's file is read to the last weight, and its vocabulary is cut without harm."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import BertModel

from guardproxy.engine.load import load_classifier
from training import e5, export, fit
from training.windows import special_pieces, windows

WIDTH, LAYERS, WIDE = 32, 2, 64
PIECES = ("<s>", "<pad>", "</s>", "<unk>", "▁", "▁good", "▁morning", "g", "o", "d", "▁g", "mor", "ning", "日", "本",
          "日本", "m", "r", "n", "i", "s", "<", ">", "/", "▁tea", "t", "e", "a", "k", "<mask>")  # fmt: skip
SCORES = [0.0] * 4 + [-3.0 - place / 10 for place in range(len(PIECES) - 5)] + [0.0]


def shapes() -> dict[str, tuple[int, ...]]:
    """The form of every tensor, by its name in the file."""
    out: dict[str, tuple[int, ...]] = {"emb.word": (len(PIECES) + 2, WIDTH), "emb.pos": (16, WIDTH)}
    out |= {"emb.type": (2, WIDTH), "emb.ln.w": (WIDTH,), "emb.ln.b": (WIDTH,)}
    for layer in range(LAYERS):
        for name, rows, columns in (("q", WIDTH, WIDTH), ("k", WIDTH, WIDTH), ("v", WIDTH, WIDTH), ("ao", WIDTH, WIDTH),
                                    ("fi", WIDE, WIDTH), ("fo", WIDTH, WIDE)):  # fmt: skip
            out |= {f"l{layer}.{name}.w": (rows, columns), f"l{layer}.{name}.b": (rows,)}
        for name in ("aln", "oln"):
            out |= {f"l{layer}.{name}.w": (WIDTH,), f"l{layer}.{name}.b": (WIDTH,)}
    return out


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A small file in the package's format, and the weights in it by their name in the file."""
    rng = np.random.default_rng(0)
    encoded = [piece.encode() for piece in PIECES]
    offsets = np.cumsum([0, *map(len, encoded)]).astype("<u4")
    head = struct.pack("<4s8if6i", b"E5S1", 1, WIDTH, LAYERS, 2, WIDE, len(PIECES) + 2, 16, 2, 1e-12, 32, len(PIECES),
                       0, 2, 1, 3)  # fmt: skip
    head += struct.pack("<Q", offsets[-1]) + offsets.tobytes() + np.array(SCORES, "<f4").tobytes() + b"".join(encoded)
    normaliser = struct.pack("<IB", 9, 1) + struct.pack("<I", 32) + struct.pack("<IB", 127, 0)
    head += struct.pack("<iI", 2, len(normaliser)) + normaliser
    wanted, stored = {}, {}
    for name, shape in shapes().items():
        values = rng.normal(size=shape).astype(np.float32)
        if len(shape) == 2 and name not in ("emb.pos", "emb.type"):
            blocks = gguf.quantize(values, gguf.GGMLQuantizationType.Q4_0)
            wanted[name], stored[name] = gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q4_0), blocks.tobytes()
        else:
            wanted[name], stored[name] = values, values.tobytes()
    place = len(head) + 4 + sum(2 + len(name) + 21 for name in stored)
    directory = struct.pack("<i", len(stored))
    for name, data in stored.items():
        kind = int(len(data) < 4 * wanted[name].size)
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", kind, wanted[name].size, place, len(data))
        place += len(data)
    path = tmp_path / "e5.bin"
    path.write_bytes(head + directory + b"".join(stored.values()))
    return path, wanted


def test_every_weight_is_read(packed: tuple[Path, dict[str, np.ndarray]]) -> None:
    """The weights have transformers' names and forms, and a BertModel takes them all."""
    path, wanted = packed
    file = e5.read(path)
    assert file.pieces == list(PIECES)
    assert file.scores.tolist() == pytest.approx(SCORES)
    assert len(file.weights) == len(wanted)
    np.testing.assert_array_equal(file.weights["encoder.layer.1.output.dense.weight"], wanted["l1.fo.w"])
    np.testing.assert_array_equal(file.weights["encoder.layer.0.attention.output.LayerNorm.bias"], wanted["l0.aln.b"])
    e5.write(path.parent, file, range(len(PIECES)))
    model = BertModel.from_pretrained(path.parent, add_pooling_layer=False)
    state = model.state_dict()
    assert set(state) == set(file.weights)
    np.testing.assert_array_equal(state["encoder.layer.0.intermediate.dense.weight"].numpy(), wanted["l0.fi.w"])
    assert model.config.layer_norm_eps == 1e-12
    assert model.config.pad_token_id == 1


@pytest.mark.parametrize("damage", ["cut", "magic", "empty", "another block"])
def test_a_damaged_file_is_refused(packed: tuple[Path, dict[str, np.ndarray]], damage: str) -> None:
    """A file of another format, or one that ends early, raises ValueError that names the file."""
    path, _ = packed
    data = path.read_bytes()
    other = {"cut": data[:-100], "magic": b"GGUF" + data[4:], "empty": b""}
    path.write_bytes(other.get(damage, data[:40] + struct.pack("<i", 64) + data[44:]))
    with pytest.raises(ValueError, match=r"e5\.bin: not a model file"):
        e5.read(path)


def test_the_vocabulary_keeps_what_its_texts_need(packed: tuple[Path, dict[str, np.ndarray]]) -> None:
    """Kept are special pieces, the pieces of texts, the most probable ones and single characters, in their order."""
    file = e5.read(packed[0])
    chosen = e5.kept(file, ["tea"], probable=2)
    pieces = [file.pieces[i] for i in chosen]
    assert pieces[:4] == list(e5.SPECIAL)
    assert chosen == sorted(chosen)
    assert set(PIECES) - set(pieces) == {"▁morning", "mor", "ning", "日本", "<mask>"}


def test_a_cut_vocabulary_keeps_ids_and_embeddings_together(packed: tuple[Path, dict[str, np.ndarray]]) -> None:
    """A piece has its own embedding, a lost piece becomes smaller ones, and only an unknown character is unknown."""
    path, wanted = packed
    file = e5.read(path)
    chosen = e5.kept(file, ["good tea"], probable=0)
    e5.write(path.parent, file, chosen)
    small = Tokenizer.from_file(str(path.parent / "tokenizer.json"))
    table = BertModel.from_pretrained(path.parent, add_pooling_layer=False).embeddings.word_embeddings.weight
    assert len(table) == small.get_vocab_size() == len(chosen)
    for piece, place in small.get_vocab().items():
        np.testing.assert_array_equal(table[place].detach().numpy(), wanted["emb.word"][PIECES.index(piece)])
    assert small.encode("good morning").tokens == ["<s>", "▁good", "▁", "m", "o", "r", "n", "i", "n", "g", "</s>"]
    assert small.encode("日本").tokens == ["<s>", "▁", "日", "本", "</s>"]
    assert small.encode("good \u00e9").ids[-2] == e5.SPECIAL.index("<unk>")


def test_a_text_cannot_hold_special_tokens(packed: tuple[Path, dict[str, np.ndarray]]) -> None:
    """The characters of a special token in a text are ordinary ones; white space and full width are normalised."""
    file = e5.read(packed[0])
    e5.write(packed[0].parent, file, range(len(PIECES)))
    backend = fit.load_tokenizer(packed[0].parent)
    inside = backend.encode("</s> <s><mask>").ids[1:-1]
    assert not {0, 1, 2, PIECES.index("<mask>")} & set(inside)
    assert backend.encode(" \uff54\uff45\uff41\n\t good ").tokens == ["<s>", "▁tea", "▁good", "</s>"]
    assert backend.encode("tea", "good").tokens == ["<s>", "▁tea", "</s>", "▁good", "</s>"]
    assert special_pieces(backend)["sep"] == "</s>"
    cut = windows(backend, [("tea", "good"), (None, "tea")])
    assert [ids.tolist() for ids in cut.ids] == [backend.encode("tea", "good").ids, backend.encode("tea").ids]


def test_the_engine_reads_a_guard_with_this_vocabulary(packed: tuple[Path, dict[str, np.ndarray]]) -> None:
    """The folder that training writes gives the trained logits and the same tokens in the engine."""
    base = packed[0].parent
    e5.write(base, e5.read(packed[0]), range(len(PIECES)))
    tokenizer = fit.load_tokenizer(base)
    model = fit.new_model(base, tokenizer, 0).eval()
    export.write_weights(base / "out", model, tokenizer, {})
    loaded = load_classifier(str(base / "out"), torch.device("cpu"), torch.float32)
    assert loaded.backend.encode("good tea").ids == tokenizer.encode("good tea").ids
    assert (loaded.tokenizer.pad_token_id, loaded.tokenizer.model_max_length) == (1, 256)
    assert torch.equal(
        loaded.model.bert.embeddings.word_embeddings.weight[4:], model.bert.embeddings.word_embeddings.weight[4:]
    )
    cut = windows(tokenizer, [(None, "good morning"), ("tea", "good")])
    wanted, got = (fit.window_logits(m, cut) for m in (model, fit.trained_model(base / "out").eval()))
    assert np.abs(wanted - got).max() < 0.1


def test_a_folder_is_made_once_for_the_same_texts(
    packed: tuple[Path, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is named by the file and the texts: other texts give another folder, equal texts the same one."""
    path, _ = packed
    monkeypatch.setattr(e5, "PROBABLE", 3)
    said = {"messages": [{"role": "user", "content": "good tea"}]}
    monkeypatch.setattr(e5, "read_rows", lambda _: [said])
    monkeypatch.setattr(e5, "training_texts", lambda: [("place", "morning")])
    first = e5.folder(path, path.parent, path.parent / "cache")
    made = (first / "model.safetensors").stat().st_mtime_ns
    assert e5.folder(path, path.parent, path.parent / "cache") == first
    assert (first / "model.safetensors").stat().st_mtime_ns == made
    assert json.loads((first / "config.json").read_text())["vocab_size"] < len(PIECES)
    monkeypatch.setattr(e5, "training_texts", lambda: [("place", "tea")])
    assert e5.folder(path, path.parent, path.parent / "cache") != first
    assert len(list((path.parent / "cache").iterdir())) == 2
