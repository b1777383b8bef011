"""Weights in a GGUF file: the model that they make, and damaged or foreign files."""

import gguf
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.engine import quantized
from training.export import write_quantized

CONFIG = transformers.MPNetConfig(
    vocab_size=64,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=128,
    num_labels=2,
    initializer_range=0.2,
)
AUTO = transformers.AutoModelForSequenceClassification


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a random model's config.json and quantised weights, and the model itself."""
    path = tmp_path_factory.mktemp("weights")
    torch.manual_seed(3)
    model = transformers.MPNetForSequenceClassification(CONFIG).eval()
    CONFIG.save_pretrained(path)
    write_quantized(path / quantized.NAME, model, *[gguf.GGMLQuantizationType.Q5_0] * 2)
    return path, model


def test_matrices_are_close_and_vectors_equal(folder):
    """A matrix has the error of its type, 4.3 % of its spread for Q5_0; biases and norms are kept in float32."""
    path, model = folder
    loaded = quantized.load_module(AUTO, path, torch.float32).state_dict()
    for name, wanted in model.state_dict().items():
        got = loaded[name]
        if wanted.ndim < 2:
            assert torch.equal(got, wanted), name
        else:
            assert (got - wanted).std() < 0.06 * wanted.std() + 1e-8, name


def test_the_model_has_the_type_that_is_asked_for(folder):
    """bfloat16 in memory is rounded from the widened weights."""
    module = quantized.load_module(AUTO, folder[0], torch.bfloat16)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}


def test_weights_of_another_model_are_refused(folder, tmp_path):
    """A file that lacks a tensor of the configured model does not load."""
    (tmp_path / "config.json").write_text((folder[0] / "config.json").read_text())
    writer = gguf.GGUFWriter(tmp_path / quantized.NAME, "mpnet")
    writer.add_tensor("classifier.dense.bias", np.zeros(64, dtype=np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    with pytest.raises(RuntimeError, match="Missing key"):
        quantized.load_module(AUTO, tmp_path, torch.float32)


def test_a_damaged_file_is_refused(folder, tmp_path):
    """Neither a cut file nor other bytes load."""
    data = (folder[0] / quantized.NAME).read_bytes()
    for content in (data[: len(data) // 2], b"not weights" * 100, b""):
        (tmp_path / quantized.NAME).write_bytes(content)
        with pytest.raises((OSError, ValueError)):
            quantized.QuantizedWeights(tmp_path / quantized.NAME)


@given(st.data())
def test_the_values_are_those_of_gguf(data):
    """Any bytes of every type that a file may have, also scales that are no numbers."""
    kind = data.draw(
        st.sampled_from([gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "Q4_0", "Q5_0", "Q8_0", "Q5_1")])
    )
    values, size = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    stored = np.frombuffer(
        data.draw(st.binary(min_size=rows * columns * size, max_size=rows * columns * size)), np.uint8
    )
    stored = stored.reshape(rows, columns * size)
    with np.errstate(invalid="ignore"):
        got, wanted = quantized.dequantised(stored, kind), gguf.dequantize(stored, kind)
    assert got.shape == (rows, columns * values)
    assert not np.shares_memory(got, stored)
    np.testing.assert_array_equal(got, wanted)
