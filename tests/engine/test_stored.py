"""Stored classifiers: the same model as by transformers, without its import, and files that do not fit."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
import transformers

from guardproxy.engine import quantized
from guardproxy.engine.encoder.packed import PackedEncoder, weights_of
from guardproxy.engine.encoder.stored import load_stored
from guardproxy.engine.load import load_classifier
from guardproxy.engine.model_files import PACKAGED, locate
from guardproxy.errors import ConfigError
from tests.engine.kit import CPU


@pytest.mark.parametrize("name", PACKAGED)
def test_the_packaged_model_is_the_one_that_transformers_loads(name):
    """Equal weights, configs where the runner reads them, tokenizers and control tokens."""
    own, other = load_stored(name), load_classifier(name, CPU, torch.float32)
    assert PackedEncoder.supports(own.model, CPU)
    weights, expected = own.model.state_dict(), other.model.state_dict()
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[tensor], expected[tensor]) for tensor in weights)
    for key in ("id2label", "num_labels", "problem_type", "max_position_embeddings", "model_type", "guard"):
        assert getattr(own.model.config, key) == getattr(other.model.config, key)
    assert weights_of(own.model).linear_sizes() == weights_of(other.model).linear_sizes()
    assert json.loads(own.backend.to_str()) == json.loads(other.backend.to_str())
    for key in ("model_input_names", "model_max_length", "pad_token_id"):
        assert getattr(own.tokenizer, key) == getattr(other.tokenizer, key)
    assert own.folder == other.folder


def test_the_embedded_guard_judges_without_transformers():
    """A process that has judged a text has imported neither transformers, nor a web server, nor a database."""
    code = (
        "import guardproxy, sys\n"
        "guardproxy.moderate([{'role': 'user', 'content': 'Hello.'}])\n"
        "print([name for name in ('transformers', 'starlette', 'sqlalchemy', 'alembic') if name in sys.modules])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    assert found.stdout == "[]\n"


def _copy(tmp_path, **changed):
    """The small packaged model with other values in its config."""
    folder = tmp_path / "copy"
    shutil.copytree(locate("embedded-small")[0], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))
    return folder


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"num_hidden_layers": 5}, "no such tensor"),
        ({"num_hidden_layers": 7}, "missing"),
        ({"vocab_size": 30521}, r"\(30522, 384\), expected \(30521, 384\)"),
        ({"id2label": {"0": "unsafe"}}, r"classifier.bias is \(8,\), expected \(1,\)"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(tmp_path, changed, what):
    """The message names the tensors."""
    with pytest.raises(ConfigError, match=what):
        load_stored(str(_copy(tmp_path, **changed)))


def test_damaged_files_are_refused(tmp_path):
    """Weights, tokenizer and config, each cut in half."""
    for name in (quantized.NAME, "tokenizer.json", "config.json"):
        folder = _copy(tmp_path / name)
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(ConfigError, match="copy"):
            load_stored(str(folder))


def test_other_models_are_left_to_transformers(tmp_path):
    """A folder without quantised weights, and an activation or a class that the packed encoder does not know."""
    transformers.BertConfig().save_pretrained(tmp_path / "plain")
    assert load_stored(str(tmp_path / "plain")) is None
    assert load_stored(str(_copy(tmp_path / "a", hidden_act="silu"))) is None
    assert load_stored(str(_copy(tmp_path / "b", architectures=["RobertaForSequenceClassification"]))) is None
    assert load_stored(str(_copy(tmp_path / "c", is_decoder=True))) is None
