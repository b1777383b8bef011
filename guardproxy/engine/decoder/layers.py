"""Parts of transformers' layers that are put in the place of its own: the same results in fewer steps.

The last layer computes some parts only for the rows that are read. On a CPU the steps between matrix products write a
new tensor each, whose memory costs more than their arithmetic; here they work in place.
"""

import threading
from typing import Any

import torch
from transformers.activations import SiLUActivation

from guardproxy.engine.decoder.packed import packed_attention

# Attention that is projection, rotation of whole heads, attention, projection, and nothing else.
_PLAIN_ATTENTION = frozenset({"LlamaAttention", "MistralAttention", "Qwen2Attention", "GraniteAttention"})
# Norms that divide by the root mean square and multiply by `weight`.
_PLAIN_NORM = frozenset({"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "GraniteRMSNorm"})
# Feed-forward parts that are down(act(gate(x)) * up(x)).
_GATED = frozenset({"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "GraniteMLP", "Gemma2MLP"})


class RowSelection(threading.local):
    """The rows that the next pass of this thread reads."""

    rows: torch.Tensor


class ReadRows(torch.nn.Module):
    """A part of the last layer that is computed for the rows that are read; the others stay zero."""

    def __init__(self, inner: torch.nn.Module, reading: RowSelection) -> None:
        super().__init__()
        self.inner = inner
        self._reading = reading

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[1, row, size] in and out."""
        rows = self._reading.rows
        some: torch.Tensor = self.inner(hidden[:, rows])
        return hidden.new_zeros((1, hidden.shape[1], some.shape[-1])).index_copy_(1, rows, some)


def read_only(layer: Any) -> RowSelection:
    """Compute of `layer`, a model's last, only what the rows need that are read; the answer says which these are."""
    reading = RowSelection()
    layer.mlp = ReadRows(layer.mlp, reading)
    layer.self_attn.q_proj = ReadRows(layer.self_attn.q_proj, reading)
    layer.self_attn.o_proj = ReadRows(layer.self_attn.o_proj, reading)
    return reading


def work_in_place(decoder: Any) -> None:
    """Replace the parts of a float32 decoder's layers that are of a known form; those of any other form stay."""
    for parent in list(decoder.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ in _GATED:
                setattr(parent, name, Gated(child))
            elif type(child).__name__ in _PLAIN_NORM:
                setattr(parent, name, Norm(child))
    if all(type(layer.self_attn).__name__ in _PLAIN_ATTENTION for layer in decoder.layers):
        decoder.rotary_emb = RotaryAngles(decoder.rotary_emb)
        for layer in decoder.layers:
            layer.self_attn = Attention(layer.self_attn)


class Gated(torch.nn.Module):
    """The gated feed-forward part: down(act(gate(x)) * up(x))."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.gate, self.up, self.down = inner.gate_proj, inner.up_proj, inner.down_proj
        self.act = torch.nn.SiLU(inplace=True) if isinstance(inner.act_fn, SiLUActivation) else inner.act_fn

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[1, row, size] in and out."""
        out: torch.Tensor = self.down(self.act(self.gate(hidden)).mul_(self.up(hidden)))
        return out


class Norm(torch.nn.Module):
    """The root mean square norm."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.weight, self._eps = inner.weight, inner.variance_epsilon

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., size] in and out."""
        square = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True).square_()
        return torch.mul(hidden, square.div_(hidden.shape[-1]).add_(self._eps).rsqrt_()).mul_(self.weight)


class RotaryAngles(torch.nn.Module):
    """The angles of rotary positions as complex numbers of length 1, times the model's scale."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """[rows, 1, head size / 2] of the positions [1, rows]."""
        cos, sin = self.inner(hidden, position_ids)
        half = cos.shape[-1] // 2  # the other half repeats it
        return torch.complex(cos[0, :, :half], sin[0, :, :half])[:, None]


class Attention(torch.nn.Module):
    """Attention with rotary positions (Su et al. 2021), which turn pairs of a head's dimensions.

    transformers pairs dimension i with i + size / 2. The weights of queries and keys are reordered here so that pairs
    are neighbours: complex numbers, which one product turns in place. Scores do not depend on the order.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.layer_idx, self._size, self._scaling = inner.layer_idx, inner.head_dim, inner.scaling
        self.q_proj, self.k_proj = inner.q_proj, inner.k_proj
        self.v_proj, self.o_proj = inner.v_proj, inner.o_proj
        for linear in (self.q_proj, self.k_proj):
            for weights in linear.parameters():
                halves = weights.data.view(-1, 2, self._size // 2, *weights.shape[1:])
                weights.data = halves.transpose(1, 2).reshape(weights.shape)

    def forward(
        self, hidden_states: torch.Tensor, position_embeddings: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """[1, row, size] in and out."""

        def heads(rows: torch.Tensor) -> torch.Tensor:
            return rows.view(1, rows.shape[1], -1, self._size).transpose(1, 2)

        query, key = self.q_proj(hidden_states), self.k_proj(hidden_states)
        for each in (query, key):
            pairs = each.view(each.shape[1], -1, self._size // 2, 2)
            torch.view_as_complex(pairs).mul_(position_embeddings)
        value = heads(self.v_proj(hidden_states))
        out, _ = packed_attention(self, heads(query), heads(key), value, scaling=self._scaling, **kwargs)
        return self.o_proj(out.flatten(2)), None
