"""Load models onto a device: from the hub, a directory, a GGUF file, or the weights that ship in the package."""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer

from guardproxy.engine import quantized
from guardproxy.engine.model_files import locate, weights, why_not_loaded
from guardproxy.engine.tokenizer import without_limits
from guardproxy.errors import ConfigError

log = logging.getLogger("guardproxy.engine")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in evaluation mode on its device, its tokenizers, and the directory that holds them (None for the hub).

    `tokenizer` is that of transformers, `backend` a copy of the fast tokenizer in it that never truncates or pads.
    """

    model: Any
    backend: Tokenizer
    tokenizer: Any
    folder: Path | None


@dataclass(frozen=True, slots=True)
class SecondReading:
    """When a second model reads a window too, and how both readings make one.

    It reads the window if the first model's probability of `output` is from `low` to `high`. Each probability is then
    the mean of both models' probabilities, in which the first one's has the weight `first_weight`, from 0 to 1.
    """

    output: int
    low: float
    high: float
    first_weight: float


def choose_device(name: str) -> torch.device:
    """The device named `auto`, `cpu`, `cuda` or `cuda:N`. Raises ConfigError if torch cannot use it."""
    if name == "auto":
        if not torch.cuda.is_available():
            if torch.version.cuda is not None:  # such a torch was installed for a GPU
                log.info("auto_chose_the_cpu", extra={"reason": _why_no_cuda()})
            return torch.device("cpu")
        return torch.device("cuda:0")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r}: expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ConfigError(f"device {name!r}: expected auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index or 0
    if index >= count:
        found = f"torch {torch.__version__} finds {count} CUDA devices on this machine"
        raise ConfigError(f"device {name!r}: {found}" if count else f"device {name!r}: {found}: {_why_no_cuda()}")
    return torch.device("cuda", index)


def _why_no_cuda() -> str:
    """Why torch finds no CUDA device, in the first line of its own words: its build, no driver, or an old one."""
    try:
        torch.cuda.current_device()
    except (AssertionError, RuntimeError) as error:
        return str(error).partition("\n")[0]
    return "no device is visible to it"


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch type named `name`, in which a model is loaded. Raises ConfigError if it is unknown.

    `auto` is bfloat16 on CUDA, and float32 on a CPU, where the runner converts it if `number_format.py` says so.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in _DTYPES:
        raise ConfigError(f"dtype {name!r}: expected auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def load_causal(model: str, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """Load a causal language model. Raises ConfigError."""
    return _load("AutoModelForCausalLM", model, device, dtype)


def load_classifier(model: str, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """Load a sequence classifier. Raises ConfigError."""
    return _load("AutoModelForSequenceClassification", model, device, dtype)


def second_reading() -> SecondReading:
    """When the large embedded model reads a window; it ships with the weights of both models."""
    return SecondReading(**json.loads((weights() / "embedded" / "cascade.json").read_text()))


def calibration(loaded: LoadedModel) -> dict[str, Any]:
    """The content of `calibration.json` beside the weights, {} without such a file. Raises ConfigError."""
    path = loaded.folder / "calibration.json" if loaded.folder else None
    if path is None or not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected an object")
    return content


def cache_folder(name: str) -> Path:
    """The directory `name` of guardproxy's files in the user's cache, which may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guardproxy" / name


def _load(kind_name: str, model: str, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """The model by the auto class of transformers named `kind_name`."""
    # The embedded guard on a CPU needs no transformers, whose import takes seconds.
    import transformers  # noqa: PLC0415

    kind = getattr(transformers, kind_name)
    transformers.utils.logging.disable_progress_bar()
    location, gguf = locate(model)
    try:
        if gguf is not None:
            location = str(_converted(kind, Path(location) / gguf))
        tokenizer = transformers.AutoTokenizer.from_pretrained(location)
        if (Path(location) / quantized.NAME).is_file():
            module = quantized.load_module(kind, Path(location), dtype)
        else:
            module = kind.from_pretrained(location, dtype=dtype)
    except SafetensorError as error:
        raise ConfigError(f"model {model!r}: its weights are damaged; download them again: {error}") from error
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise ConfigError(f"model {model!r}: {why_not_loaded(error, hub=not Path(location).is_dir())}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(f"model {model!r}: it has no fast tokenizer (tokenizer.json)")
    backend = without_limits(Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    module.to(device).eval().requires_grad_(False)
    folder = Path(location)
    return LoadedModel(module, backend, tokenizer, folder if folder.is_dir() else None)


def _converted(kind: Any, path: Path) -> Path:
    """Convert a GGUF file to a directory with float32 weights, once: reading a GGUF file takes minutes, this seconds.

    The directory is in the user's cache, named by the file's path, size and time. It may be deleted at any time.
    """
    import transformers  # noqa: PLC0415 - imported by the caller

    cache = cache_folder("gguf")
    stat = path.stat()
    identity = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}:{kind.__name__}:{transformers.__version__}"
    folder = cache / hashlib.sha256(identity.encode()).hexdigest()[:16]
    if (folder / "config.json").is_file():
        return folder
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    module = kind.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    # The weights are float32 now, but the module is still marked as quantized, and transformers would not save it.
    module.hf_quantizer = None
    del module.config.quantization_config
    cache.mkdir(parents=True, exist_ok=True)
    # Renamed when complete: another process must never see a half-written directory.
    with tempfile.TemporaryDirectory(dir=cache, prefix="making-") as making:
        made = Path(making) / "model"
        tokenizer.save_pretrained(made)
        module.save_pretrained(made)
        with contextlib.suppress(OSError):  # another process has made it in the meantime
            made.rename(folder)
    return folder


def context_length(config: Any) -> int:
    """The number of tokens that the model can read with full attention in every layer. Raises ConfigError."""
    rope = getattr(config, "rope_parameters", None) or {}
    if "dynamic" in str(rope.get("rope_type", "")) or "longrope" in str(rope.get("rope_type", "")):
        raise ConfigError(
            "the model's rotary positions depend on the text's length (dynamic RoPE), so texts cannot share keys: "
            "choose a model with fixed positions"
        )
    # Up to the smallest of these sizes, every layer attends to all earlier tokens, as a packed pass does.
    names = ("max_position_embeddings", "sliding_window", "attention_chunk_size")
    sizes = [getattr(config, name, None) for name in names]
    if getattr(config, "use_sliding_window", True) is False:
        sizes[1] = None
    return min(int(size) for size in sizes if size)


def end_tokens(loaded: LoadedModel) -> list[int]:
    """The tokens that end an answer, from the model's generation config and its tokenizer."""
    named = getattr(loaded.model.generation_config, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    return list(dict.fromkeys(int(token) for token in [*ids, loaded.tokenizer.eos_token_id] if token is not None))
