"""Encoders in one row and in lanes: the same logits as the model's own forward, in any batch."""

from itertools import pairwise

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.engine.encoder.packed import PackedEncoder, lane_edges, pack_windows
from guardproxy.engine.lanes import LanePool
from guardproxy.engine.number_format import NumberFormat

CPU = torch.device("cpu")
FLOAT32 = NumberFormat(torch.float32)


def small(kind, **more):
    """A random model of two outputs."""
    config = kind.config_class(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=2,
        type_vocab_size=2,
        **more,
    )
    torch.manual_seed(5)
    return kind(config).eval().requires_grad_(False)


MODELS = {
    "bert": small(transformers.BertForSequenceClassification, initializer_range=0.2),
    "mpnet": small(transformers.MPNetForSequenceClassification, initializer_range=0.2),
}
MODEL = MODELS["bert"]
POOLS = {threads: LanePool(threads) for threads in (1, 2, 3, 4)}

windows = st.lists(
    st.lists(st.tuples(st.integers(2, 98), st.integers(0, 1)), min_size=1, max_size=60), min_size=1, max_size=6
)


def plain(window, model=MODEL):
    """The logits of one window by the model's own forward."""
    with torch.inference_mode():
        ids, types = (torch.tensor([values]) for values in zip(*window, strict=True))
        inputs = {"token_type_ids": types} if model is MODELS["bert"] else {}
        return model(input_ids=ids, **inputs).logits[0]


@settings(deadline=None, max_examples=100)
@given(
    windows=windows,
    threads=st.sampled_from(sorted(POOLS)),
    name=st.sampled_from(sorted(MODELS)),
    number_format=st.sampled_from([FLOAT32, NumberFormat(torch.float32, packed=True), NumberFormat(torch.bfloat16)]),
)
def test_every_window_has_the_logits_of_the_plain_model(windows, threads, name, number_format):
    """Windows of any lengths in any number of lanes get the model's own logits, in order; in bfloat16 about."""
    row = pack_windows([tuple(zip(*window, strict=True)) for window in windows])
    got = torch.cat(POOLS[threads].run(PackedEncoder(MODELS[name], number_format).lanes(row, threads)))
    wanted = torch.stack([plain(window, MODELS[name]) for window in windows])
    bound = 1e-5 if number_format.dtype == torch.float32 else 0.1
    assert torch.allclose(got, wanted, atol=bound), (got - wanted).abs().max()


@given(st.lists(st.integers(1, 90), min_size=1, max_size=12), st.integers(1, 5))
def test_a_row_is_cut_into_like_lanes(lengths, lanes):
    """The edges are in order, the first and last are the row's ends, and no lane is far from its even share."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    cuts = lane_edges(starts, lanes)
    assert cuts == sorted(set(cuts))
    assert (cuts[0], cuts[-1]) == (0, starts[-1])
    assert len(cuts) <= lanes + 1
    sizes = [high - low for low, high in pairwise(cuts)]
    assert max(sizes) <= starts[-1] / lanes + 18


def test_a_lane_that_fails_fails_the_pass_and_hangs_nobody():
    """The lane that waits for the failed lane's keys raises too, and the next pass succeeds."""
    encoder = PackedEncoder(MODEL, FLOAT32)
    unknown = pack_windows([((5,) * 59 + (99,), (0,) * 60)])
    with pytest.raises(RuntimeError, match="another lane"):
        POOLS[2].run(encoder.lanes(unknown, 2))
    row = pack_windows([((5,) * 60, (0,) * 60)])
    assert torch.allclose(torch.cat(POOLS[2].run(encoder.lanes(row, 2)))[0], plain([(5, 0)] * 60), atol=1e-5)


def test_only_a_bert_or_an_mpnet_on_the_cpu_goes_this_way():
    """A decoder, another device or another architecture goes through its own forward."""
    assert all(PackedEncoder.supports(model, CPU) for model in MODELS.values())
    assert not PackedEncoder.supports(MODEL, torch.device("cuda"))
    assert not PackedEncoder.supports(small(transformers.BertForSequenceClassification, is_decoder=True), CPU)
    assert not PackedEncoder.supports(small(transformers.RobertaForSequenceClassification), CPU)
