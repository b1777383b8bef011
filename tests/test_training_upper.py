"""Training of the upper layers alone: kept states give the whole model's logits, and frozen layers stay."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, MPNetConfig, MPNetForSequenceClassification

from training import fit
from training.labels import OUTPUTS
from training.recipes import Recipe
from training.upper import Encoder, UpperLayers, lower_states
from training.windows import Windows

LENGTHS = (5, 17, 9, 30, 2)
BELOW = 2


Base = Literal["mpnet", "e5"]


def small(base: Base) -> Encoder:
    """A small random MPNet or BERT of four layers with the guard's outputs."""
    torch.manual_seed(1)
    sizes = {
        "vocab_size": 50,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_labels": len(OUTPUTS),
        "initializer_range": 0.3,
        "attention_probs_dropout_prob": 0.0,
    }
    if base == "mpnet":
        return MPNetForSequenceClassification(MPNetConfig(**sizes)).eval()
    return BertForSequenceClassification(BertConfig(**sizes, attn_implementation="eager")).eval()


def cut() -> Windows:
    """Windows of LENGTHS random tokens; the second is a pair."""
    rng = np.random.default_rng(2)
    ids = [rng.integers(3, 50, length).astype(np.int32) for length in LENGTHS]
    return Windows(ids, [0, 6, 0, 0, 0], list(range(len(ids))))


@pytest.mark.parametrize("base", ["mpnet", "e5"])
def test_kept_states_give_the_logits_of_the_whole_model(base: Base) -> None:
    """Reading only the first token in the last layer, and float16 states, change a logit by little."""
    model = small(base)
    windows = cut()
    chosen = range(len(LENGTHS))
    batch = fit._batch(windows, chosen, torch.device("cpu"))
    states = lower_states(model, BELOW, chosen, batch)
    assert {index: tuple(state.shape) for index, state in states.items()} == {
        index: (length, 32) for index, length in enumerate(LENGTHS)
    }
    with torch.no_grad():
        got = UpperLayers(model, BELOW).eval()([states[index] for index in chosen])
        wanted = fit._logits(model, windows, chosen, torch.device("cpu"))
    assert (got - wanted).abs().max() < 0.02
    assert wanted.std() > 0.1


@pytest.mark.parametrize("base", ["mpnet", "e5"])
def test_only_the_layers_that_are_not_frozen_change(base: Base) -> None:
    """Embeddings and the lower layers keep their weights; the upper layers and the classifier learn."""
    model = small(base)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    target = np.tile(np.array([[1.0], [0.0]], dtype=np.float32), (3, len(OUTPUTS)))[: len(LENGTHS)]
    data = fit.Learnable(cut(), target, np.ones_like(target))
    recipe = replace(Recipe(), base=base, epochs=3, batch=2, rate=1e-2, average=0.5, frozen=BELOW + 1)
    after = fit.fit(model, data, recipe, 0, "upper").state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name for name in changed if ".layer.0." in name or ".layer.1." in name or "embeddings" in name} == set()
    assert {name.split(".")[3] for name in changed if ".layer." in name} == {"2", "3"}
    assert any(name.startswith("classifier.") for name in changed)
