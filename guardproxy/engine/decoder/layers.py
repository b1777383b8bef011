"""Replacements for parts of transformers' layers: the same results in fewer steps.

The last layer computes some parts only for the selected rows. On a CPU, every step between two matrix products writes a
new tensor, and the memory traffic costs more than the arithmetic; these parts work in place.
"""

import threading
from typing import Any

import torch
from transformers.activations import SiLUActivation

from guardproxy.engine.decoder.attention import packed_attention

# Attention modules that only project, rotate whole heads, attend and project.
_ROTARY_ATTENTION = frozenset({"LlamaAttention", "MistralAttention", "Qwen2Attention", "GraniteAttention"})
# Norms that divide by the root mean square and multiply by `weight`.
_RMS_NORM = frozenset({"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "GraniteRMSNorm"})
# Feed-forward modules that compute down(act(gate(x)) * up(x)).
_GATED_MLP = frozenset({"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "GraniteMLP", "Gemma2MLP"})


class RowSelection(threading.local):
    """The rows that are read behind the last layer. Per thread, because the lanes of a pass share the modules."""

    rows: torch.Tensor


class SelectedRows(torch.nn.Module):
    """A module of the last layer that is computed for the selected rows only; the other rows are zero."""

    def __init__(self, inner: torch.nn.Module, selection: RowSelection) -> None:
        super().__init__()
        self.inner = inner
        self._selection = selection

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[1, row, size] in and out."""
        rows = self._selection.rows
        selected: torch.Tensor = self.inner(hidden[:, rows])
        return selected.new_zeros((1, hidden.shape[1], selected.shape[-1])).index_copy_(1, rows, selected)


def select_rows(last_layer: Any) -> RowSelection:
    """Compute a model's last layer only for the selected rows; return the selection, to be set before each pass.

    Keys and values are still computed for every row: the selected rows attend to them, and the prefix cache keeps them.
    """
    selection = RowSelection()
    last_layer.mlp = SelectedRows(last_layer.mlp, selection)
    last_layer.self_attn.q_proj = SelectedRows(last_layer.self_attn.q_proj, selection)
    last_layer.self_attn.o_proj = SelectedRows(last_layer.self_attn.o_proj, selection)
    return selection


def use_in_place_modules(decoder: Any, dtype: torch.dtype) -> None:
    """Replace the parts of a decoder's layers that have a known form; leave the others as they are.

    `dtype` is the type in which the linear layers compute. The decoder's last norm keeps the type of its input.
    """
    for parent in list(decoder.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ in _GATED_MLP:
                setattr(parent, name, GatedMLP(child))
            elif type(child).__name__ in _RMS_NORM:
                setattr(parent, name, RMSNorm(child, None if parent is decoder else dtype))
    # All layers or none: they share the rotary embedding, which takes another form here.
    if all(type(layer.self_attn).__name__ in _ROTARY_ATTENTION for layer in decoder.layers):
        decoder.rotary_emb = RotaryAngles(decoder.rotary_emb)
        for layer in decoder.layers:
            layer.self_attn = RotaryAttention(layer.self_attn)


class GatedMLP(torch.nn.Module):
    """The gated feed-forward part: down(act(gate(x)) * up(x))."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.gate, self.up, self.down = inner.gate_proj, inner.up_proj, inner.down_proj
        self.act = torch.nn.SiLU(inplace=True) if isinstance(inner.act_fn, SiLUActivation) else inner.act_fn

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[1, row, size] in and out."""
        out: torch.Tensor = self.down(self.act(self.gate(hidden)).mul_(self.up(hidden)))
        return out


class RMSNorm(torch.nn.Module):
    """The root mean square norm (Zhang and Sennrich 2019), computed in float32."""

    def __init__(self, inner: Any, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.weight, self._eps, self._dtype = inner.weight.data.float(), inner.variance_epsilon, dtype

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., size] in and out."""
        # One product is not in place: `hidden` is also the residual, which must stay as it is.
        square = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=torch.float32).square_()
        scale = square.div_(hidden.shape[-1]).add_(self._eps).rsqrt_()
        return torch.mul(hidden, scale).mul_(self.weight).to(self._dtype or hidden.dtype)


class RotaryAngles(torch.nn.Module):
    """The angles of the rotary position embedding as complex numbers of length 1, times the model's scale."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """[rows, 1, head size / 2] of the positions [1, rows]."""
        cos, sin = self.inner(hidden[:, :1].float(), position_ids)  # only the type of `hidden` matters
        half = cos.shape[-1] // 2  # transformers repeats the angles for the second half of a head
        return torch.complex(cos[0, :, :half], sin[0, :, :half])[:, None]


class RotaryAttention(torch.nn.Module):
    """Attention with rotary position embedding (RoPE, Su et al. 2021), computed in place by one complex product.

    transformers pairs dimension i of a head with i + size / 2. The query and key weights are reordered here so that
    pairs are neighbours and can be viewed as complex numbers. Queries and keys are reordered alike, so their scores
    stay the same.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.layer_idx, self._size, self._scaling = inner.layer_idx, inner.head_dim, inner.scaling
        self.q_proj, self.k_proj = inner.q_proj, inner.k_proj
        self.v_proj, self.o_proj = inner.v_proj, inner.o_proj
        for linear in (self.q_proj, self.k_proj):
            for weights in linear.parameters():  # the bias as well, if there is one
                halves = weights.data.view(-1, 2, self._size // 2, *weights.shape[1:])
                weights.data = halves.transpose(1, 2).reshape(weights.shape)

    def forward(
        self, hidden_states: torch.Tensor, position_embeddings: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """[1, row, size] in and out."""

        def heads(rows: torch.Tensor) -> torch.Tensor:
            return rows.view(1, rows.shape[1], -1, self._size).transpose(1, 2)

        def rotated(projected: torch.Tensor) -> torch.Tensor:
            single = projected.float()  # there are no complex numbers of bfloat16
            pairs = single.view(projected.shape[1], -1, self._size // 2, 2)
            torch.view_as_complex(pairs).mul_(position_embeddings)
            return heads(single.to(projected.dtype))

        query, key = rotated(self.q_proj(hidden_states)), rotated(self.k_proj(hidden_states))
        value = heads(self.v_proj(hidden_states))
        out, _ = packed_attention(self, query, key, value, scaling=self._scaling, **kwargs)
        return self.o_proj(out.flatten(2)), None
