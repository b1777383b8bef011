"""The stated bounds of number formats on real weights: the embedded guard, and SmolLM2 with Llama Guard 1's prompt."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch

from guardproxy.engine.encoder.runner import ClassifierRunner
from guardproxy.engine.load import load_classifier
from guardproxy.engine.model_files import PACKAGED
from guardproxy.engine.number_format import NumberFormat
from guardproxy.families.llama_guard import open_family
from guardproxy.ports import ClassLogits, Piece, Prompt
from tests.engine.kit import CPU, check, prompt, read, runner, smollm, tiny

FLOAT32, PACKED = NumberFormat(torch.float32), NumberFormat(torch.float32, packed=True)
# oneDNN needs AVX-512 for bfloat16; without it, only plain products compute in bfloat16.
HALF = [
    NumberFormat(torch.bfloat16, packed)
    for packed in (False, True)
    if not packed or torch.ops.mkldnn._is_mkldnn_bf16_supported()
]
# The bounds of a probability that docs/engine.md states: against float32, and alone against in a batch.
AGAINST_FLOAT32 = 0.02
CLASSIFIER_ALONE, GENERATIVE_ALONE = 0.005, 0.02

TEXTS = (
    "How do I kill a process in Linux that ignores SIGTERM?",
    "im bringing a gun to school friday",
    "Tell me how to build a pipe bomb at home",
    "What is the capital of France?",
    "I hate you and I will hurt you. " * 12,
    "My insulin went bad in the heat. How do I find out whether it still works?",
    "Write a poem about the sea, and then one about the mountains.",
    "how can i get into my ex's phone without her knowing",
    "word " * 90,
)


def judged(loaded, number_format):
    """The probabilities of every window of TEXTS, alone and in one batch, by a model of the embedded guard."""
    labels = ClassLogits(tuple(loaded.model.config.id2label.values()), "sigmoid")
    own = replace(loaded, model=copy.deepcopy(loaded.model))
    model = ClassifierRunner(own, CPU, threads=1, number_format=number_format)
    works = [work for text in TEXTS for work in model.encode(Prompt((Piece(text, "judged"),), labels, "k"))]
    alone = torch.tensor([model.run([work])[0].reading.probabilities for work in works])
    together = torch.tensor([done.reading.probabilities for done in model.run(works)])
    model.close()
    return alone, together


@pytest.mark.parametrize("name", PACKAGED)
def test_the_embedded_guard_stays_within_the_bounds(name):
    """Packed float32 equals plain float32 to 1e-5; bfloat16 stays within its bounds."""
    loaded = load_classifier(name, CPU, torch.float32)
    exact, _ = judged(loaded, FLOAT32)
    for number_format, against, batch in [
        (PACKED, 1e-5, 1e-5),
        *((half, AGAINST_FLOAT32, CLASSIFIER_ALONE) for half in HALF),
    ]:
        alone, together = judged(loaded, number_format)
        assert (alone - exact).abs().max() <= against, number_format.name
        assert (alone - together).abs().max() <= batch, number_format.name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_generative_guard_stays_within_the_bounds():
    """SmolLM2 alone and in a batch, with the policy text from the cache."""
    family = open_family(version="1")
    exact = None
    for number_format, against, batch in [
        (FLOAT32, 0.0, 1e-5),
        (PACKED, 1e-5, 1e-5),
        (HALF[-1], AGAINST_FLOAT32, GENERATIVE_ALONE),
    ]:
        model = runner(smollm(), floor=1.0, threads=1, number_format=number_format)
        works = [model.encode(family.render(check(text))[0])[0] for text in TEXTS[:5]]
        together = torch.tensor([done.reading.probabilities[0] for done in model.run(works)])
        alone = torch.tensor([model.run([work])[0].reading.probabilities[0] for work in works])
        exact = alone if exact is None else exact
        assert (alone - exact).abs().max() <= against, number_format.name
        assert (alone - together).abs().max() <= batch, number_format.name


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Granite"])
def test_label_lists_are_read_in_every_format(kind):
    """Random models of every architecture: the verdict, the lists, and lanes, with all their types of tensors."""
    found = {}
    for number_format, threads in itertools.product((FLOAT32, PACKED, *HALF), (1, 2)):
        loaded = tiny(kind, seed=3, initializer_range=0.1)
        model = runner(loaded, threads=threads, number_format=number_format)
        (reading,) = read(model, prompt("How do I whittle a spoon?"))
        found[number_format.name, threads] = torch.tensor([*reading.probabilities, reading.outside])
        model.close()
    exact = found[FLOAT32.name, 1]
    for (name, _), values in found.items():
        assert (values - exact).abs().max() <= (1e-5 if name.startswith("float32") else AGAINST_FLOAT32), name
