"""Checkpoints of a training run, so that the same command continues a run that was ended early.

A run has a folder of its own, whose name has a digest of everything that decides the result. A run with other inputs
has another folder, so it never takes these files.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

State = dict[str, torch.Tensor]


def digest(paths: list[Path]) -> str:
    """The SHA-256 of the names and contents of these files, and of all files in these folders."""
    files = sorted(file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            whole.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


class Rows:
    """An array that is filled part by part; `done` counts the parts that are in it."""

    def __init__(self, array: NDArray[Any], done: int = 0, keep: Callable[[int], None] | None = None) -> None:
        self.array = array
        self.done = done
        self._keep = keep

    def filled(self, done: int) -> None:
        """Say that the first `done` parts are in the array."""
        self.done = done
        if self._keep:
            self._keep(done)


class Checkpoints:
    """The files of one run in `folder`. Only one process at a time can have them.

    `inputs` are the run's inputs by name, digests for files; `key` stands for all of them. Raises BlockingIOError if
    another process has the files.
    """

    def __init__(self, folder: Path, recipe: str, inputs: Mapping[str, str]) -> None:
        text = json.dumps(inputs, indent=1, sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder = folder / f"{recipe}-{self.key}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"{self.folder}: another process trains with these files; wait for its end") from None
        (self.folder / "inputs.json").write_text(text + "\n")
        for other in sorted(folder.glob(f"{recipe}-*")):
            if other != self.folder:
                print(f"{other}: checkpoints of a run with other inputs; delete them if nobody will continue it")

    def load(self, name: str) -> State | None:
        """What was saved under this name. None if there is nothing, or nothing that can be read, which is printed."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            return None
        try:
            state = load_file(path)
        except SafetensorError as error:
            print(f"{path}: cannot be read, so this part begins anew: {error}", flush=True)
            return None
        print(f"{path}: continues from here", flush=True)
        return state

    def save(self, name: str, state: State) -> None:
        """Save tensors in place of what was saved under this name."""
        whole = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        self._replace(f"{name}.safetensors", lambda path: save_file(whole, path))

    def rows(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> Rows:
        """An array in a file, with the parts that an earlier process has filled."""
        path, count = self.folder / f"{name}.npy", self.folder / f"{name}.count"
        done = 0
        try:
            if count.exists():
                array = _opened(path, shape, dtype)
                done = int(count.read_text())
                print(f"{path}: continues from here", flush=True)
        except (OSError, ValueError) as error:
            print(f"{path}: cannot be read, so this part begins anew: {error}", flush=True)
        if not done:
            count.unlink(missing_ok=True)
            array = open_memmap(path, mode="w+", dtype=dtype, shape=shape)

        def keep(done: int) -> None:
            array.flush()
            self._replace(count.name, lambda path: path.write_text(str(done)))

        return Rows(array, done, keep)

    def discard(self, *names: str) -> None:
        """Delete what was saved under these names."""
        for name in names:
            for path in self.folder.glob(f"{name}.*"):
                path.unlink()

    def remove(self) -> None:
        """Delete all files of the run."""
        shutil.rmtree(self.folder)
        self.close()

    def close(self) -> None:
        """Leave the files to the next process."""
        self._lock.close()

    def _replace(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file so that it is there whole or not at all, also after the machine has stopped."""
        new = self.folder / f"{name}.new"
        write(new)
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(self.folder / name)


def _opened(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> np.memmap[Any, Any]:
    """The array of a file. Raises FileNotFoundError, or ValueError if it is not one of this shape and type."""
    array = open_memmap(path, mode="r+")
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"it has the shape {array.shape} of {array.dtype}, not {shape} of {np.dtype(dtype)}")
    return array


class Pace:
    """Lines of progress with the rate of this process and the estimated end."""

    def __init__(self, log: str, total: int, done: int = 0) -> None:
        self._log, self._total, self._first = log, total, done
        self._began = time.monotonic()

    def tell(self, done: int, note: str = "") -> None:
        """Print that `done` of all are done."""
        rate = (done - self._first) / max(time.monotonic() - self._began, 1e-9)
        end = time.strftime("%F %H:%M", time.localtime(time.time() + (self._total - done) / max(rate, 1e-9)))
        print(f"{self._log} {done}/{self._total} {note}{rate:.2f} a second, ends about {end}", flush=True)
