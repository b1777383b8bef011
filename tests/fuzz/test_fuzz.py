"""The corpus of findings, and a few new inputs of every target: `python -m tests.fuzz` runs many more."""

import random
from pathlib import Path

import pytest

from tests.fuzz.choices import Choices
from tests.fuzz.targets import CORPUS, TARGETS

FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file())
NEW = {"wires": 150, "apis": 300, "frames": 400, "settings": 40, "views": 40}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_finding_stays_mended(path: Path) -> None:
    """An input that has once broken something breaks nothing."""
    target = TARGETS[path.parent.name]
    assert path.suffix == target.suffix
    target.run(target.load(path.read_bytes()))


@pytest.mark.parametrize("name", TARGETS)
def test_new_inputs(name: str) -> None:
    """Inputs from a fixed seed break nothing, and a file holds them as they are."""
    luck, target = random.Random(name), TARGETS[name]
    for _ in range(NEW[name]):
        value = target.draw(Choices(luck.randbytes(luck.randrange(8, 200))))
        target.run(target.load(target.dump(value)))
