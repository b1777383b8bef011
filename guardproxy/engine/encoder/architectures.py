"""BERT and MPNet classifiers as steps on rows, made from their weights by the names that transformers gives them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from guardproxy.engine.number_format import LinearSize, NumberFormat, Product

Rows = Callable[[torch.Tensor], torch.Tensor]

# MPNet's positions begin behind this index.
_MPNET_PADDING = 1
_ACTIVATIONS: dict[str, Rows] = {"gelu": functional.gelu, "relu": functional.relu}


class Linear(NamedTuple):
    """The weight [outputs, inputs] and the bias [outputs] of a linear layer."""

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True)
class Layer:
    """One encoder layer: its products, norms and activation. Queries, keys and values are one product."""

    query_key_value: Product
    out: Product
    attention_norm: Rows
    up: Product
    activate: Rows
    down: Product
    norm: Rows


@dataclass(frozen=True, slots=True)
class Architecture:
    """An encoder as steps on rows [tokens, size].

    `embed` makes rows from token ids, segment types and positions, `classify` logits from the first tokens' rows; both
    in the model's own type. `bias` is added to the attention scores before the softmax, [heads, longest window, longest
    window], or None.
    """

    embed: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    layers: tuple[Layer, ...]
    classify: Rows
    bias: torch.Tensor | None = None


class _Names(NamedTuple):
    """Where the weights of an architecture are: the linear layers and norms of an encoder layer behind its number."""

    base: str
    query: str
    key: str
    value: str
    out: str
    attention_norm: str
    up: str = "intermediate.dense"
    down: str = "output.dense"
    norm: str = "output.LayerNorm"

    @property
    def linears(self) -> tuple[str, ...]:
        """The linear layers of an encoder layer, in order."""
        return self.query, self.key, self.value, self.out, self.up, self.down


_NAMES = {
    "BertForSequenceClassification": _Names(
        "bert",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        out="attention.output.dense",
        attention_norm="attention.output.LayerNorm",
    ),
    "MPNetForSequenceClassification": _Names(
        "mpnet",
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        out="attention.attn.o",
        attention_norm="attention.LayerNorm",
    ),
}


def supports(name: str, config: Any) -> bool:
    """Whether the class of transformers named `name` with this config is an encoder that this module knows."""
    known = name in _NAMES and getattr(config, "hidden_act", "") in _ACTIVATIONS
    return known and not getattr(config, "is_decoder", False)


def shapes_of(name: str, config: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor, by name, of a model that `supports` accepts."""
    names, size, inner = _NAMES[name], config.hidden_size, config.intermediate_size
    embeddings = f"{names.base}.embeddings"
    outputs = (config.num_labels, size)
    tables = {
        f"{embeddings}.word_embeddings": (config.vocab_size, size),
        f"{embeddings}.position_embeddings": (config.max_position_embeddings, size),
    }
    if names.base == "bert":
        tables[f"{embeddings}.token_type_embeddings"] = (config.type_vocab_size, size)
        linears = {"bert.pooler.dense": (size, size), "classifier": outputs}
    else:
        buckets = (config.relative_attention_num_buckets, config.num_attention_heads)
        tables["mpnet.encoder.relative_attention_bias"] = buckets
        linears = {"classifier.dense": (size, size), "classifier.out_proj": outputs}
    norms = [f"{embeddings}.LayerNorm"]
    for index in range(config.num_hidden_layers):
        layer = f"{names.base}.encoder.layer.{index}"
        sizes = dict.fromkeys(names.linears, (size, size)) | {names.up: (inner, size), names.down: (size, inner)}
        linears |= {f"{layer}.{linear}": shape for linear, shape in sizes.items()}
        norms += [f"{layer}.{names.attention_norm}", f"{layer}.{names.norm}"]
    return (
        {f"{table}.weight": shape for table, shape in (tables | linears).items()}
        | {f"{linear}.bias": shape[:1] for linear, shape in linears.items()}
        | {f"{norm}.{kind}": (size,) for norm in norms for kind in ("weight", "bias")}
    )


class EncoderWeights:
    """The weights of a model that `supports` accepts, by name. `name` is its class in transformers."""

    def __init__(self, name: str, config: Any, state: Mapping[str, torch.Tensor]) -> None:
        self._names, self._config, self._state = _NAMES[name], config, state

    def linear_sizes(self) -> list[LinearSize]:
        """The sizes of the linear layers of the encoder, in order."""
        size, inner = self._config.hidden_size, self._config.intermediate_size
        return [*[(size, size)] * 4, (size, inner), (inner, size)] * self._config.num_hidden_layers

    def architecture(self, number_format: NumberFormat) -> Architecture:
        """The model with layers in `number_format`."""
        layers = tuple(
            self._encoder_layer(self._layer(index), number_format) for index in range(self._config.num_hidden_layers)
        )
        if self._names.base == "bert":
            return Architecture(self._bert_embed(), layers, self._head("bert.pooler.dense", "classifier"))
        bias = _position_bias(self._state["mpnet.encoder.relative_attention_bias.weight"], self._config)
        head = self._head("classifier.dense", "classifier.out_proj")
        return Architecture(self._mpnet_embed(), layers, head, bias.to(number_format.dtype))

    def _layer(self, index: int) -> str:
        return f"{self._names.base}.encoder.layer.{index}"

    def _linear(self, name: str) -> Linear:
        return Linear(self._state[f"{name}.weight"], self._state[f"{name}.bias"])

    def _norm(self, name: str) -> Rows:
        weight, bias = self._linear(name)
        return partial(
            functional.layer_norm,
            normalized_shape=weight.shape,
            weight=weight,
            bias=bias,
            eps=self._config.layer_norm_eps,
        )

    def _head(self, first: str, second: str) -> Rows:
        """Logits by two linear layers with a tanh between them."""
        inner, outer = self._linear(first), self._linear(second)
        return lambda rows: functional.linear(torch.tanh(functional.linear(rows, *inner)), *outer)

    def _bert_embed(self) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
        words, kinds, places, norm = self._embeddings("word", "token_type", "position")
        return lambda ids, types, positions: norm(words(ids) + kinds(types) + places(positions))

    def _mpnet_embed(self) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
        """MPNet (Song et al. 2020, arXiv:2004.09297) has no segment types, and its positions begin later."""
        words, places, norm = self._embeddings("word", "position")
        return lambda ids, _, positions: norm(words(ids) + places(positions + _MPNET_PADDING + 1))

    def _embeddings(self, *kinds: str) -> list[Rows]:
        """The tables of `kinds`, which take indices, and the norm behind them."""
        base = f"{self._names.base}.embeddings"
        tables = [self._state[f"{base}.{kind}_embeddings.weight"] for kind in kinds]
        return [*(partial(functional.embedding, weight=table) for table in tables), self._norm(f"{base}.LayerNorm")]

    def _encoder_layer(self, name: str, number_format: NumberFormat) -> Layer:
        query, key, value, out, up, down = (self._linear(f"{name}.{linear}") for linear in self._names.linears)
        # Scaled queries give scaled scores.
        scale = (self._config.hidden_size // self._config.num_attention_heads) ** -0.5
        return Layer(
            number_format.product(
                torch.cat((query.weight * scale, key.weight, value.weight)),
                torch.cat((query.bias * scale, key.bias, value.bias)),
            ),
            number_format.product(*out),
            self._norm(f"{name}.{self._names.attention_norm}"),
            number_format.product(*up),
            _ACTIVATIONS[self._config.hidden_act],
            number_format.product(*down),
            self._norm(f"{name}.{self._names.norm}"),
        )


def _position_bias(table: torch.Tensor, config: Any) -> torch.Tensor:
    """MPNet's attention bias by relative position, [heads, positions, positions], from its `table` [buckets, heads].

    Half of the buckets are for keys behind the query. Of each half, one half has a bucket for every distance, and the
    other one buckets that grow with the logarithm of the distance up to 128 (Raffel et al. 2020, arXiv:1910.10683).
    """
    places = torch.arange(config.max_position_embeddings)
    offset = places[None] - places[:, None]
    half = len(table) // 2
    exact, distance = half // 2, offset.abs()
    far = exact + ((distance.float() / exact).log() / math.log(128 / exact) * (half - exact)).long()
    bucket = torch.where(distance < exact, distance, far.clamp(max=half - 1)) + half * (offset > 0)
    return functional.embedding(bucket, table).permute(2, 0, 1).contiguous()
