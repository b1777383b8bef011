"""The in-place modules replace transformers' own and give the same results."""

import copy

import pytest
import torch

from guardproxy.engine.decoder.layers import GatedMLP, RMSNorm, RotaryAngles, RotaryAttention, use_in_place_modules
from tests.engine.kit import brute_force, prompt, read, runner, tiny

pytestmark = pytest.mark.timeout(600)  # the first test converts the GGUF file

PLAIN = ("Llama", "Mistral", "Qwen2", "Granite")


def shaken(kind):
    """A random model with random norms, biases and embeddings as well, which a new model has at 0 or 1."""
    loaded = tiny(kind, seed=3)
    torch.manual_seed(4)
    for weights in loaded.model.parameters():
        weights.data += 0.2 * torch.randn_like(weights)
    return loaded


@pytest.mark.parametrize("kind", [*PLAIN, "Qwen3", "Gemma2"])
def test_known_forms_are_replaced_and_give_the_same(kind):
    """The norms and feed-forward part of each layer give the same for the same rows."""
    stock = shaken(kind).model.get_decoder()
    ours = copy.deepcopy(stock)
    use_in_place_modules(ours, torch.float32)
    rows = torch.randn(1, 7, 32)
    with torch.inference_mode():
        for theirs, mine in zip(stock.layers, ours.layers, strict=True):
            assert isinstance(mine.mlp, GatedMLP)
            assert isinstance(mine.input_layernorm, RMSNorm) == (kind != "Gemma2")
            for name in ("mlp", "input_layernorm", "post_attention_layernorm"):
                torch.testing.assert_close(getattr(mine, name)(rows), getattr(theirs, name)(rows))
    assert (
        isinstance(ours.layers[0].self_attn, RotaryAttention)
        == isinstance(ours.rotary_emb, RotaryAngles)
        == (kind in PLAIN)
    )


@pytest.mark.parametrize("kind", PLAIN)
def test_a_whole_pass_gives_the_same(kind):
    """The biases of queries and keys are reordered like their weights."""
    loaded = shaken(kind)
    unsafe, inside, outside = brute_force(loaded, prompt("How do I whittle a spoon?"))
    (got,) = read(runner(loaded), prompt("How do I whittle a spoon?"))
    assert got.probabilities == pytest.approx([unsafe, *inside], abs=1e-5)
    assert got.outside == pytest.approx(outside, abs=1e-5)
