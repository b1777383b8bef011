"""Where the files of a model are. Without torch, whose import takes seconds: a wrong name is told at once."""

import json
import re
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO

from guardproxy.errors import ConfigError

# The models that ship in the package, and their folders in `weights/`.
PACKAGED = {"embedded-small": "embedded/small", "embedded-large": "embedded/large"}
# Two of them together: the larger one reads the windows of which the smaller one is unsure.
CASCADE = "embedded"
# The folder of the model for many languages, which is too large to ship.
TRAINED = "embedded-multilingual"

# Blocks of a file that tell it from another one: 256 KiB of each, and some of each tensor.
_SAMPLES, _SAMPLE_BYTES = 64, 4096
_LENGTH_BYTES = 8
_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?", re.ASCII)


def locate(model: str) -> tuple[str, str | None]:
    """The directory or hub id to load from, and the GGUF file in the directory or None. Raises ConfigError."""
    if model in PACKAGED:
        folder = weights() / PACKAGED[model]
        if not (folder / "config.json").is_file():
            raise ConfigError(f"model {model!r}: this installation has no embedded weights; name a model")
        return str(folder), None
    path = Path(model).expanduser()
    if path.name == TRAINED and (path.is_absolute() or model == TRAINED) and not (path / "config.json").is_file():
        why = "its weights do not ship with guardproxy and are not here"
        raise ConfigError(f"model {model!r}: {why}: run `make train-multilingual` in a clone of the repository")
    if path.suffix == ".gguf" and path.is_file():
        return str(path.parent), path.name
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigError(f"model {model!r}: the directory has no config.json")
        return str(path), None
    if path.suffix == ".gguf" or path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise ConfigError(f"model {model!r}: no such file or directory")
    return model, None


def weights() -> Path:
    """The folder of the weights that ship in the package."""
    return Path(str(files("guardproxy") / "weights"))


def weights_of(model: str) -> list[tuple[str, str]]:
    """The names of a model's files on this machine, each with a digest of its size and of samples of its content.

    Weights that were trained again have other digests, whatever their names and sizes; reading all of a large model
    would take minutes. Of a GGUF file, a small part that was changed alone may lie between the samples.
    Empty for a model of a hub that has not been loaded here.
    """
    return [(place.name, _sampled(place)) for place in sorted(_files_of(model)) if place.is_file()]


def _files_of(model: str) -> list[Path]:
    if model in (CASCADE, *PACKAGED):
        return [*(weights() / PACKAGED.get(model, CASCADE)).rglob("*")]
    place = Path(model).expanduser()
    if place.exists():
        return [*place.iterdir()] if place.is_dir() else [place]
    if not _HUB_ID.fullmatch(model):
        return []
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - few models need what it imports

    found = try_to_load_from_cache(model, "config.json")
    return [*Path(found).parent.iterdir()] if isinstance(found, str) else []


def _sampled(file: Path) -> str:
    """A digest of a file's size and of blocks: at even distances, the first and the last one among them.

    The beginning of every tensor counts as well: a part that was trained alone may lie between the blocks.
    """
    size = file.stat().st_size
    digest = blake2b(str(size).encode(), digest_size=16)
    spread = [max(size - _SAMPLE_BYTES, 0) * number // (_SAMPLES - 1) for number in range(_SAMPLES)]
    with file.open("rb") as opened:
        for start in (*spread, *(_tensors(opened, size) if file.suffix == ".safetensors" else ())):
            opened.seek(start)
            digest.update(opened.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _tensors(file: BinaryIO, size: int) -> list[int]:
    """Where the tensors of a safetensors file of `size` bytes begin; none if it is no such file.

    Its format (github.com/huggingface/safetensors): eight bytes with the length of a header, the header as JSON with
    the `data_offsets` of each tensor, and behind it the tensors.
    """
    start = _LENGTH_BYTES + int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if start > size:
        return []
    try:
        header = json.loads(file.read(start - _LENGTH_BYTES))
        return [start + int(one["data_offsets"][0]) for name, one in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return []  # whoever loads the model is told


def why_not_loaded(error: Exception, *, hub: bool) -> str:
    """Why a model from the hub or a directory does not load, and what the operator can do about it."""
    text = str(error)
    chain = f"{text} {error.__cause__}"
    if hub and ("gated" in chain.lower() or re.search(r"\b40[13]\b", chain)):
        return (
            "the model is gated: accept its licence on huggingface.co with your account, then log in with "
            "`hf auth login` or set HF_TOKEN, or name a local directory that holds it"
        )
    if hub and ("offline" in chain.lower() or "connect" in chain.lower() or "couldn't" in chain.lower()):
        return (
            "it is not in the local cache and huggingface.co cannot be reached: download it with `hf download` on a "
            "machine that can reach it, and name the directory"
        )
    if isinstance(error, ImportError):
        return f"a package is missing: {text.strip()}"
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__
