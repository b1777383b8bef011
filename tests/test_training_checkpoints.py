"""A training run that is ended early and started again gives the weights of one that was not."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import BertConfig, BertForSequenceClassification, MPNetConfig, MPNetForSequenceClassification

from training import fit, lanes
from training.checkpoints import Checkpoints, State, digest
from training.labels import OUTPUTS
from training.recipes import Recipe
from training.windows import Windows

WINDOWS = 250
Base = Literal["mpnet", "minilm"]


class Ended(BaseException):
    """The end of a process, which nothing in the training catches."""


class Ending(Checkpoints):
    """Checkpoints of a process that ends right after it has saved for the second time."""

    saves = 0

    def save(self, name: str, state: State) -> None:
        super().save(name, state)
        self.saves += 1
        if self.saves == 2:
            raise Ended


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums over several threads do not repeat to the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model(base: Base) -> torch.nn.Module:
    """A small random encoder with dropout and the guard's outputs."""
    torch.manual_seed(1)
    sizes: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "num_labels": len(OUTPUTS),
        "attention_probs_dropout_prob": 0.0,
    }
    if base == "mpnet":
        return MPNetForSequenceClassification(MPNetConfig(**sizes))
    return BertForSequenceClassification(BertConfig(**sizes, attn_implementation="eager"))


def trained(base: Base, kept: Checkpoints | None) -> State:
    """The weights after two epochs over random windows: 250 steps, two checkpoints."""
    rng = np.random.default_rng(2)
    ids = [rng.integers(3, 50, rng.integers(4, 20)).astype(np.int32) for _ in range(WINDOWS)]
    target = (rng.random((WINDOWS, len(OUTPUTS))) < 0.5).astype(np.float32)
    data = fit.Learnable(Windows(ids, [0] * WINDOWS, list(range(WINDOWS))), target, np.ones_like(target))
    recipe = replace(Recipe(), base=base, epochs=2, batch=2, rate=1e-2, frozen=2)
    return fit.fit(model(base), data, recipe, 3, "stage", kept=kept).state_dict()


@pytest.mark.parametrize("base", ["mpnet", "minilm"])
def test_a_run_that_continues_gives_the_same_weights(base: Base, tmp_path: Path) -> None:
    """To the last bit, with dropout, moments, moving average and the kept output of frozen layers."""
    wanted = trained(base, None)
    ended = Ending(tmp_path, "stage", {})
    with pytest.raises(Ended):
        trained(base, ended)
    ended.close()
    kept = Checkpoints(tmp_path, "stage", {})
    saved = kept.load("stage-steps")
    assert saved is not None
    assert int(saved["step"]) == 200
    got = trained(base, kept)
    assert {name for name, value in wanted.items() if not torch.equal(value, got[name])} == set()


def test_rows_that_were_read_are_not_read_again(tmp_path: Path) -> None:
    """Of 1,200 passes, a process that ends in the 1,100th has kept the first 1,000."""
    read: list[int] = []

    def act(rows: NDArray[Any], chosen: Sequence[int]) -> None:
        if len(read) == 1100:
            raise Ended
        read.extend(chosen)
        rows[list(chosen)] = np.asarray(chosen)[:, None]

    def rows() -> NDArray[Any]:
        kept = Checkpoints(tmp_path, "large", {})
        try:
            return lanes.read_all(act, [1024] * 1200, (1200, 2), np.float32, name="logits", kept=kept)
        finally:
            kept.close()

    with pytest.raises(Ended):
        rows()
    read.clear()
    out = rows()
    assert read == list(range(1000, 1200))
    assert out.tolist() == [[i, i] for i in range(1200)]


def test_a_run_with_other_inputs_has_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its folder is another one, and the first folder is named, because nobody else will delete it."""
    first = Checkpoints(tmp_path, "large", {"seed": "0"})
    first.save("large", {"examples": torch.tensor(1)})
    second = Checkpoints(tmp_path, "large", {"seed": "1"})
    assert second.load("large") is None
    assert f"{first.folder}: checkpoints of a run with other inputs" in capsys.readouterr().out
    second.remove()
    assert list(tmp_path.iterdir()) == [first.folder]


def test_two_processes_do_not_share_files(tmp_path: Path) -> None:
    """The second one is told so; after the first one's end it can go on."""
    first = Checkpoints(tmp_path, "large", {})
    with pytest.raises(BlockingIOError, match="another process trains with these files"):
        Checkpoints(tmp_path, "large", {})
    first.close()
    Checkpoints(tmp_path, "large", {}).close()


@pytest.mark.parametrize("left", [0, 4, 100])
def test_a_damaged_file_is_named_and_not_used(left: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the first bytes of a file of weights and of one of rows are left."""
    kept = Checkpoints(tmp_path, "large", {})
    kept.save("large", {"weights": torch.ones(50)})
    rows = kept.rows("logits", (9, 9), np.float32)
    rows.filled(3)
    for name in ("large.safetensors", "logits.npy"):
        path = kept.folder / name
        path.write_bytes(path.read_bytes()[:left])
    assert kept.load("large") is None
    assert kept.rows("logits", (9, 9), np.float32).done == 0
    said = capsys.readouterr().out
    assert all(f"{kept.folder / name}: cannot be read" in said for name in ("large.safetensors", "logits.npy"))


def test_rows_of_another_shape_are_not_used(tmp_path: Path) -> None:
    """A name that was given twice does not mix two arrays."""
    kept = Checkpoints(tmp_path, "large", {})
    kept.rows("logits", (9, 9), np.float32).filled(3)
    assert kept.rows("logits", (9, 8), np.float32).done == 0
    kept.rows("logits", (9, 8), np.float32).filled(2)
    assert kept.rows("logits", (9, 8), np.float32).done == 2
    assert kept.rows("logits", (9, 8), np.float16).done == 0


def test_a_stage_that_has_ended_leaves_only_its_weights(tmp_path: Path) -> None:
    """Moments, kept states and logits go; a name that begins alike stays."""
    kept = Checkpoints(tmp_path, "large", {})
    kept.save("again-steps", {"step": torch.tensor(1)})
    kept.save("again", {"examples": torch.tensor(1)})
    kept.rows("again-states", (2, 2), np.float16).filled(1)
    kept.discard("again-steps", "again-states", "again-teacher")
    assert {path.name for path in kept.folder.iterdir()} == {"lock", "inputs.json", "again.safetensors"}


def test_a_digest_knows_names_and_contents(tmp_path: Path) -> None:
    """A changed byte, a changed name and a file more are other inputs; where the folder is does not matter."""
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        (folder / "weights").write_text("1")
    assert digest([first]) == digest([second])
    (second / "weights").write_text("2")
    changed = digest([second])
    (second / "weights").rename(second / "other")
    assert len({digest([first]), changed, digest([second]), digest([first, second])}) == 4
