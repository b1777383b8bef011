"""Attention over the blocks of a packed pass, merged by log-sum-exp, as transformers' modules call it."""

from typing import Any

import torch

from guardproxy.engine.bfloat16_attention import bfloat16_attention
from guardproxy.engine.decoder.packed import DecoderLane

# The name under which the attention function is registered with transformers.
NAME = "guardproxy_packed"


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    lane: DecoderLane,
    scaling: float,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function for transformers: [1, heads, rows, size] in, [1, rows, heads, size] out.

    `attention_mask` is not used: the lane's plan states what each row attends to.
    """
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    # Store before attending: the kernel reads the lane's own keys from the scratch, and later lanes wait for them.
    lane.store_keys(layer, key[0], value[0])
    return lane.plan.kernel(lane, layer, query[0], scaling, softcap or 0.0)[None], None


def blockwise_attention(lane: DecoderLane, layer: int, query: torch.Tensor, scale: float, cap: float) -> torch.Tensor:
    """The kernel for every device: block by block. Query heads that share key heads use them without a copy."""
    wanted = lane.attention_rows(layer)
    heads, all_rows, size = query.shape
    if wanted.rows is not None:
        query = query[:, wanted.rows]
    rows = query.shape[1]
    scratch = lane.plan.scratch[layer]
    query = query.to(scratch.dtype)
    kv_heads = scratch.shape[1]
    query = query.view(kv_heads, heads // kv_heads, rows, size)
    # Allocated in the order of the result, so that the last permute and flatten need no copy.
    # Parts are merged in float32: every merge would round the sum of the parts before it.
    out = query.new_zeros(rows, kv_heads, heads // kv_heads, size, dtype=torch.float32).permute(1, 2, 0, 3)
    total = query.new_full((kv_heads, heads // kv_heads, rows), -torch.inf, dtype=torch.float32)
    for diagonal in wanted.diagonal_blocks:
        part = slice(diagonal.low - wanted.low, diagonal.high - wanted.low)
        keys, values = scratch[:, :, diagonal.low : diagonal.high].unbind(0)
        if diagonal.earlier is not None:
            before = diagonal.earlier.of(layer)
            keys, values = torch.cat((before[0], keys), 1), torch.cat((before[1], values), 1)
        causal = diagonal.mask is None
        out[:, :, part], total[:, :, part] = attend(
            query[:, :, part], keys, values, scale, cap, causal=causal, mask=diagonal.mask
        )
    for block in wanted.key_blocks:
        part = slice(block.first - wanted.low, block.last - wanted.low)
        keys, values = lane.load_keys(layer, block)
        # Every query sees every key, so the heads that share keys can become rows of one larger product.
        queries = query[:, :, part]
        if not cap and query.device.type == "cpu" and query.dtype == torch.bfloat16:
            logsumexp = total.new_empty((kv_heads, queries[0].shape[:2].numel()))
            attended = bfloat16_attention(queries.flatten(1, 2) * scale, keys, values, logsumexp=logsumexp)
        else:
            attended, logsumexp = attend(queries.flatten(1, 2)[:, None], keys, values, scale, cap)
        attended, logsumexp = attended.view(queries.shape), logsumexp.reshape(queries.shape[:-1])
        # The weight of a new part is e^new / (e^new + e^old) = sigmoid(new - old). For a row without any part yet, old
        # is -inf and the weight 1.
        known = total[:, :, part]
        out[:, :, part].lerp_(attended.float(), torch.sigmoid(logsumexp - known)[..., None])
        total[:, :, part] = torch.logaddexp(known, logsumexp)
    out = out.permute(2, 0, 1, 3).flatten(1, 2).to(query.dtype)
    if wanted.rows is None:
        return out
    # transformers expects all rows; the rest stays zero, and SelectedRows drops it in the projection that follows.
    return out.new_zeros((all_rows, heads, size)).index_copy_(0, wanted.rows, out)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    cap: float,
    *,
    causal: bool = False,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of [groups, heads, n, size] over [groups, m, size], and its log-sum-exp [groups, heads, n]."""
    key, value = key[:, None].expand(-1, query.shape[1], -1, -1), value[:, None].expand(-1, query.shape[1], -1, -1)
    if not cap and query.device.type == "cpu" and query.dtype in (torch.float32, torch.bfloat16):
        # The public scaled_dot_product_attention does not return the log-sum-exp, which merging needs.
        out, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(  # noqa: SLF001
            query, key, value, 0.0, causal, attn_mask=mask, scale=scale
        )
        return out, logsumexp
    scores = (query @ key.transpose(-1, -2)).float() * scale
    if cap:
        scores = torch.tanh(scores / cap) * cap  # before the mask, whose -inf tanh would make finite
    if causal:
        size = scores.shape[-1]
        scores = scores.masked_fill(torch.ones(size, size, dtype=torch.bool, device=scores.device).triu(1), -torch.inf)
    if mask is not None:
        scores = scores + mask
    logsumexp = torch.logsumexp(scores, -1)
    return (torch.exp(scores - logsumexp[..., None]).to(value.dtype) @ value), logsumexp
