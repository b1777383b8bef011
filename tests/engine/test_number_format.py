"""The number format of linear layers: choice, measurement, cache, and the results of packed layers."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.engine.number_format import (
    NumberFormat,
    choose_format,
    fastest,
    format_linear_layers,
    linear_sizes,
    measure,
    padded_rows,
)

LAYERS = torch.nn.Sequential(torch.nn.Linear(48, 80), torch.nn.Linear(80, 48, bias=False)).requires_grad_(False)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        # of float32, float32 packed, bfloat16, bfloat16 packed; each for a short row and a batch
        ([(4, 8), (3.95, 7.8), (9, 20), (8, 18)], ("float32", "float32", "bfloat16 packed")),
        ([(4, 8), (2, 4), (1.6, 3.5), (1.58, 3)], ("float32 packed", "float32 packed", "bfloat16 packed")),
        ([(4, 8), (2, 4), (1.4, 2), (1, 1.5)], ("bfloat16 packed", "float32 packed", "bfloat16 packed")),
        ([(4, 8), (2, 9), (1, 8), (1, 8)], ("float32", "float32", "bfloat16")),
        ([(8, 56), (5, 25), (3.7, 12), (2.9, 13)], ("bfloat16 packed", "float32 packed", "bfloat16 packed")),
        ([(4, 8), (2, 4), (1.5, 3.2), (1.5, 3.2)], ("float32 packed", "float32 packed", "bfloat16")),
    ],
)
def test_a_format_must_be_clearly_faster(seconds, chosen):
    """bfloat16 must be 1.3 times as fast at every number of rows, packed weights 1.03 times on the average."""
    names = ("float32", "float32 packed", "bfloat16", "bfloat16 packed")
    table = dict(zip(names, seconds, strict=True))
    assert tuple(fastest(table, wanted).name for wanted in ("auto", "float32", "bfloat16")) == chosen


def test_a_torch_without_packed_weights_or_bfloat16_keeps_what_it_has():
    """Formats that could not be measured are not chosen by `auto`."""
    assert fastest({"float32": [4, 8]}, "auto").name == "float32"
    assert fastest({"float32": [4, 8], "bfloat16": [1, 2]}, "auto").name == "bfloat16"


def test_float16_is_neither_measured_nor_packed(tmp_path):
    """float16 on a CPU is what the operator asked for."""
    assert choose_format("float16", [], tmp_path) == NumberFormat(torch.float16)
    assert not list(tmp_path.iterdir())


def test_a_measurement_is_cached_and_used_again(tmp_path):
    """The next start on this machine reads the file; other sizes have a file of their own."""
    layers = linear_sizes(LAYERS)
    assert len(layers) == 2
    choose_format("auto", layers, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    content = json.loads(path.read_text())
    assert content["layers"] == [[48, 80, 1], [80, 48, 1]]
    for fast in content["seconds"]:
        content["seconds"] = {name: [0.1 if name == fast else 1.0] * 2 for name in content["seconds"]}
        path.write_text(json.dumps(content))
        assert choose_format("auto", layers, tmp_path / "cache").name == fast
    choose_format("auto", layers[:1], tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("damage", ["", "{}", '{"seconds": {}}', '{"seconds": {"float32": "x"}}', "[1]"])
def test_a_damaged_cache_is_measured_again(tmp_path, damage):
    """The file is replaced by a good one."""
    choose_format("auto", linear_sizes(LAYERS), tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(damage)
    choose_format("auto", linear_sizes(LAYERS), tmp_path)
    assert json.loads(path.read_text())["seconds"]["float32"]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    """A file in the place of the directory changes nothing but the time of the start."""
    (tmp_path / "file").write_text("")
    assert choose_format("float32", linear_sizes(LAYERS), tmp_path / "file").dtype == torch.float32


def test_every_format_is_measured_and_the_threads_are_left_as_they_were():
    """All formats of this build have a positive time for each number of rows."""
    before = torch.get_num_threads()
    seconds = measure(linear_sizes(LAYERS))
    assert torch.get_num_threads() == before
    assert {"float32", "bfloat16"} <= set(seconds)
    assert all(len(times) == 2 and min(times) > 0 for times in seconds.values())


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300), st.booleans())
def test_packed_layers_compute_the_same(rows, batched):
    """Any number of rows, with and without a bias, to 1e-5."""
    packed = torch.nn.Sequential(*LAYERS)
    format_linear_layers(packed, NumberFormat(torch.float32, packed=True))
    assert not linear_sizes(packed)
    hidden = torch.randn((1, rows, 48) if batched else (rows, 48))
    with torch.inference_mode():
        assert torch.allclose(packed(hidden), LAYERS(hidden), atol=1e-5)


@given(st.integers(0, 5000))
def test_rows_are_padded_by_little(rows):
    """At most 7 rows or 1/16 more."""
    assert 0 <= padded_rows(rows) - rows <= max(7, rows / 16)


def test_there_are_few_numbers_of_padded_rows():
    """oneDNN keeps 1,024 kernels: those of a batch of 2,048 rows and of four layers fit."""
    assert len({padded_rows(rows) for rows in range(1, 2049)}) < 100
