"""Fine-tuning of the encoder: masked multi-label loss, layer-wise learning rates, averaged weights; and prediction."""

from __future__ import annotations

import functools
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    MPNetConfig,
    MPNetForSequenceClassification,
)

from guardproxy.engine import quantized
from training.checkpoints import Checkpoints, Pace
from training.labels import OUTPUTS
from training.lanes import bound, device, in_lanes, passes, read_all
from training.mixture import Example
from training.recipes import Recipe
from training.steps import Steps
from training.upper import UpperLayers, lower_states
from training.windows import DISCOUNT, Windows, parts, windows

Array = NDArray[np.float32]
Model = torch.nn.Module  # called with ids, mask and types, it returns an object with .logits
_POOL = 50  # batches that are sorted by length together, so that a batch has little padding
_SAVED = 100  # steps between two checkpoints of a stage
# On a CPU, attention dropout costs most of a step, because torch cannot use its fused kernel with it. Without dropout,
# plain matrix products are even faster than that kernel, whose backward pass is slow over short rows.
_ATTENTION = "eager"
MPNET_SPECIAL = {"[PAD]": "<pad>", "[CLS]": "<s>", "[SEP]": "</s>", "[UNK]": "<unk>", "[MASK]": "<mask>"}
_LATER = 0.5  # weight of a long unsafe text's later windows: the harm may be in another window


@dataclass(slots=True)
class Learnable:
    """Windows with their targets and weights, both of shape (windows, outputs)."""

    windows: Windows
    target: Array
    weight: Array


def load_tokenizer(base: Path) -> Tokenizer:
    """The tokenizer of `base`, without truncation and padding."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # as in the engine: a text cannot hold special tokens
    return tokenizer


def new_model(base: Path, tokenizer: Tokenizer, seed: int) -> Model:
    """The encoder of `base`, a BERT or an MPNet, with a new head of eight logits on the first token."""
    torch.manual_seed(seed)
    names: dict[str, Any] = {
        "num_labels": len(OUTPUTS),
        "id2label": dict(enumerate(OUTPUTS)),
        "label2id": {name: i for i, name in enumerate(OUTPUTS)},
        "problem_type": "multi_label_classification",
        "attention_probs_dropout_prob": 0.0,
    }
    if json.loads((base / "config.json").read_text())["model_type"] == "mpnet":
        return _new_mpnet(base, tokenizer, names)
    config = BertConfig.from_pretrained(base, attn_implementation=_ATTENTION, **names)
    model = BertForSequenceClassification(config)
    encoder = BertModel.from_pretrained(base, add_pooling_layer=False, dtype=torch.float32)
    model.bert.embeddings.load_state_dict(encoder.embeddings.state_dict())
    model.bert.encoder.load_state_dict(encoder.encoder.state_dict())
    return model


def _new_mpnet(base: Path, tokenizer: Tokenizer, names: dict[str, Any]) -> MPNetForSequenceClassification:
    """The MPNet of `base`, its word embeddings in the order of `tokenizer`, the guard's; its pooler begins the head.

    Raises KeyError if its vocabulary lacks a word piece of the guard's.
    """
    own = Tokenizer.from_file(str(base / "tokenizer.json")).get_vocab()
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    table = [own[piece] if piece in own else own[MPNET_SPECIAL[piece]] for piece, _ in pieces]
    model = MPNetForSequenceClassification(MPNetConfig.from_pretrained(base, **names | {"vocab_size": len(table)}))
    state = load_file(base / "model.safetensors")
    encoder = {name: value for name, value in state.items() if not name.startswith("pooler.")}
    encoder.pop("embeddings.position_ids", None)
    encoder["embeddings.word_embeddings.weight"] = encoder["embeddings.word_embeddings.weight"][table]
    model.mpnet.load_state_dict(encoder)
    model.classifier.dense.load_state_dict({kind: state[f"pooler.dense.{kind}"] for kind in ("weight", "bias")})
    return model


def trained_model(folder: Path) -> Model:
    """A guard that an earlier run wrote, in float32."""
    kind = AutoModelForSequenceClassification
    if (folder / quantized.NAME).is_file():
        model: Model = quantized.load_module(kind, folder, torch.float32)
    else:
        model = kind.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=_ATTENTION, attention_probs_dropout_prob=0.0
        )
    return model


def learnable(tokenizer: Tokenizer, examples: Sequence[Example], recipe: Recipe, seed: int) -> Learnable:
    """Tokenise the examples and cut them into windows; of a long text, keep its first window and a random few."""
    rng = random.Random(seed)
    cut = windows(tokenizer, [(e.question, e.text) for e in examples], recipe.window)
    by_owner: dict[int, list[int]] = {}
    for index, owner in enumerate(cut.owner):
        by_owner.setdefault(owner, []).append(index)
    keep: list[tuple[int, bool]] = []
    for indices in by_owner.values():
        later = rng.sample(indices[1:], min(recipe.windows - 1, len(indices) - 1))
        keep.extend([(indices[0], False), *((i, True) for i in later)])
    target = np.zeros((len(keep), len(OUTPUTS)), dtype=np.float32)
    weight = np.zeros_like(target)
    for position, (index, is_later) in enumerate(keep):
        for name, (value, label_weight) in examples[cut.owner[index]].labels.items():
            column = OUTPUTS.index(name)
            target[position, column] = value
            weight[position, column] = label_weight * (_LATER if is_later and value > 0 else 1.0)
    kept = Windows([cut.ids[i] for i, _ in keep], [cut.first[i] for i, _ in keep], [cut.owner[i] for i, _ in keep])
    return Learnable(kept, target, weight)


def join(first: Learnable, second: Learnable) -> Learnable:
    """The windows of both; `owner` is still the index within `first` or `second`."""
    a, b = first.windows, second.windows
    return Learnable(
        Windows(a.ids + b.ids, a.first + b.first, a.owner + b.owner),
        np.concatenate([first.target, second.target]),
        np.concatenate([first.weight, second.weight]),
    )


def blend(data: Learnable, chance: Array, share: float) -> Learnable:
    """Mix the labels with the teachers' probabilities; cross-entropy is linear in its target, so one term is enough."""
    weight = (1 - share) * data.weight + share
    target = ((1 - share) * data.weight * data.target + share * chance) / weight
    return Learnable(data.windows, target.astype(np.float32), weight.astype(np.float32))


def _logits(model: Model, cut: Windows, chosen: Sequence[int], where: torch.device) -> torch.Tensor:
    """The model's logits of the chosen windows, shape (windows, outputs). An MPNet has no segment types."""
    inputs = _batch(cut, chosen, where)
    if isinstance(model, MPNetForSequenceClassification):
        inputs.pop("token_type_ids")
    logits: torch.Tensor = model(**inputs).logits
    return logits


def _batch(cut: Windows, chosen: Sequence[int], where: torch.device) -> dict[str, torch.Tensor]:
    longest = -(-max(len(cut.ids[i]) for i in chosen) // 8) * 8
    ids = np.zeros((len(chosen), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    types = np.zeros_like(ids)
    for row, i in enumerate(chosen):
        length = len(cut.ids[i])
        ids[row, :length] = cut.ids[i]
        mask[row, :length] = 1
        if cut.first[i]:
            types[row, cut.first[i] : length] = 1
    names = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return {name: torch.from_numpy(value).to(where, non_blocking=True) for name, value in names.items()}


def _batches(lengths: Sequence[int], size: int, rng: random.Random) -> Iterator[list[int]]:
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), size * _POOL):
        pool = sorted(order[start : start + size * _POOL], key=lambda i: lengths[i])
        batches.extend(pool[i : i + size] for i in range(0, len(pool), size))
    rng.shuffle(batches)
    yield from batches


def _layer(name: str) -> int | None:
    return int(name.split(".layer.")[1].split(".", maxsplit=1)[0]) if ".layer." in name else None


def _groups(model: Model, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups: the learning rate falls from head to embeddings; biases and norms have no weight decay."""
    layers = 1 + max(_layer(name) or 0 for name, _ in model.named_parameters())
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        layer = _layer(name)
        lowest = "embeddings" in name or "relative_attention_bias" in name  # the bias is added in every layer
        depth = layers - layer if layer is not None else layers + 1 if lowest else 0
        parameter.requires_grad_(depth <= layers + 1 - recipe.frozen)
        if not parameter.requires_grad:
            continue
        key = (recipe.rate * recipe.decay**depth, 0.0 if parameter.ndim < 2 else 0.01)
        groups.setdefault(key, []).append(parameter)
    return [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()]


@functools.cache
def _bfloat16_pays() -> bool:
    """Whether this CPU multiplies faster in bfloat16: some have the instruction, but at less than float32's rate."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = (torch.ones(1024, 768, dtype=dtype) for _ in range(2))
        tries = []
        for _ in range(5):
            began = time.perf_counter()
            functional.linear(left, right)
            tries.append(time.perf_counter() - began)
        seconds[dtype] = min(tries)
    return seconds[torch.bfloat16] < 0.9 * seconds[torch.float32]


def _bfloat16(where: torch.device) -> bool:
    """Whether products are computed in bfloat16: on CUDA, and on a CPU where it is faster."""
    return where.type == "cuda" or _bfloat16_pays()


def numbers() -> str:
    """Where and in which numbers the products are computed: both change the results by rounding."""
    where = device()
    return f"{where.type}, {'bfloat16' if _bfloat16(where) else 'float32'}"


def _autocast(where: torch.device) -> torch.autocast:
    """Autocast to bfloat16, where that is used."""
    return torch.autocast(where.type, dtype=torch.bfloat16, enabled=_bfloat16(where))


def fit(
    model: Model, data: Learnable, recipe: Recipe, seed: int, log: str, *, kept: Checkpoints | None = None
) -> Model:
    """Train `model` and print its loss; return a model with the exponential moving average of the weights.

    With checkpoints, under the name `log`, training begins where an earlier process left off.
    """
    torch.manual_seed(seed)
    where = device()
    model = model.to(where)
    groups = _groups(model, recipe)
    trained, logits_of = _trained_part(model, data.windows, recipe, log, kept)
    trained.train()
    total = recipe.epochs * -(-len(data.windows.ids) // recipe.batch)
    state = Steps(trained, groups, recipe, total)
    target, weight = (torch.from_numpy(a).to(where) for a in (data.target, data.weight))

    def backward(part: Sequence[int], size: int) -> torch.Tensor:
        """Add the gradients of a part of a batch of `size` windows; return its part of the loss."""
        index = torch.tensor(part, device=where)
        with _autocast(where):
            logits = logits_of(part)
        loss = functional.binary_cross_entropy_with_logits(
            logits.float(), target[index], weight=weight[index], reduction="sum"
        )
        (loss / size).backward()  # type: ignore[no-untyped-call]
        return loss.detach() / size

    if kept and (saved := kept.load(f"{log}-steps")):
        state.restore(saved)
    pace = Pace(f"{log} step", total, state.step)
    lengths = [len(ids) for ids in data.windows.ids]
    rng = random.Random(seed)
    batches = [chosen for _ in range(recipe.epochs) for chosen in _batches(lengths, recipe.batch, rng)]
    for chosen in batches[state.step :]:
        share = partial(backward, size=len(chosen))
        state.update(torch.stack(in_lanes(share, passes(chosen, lengths, bound(chosen, lengths)))).sum())
        if state.step % 50 == 0:
            pace.tell(state.step, f"loss {state.summed_loss() / 50:.4f} ")
        if kept and state.step % _SAVED == 0:
            kept.save(f"{log}-steps", state.saved())
    trained.load_state_dict(state.mean.module.state_dict())
    return model.eval()


def _trained_part(
    model: Model, cut: Windows, recipe: Recipe, log: str, kept: Checkpoints | None
) -> tuple[torch.nn.Module, Callable[[Sequence[int]], torch.Tensor]]:
    """The part of the model that is trained, and a function that gives the logits of chosen windows.

    Of an encoder with frozen layers these are the upper layers; the lower ones read every window once, now. But a
    MiniLM is trained as a whole: the stages that gave the shipped weights had dropout in its frozen layers too.
    """
    where = device()
    below = recipe.frozen - 1
    if recipe.base == "minilm" or below < 1:
        return model, lambda chosen: _logits(model, cut, chosen, where)
    lengths = [len(ids) for ids in cut.ids]
    ends = np.cumsum(lengths)
    model.eval()

    def read(states: NDArray[Any], chosen: Sequence[int]) -> None:
        with _autocast(where):
            found = lower_states(model, below, chosen, _batch(cut, chosen, where))
        for i, state in found.items():
            states[ends[i] - lengths[i] : ends[i]] = state.cpu().numpy()

    width = model.config.hidden_size
    states = torch.from_numpy(
        read_all(read, lengths, (int(ends[-1]), width), np.float16, name=f"{log}-states", kept=kept)
    )
    upper = UpperLayers(model, below)
    return upper, lambda chosen: upper([states[ends[i] - lengths[i] : ends[i]].to(where) for i in chosen])


@torch.no_grad()
def mean(models: Sequence[Model]) -> Model:
    """The first model, with the mean of all models' weights (Wortsman et al. 2022, arXiv 2203.05482)."""
    states = [model.state_dict() for model in models]
    for name, value in states[0].items():
        if value.is_floating_point():
            value.copy_(torch.stack([state[name] for state in states]).mean(0))
    return models[0]


def window_logits(model: Model, cut: Windows, name: str = "", kept: Checkpoints | None = None) -> Array:
    """The logits of every window in float32, shape (windows, outputs); checkpoints keep them as `name`."""
    where = next(model.parameters()).device

    @torch.inference_mode()
    def read(out: Array, chosen: Sequence[int]) -> None:
        with _autocast(where):
            out[chosen] = _logits(model, cut, chosen, where).float().cpu().numpy()

    shape = (len(cut.ids), len(OUTPUTS))
    return read_all(read, [len(ids) for ids in cut.ids], shape, np.float32, name=name, kept=kept)


def text_logits(
    model: Model,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str | None, str]],
    name: str = "",
    kept: Checkpoints | None = None,
) -> Array:
    """Each text's highest logit over its windows and its discounted parts, shape (texts, outputs)."""
    out = np.full((len(pairs), len(OUTPUTS)), -np.inf, dtype=np.float32)
    for kind, cut, discount in (
        ("windows", windows(tokenizer, pairs), 0.0),
        ("parts", parts(tokenizer, pairs), DISCOUNT),
    ):
        logits = window_logits(model, cut, f"{name}-{kind}", kept)
        np.maximum.at(out, np.asarray(cut.owner, dtype=int), logits - discount)
    return out
