"""The number format of a model's linear layers on a CPU: which one is fastest here, measured once and cached.

oneDNN (https://uxlfoundation.github.io/oneDNN/) multiplies faster with weights that it has laid out itself ("packed").
How much faster, and whether bfloat16 is faster than float32 at all, depends on the CPU and on the size of the layers.
"""

import contextlib
import hashlib
import json
import logging
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch
from torch.nn import functional

from guardproxy.engine.load import cache_folder

Product = Callable[[torch.Tensor], torch.Tensor]
# Seconds of each format by its name, one for each number of rows in _ROWS.
Seconds = Mapping[str, Sequence[float]]
# The inputs and outputs of a linear layer.
LinearSize = tuple[int, int]

# The rows of the products that are measured: a short text alone, and a batch.
_ROWS = (32, 256)
# CPU seconds of the measurement, and the least rounds.
_BUDGET_S, _ROUNDS = 0.1, 3
# bfloat16 has an error, so it must be this many times as fast as float32 at every number of rows. Packed weights must
# be this many times as fast as plain ones on the average, and may be slower at one number of rows by the noise only.
_BFLOAT16_GAIN, _PACKED_GAIN, _NOISE = 1.3, 1.03, 0.9

log = logging.getLogger("guardproxy.engine")


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """The type of a model's weights, and whether oneDNN packs those of its linear layers."""

    dtype: torch.dtype
    packed: bool = False

    @property
    def type_name(self) -> str:
        """Such as `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def name(self) -> str:
        """Such as `bfloat16` or `bfloat16 packed`."""
        return self.type_name + (" packed" if self.packed else "")

    def product(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        """The linear layer of `weight` and `bias` in this format; it converts its rows [..., size]."""
        weight, bias = weight.to(self.dtype), None if bias is None else bias.to(self.dtype)
        if not self.packed:
            return partial(_plain_product, weight, bias)
        return partial(_packed_product, torch.ops.mkldnn._reorder_linear_weight(weight), bias)  # noqa: SLF001


_FORMATS = tuple(NumberFormat(dtype, packed) for dtype in (torch.float32, torch.bfloat16) for packed in (False, True))


class FormattedLinear(torch.nn.Module):
    """A linear layer of a model of transformers in a number format."""

    def __init__(self, inner: torch.nn.Linear, number_format: NumberFormat) -> None:
        super().__init__()
        self._product = number_format.product(inner.weight, inner.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., size] in and out."""
        return self._product(hidden)


def linear_sizes(part: torch.nn.Module) -> list[LinearSize]:
    """The sizes of the linear layers of a part of a model, in order."""
    return [(module.in_features, module.out_features) for module in part.modules() if type(module) is torch.nn.Linear]


def convert_parameters(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Convert the parameters of a model or a part of it, but not its buffers: rotary frequencies need float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def format_linear_layers(part: torch.nn.Module, number_format: NumberFormat) -> None:
    """Replace the linear layers inside a part of a model by layers in a number format."""
    for parent in list(part.modules()):
        for name, child in parent.named_children():
            if type(child) is torch.nn.Linear:
                setattr(parent, name, FormattedLinear(child, number_format))


def padded_rows(rows: int) -> int:
    """`rows` rounded up by at most 7 rows or 1/16.

    oneDNN compiles a kernel for every number of rows, which takes longer than the product of a short text, and keeps
    1,024 kernels. So there must be few such numbers.
    """
    step = max(8, (1 << rows.bit_length()) // 32)
    return -(-rows // step) * step


def _plain_product(weight: torch.Tensor, bias: torch.Tensor | None, hidden: torch.Tensor) -> torch.Tensor:
    return functional.linear(hidden.to(weight.dtype), weight, bias)


def _packed_product(weight: torch.Tensor, bias: torch.Tensor | None, hidden: torch.Tensor) -> torch.Tensor:
    hidden, rows = hidden.to(weight.dtype), hidden.shape[-2]
    missing = padded_rows(rows) - rows
    if missing:
        hidden = functional.pad(hidden, (0, 0, 0, missing))
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, "none", [], "")  # noqa: SLF001
    return out[..., :rows, :] if missing else out


def choose_format(wanted: str, layers: Sequence[LinearSize], folder: Path | None = None) -> NumberFormat:
    """The fastest format on this CPU that the setting `wanted` (`auto` or the name of a type) allows, for `layers`.

    The measurement takes some 100 ms and is cached in `folder` (None: in the user's cache) by CPU, torch and sizes.
    """
    if wanted == "float16":
        return NumberFormat(torch.float16)
    counts = Counter(layers)
    machine = {"cpu": _cpu(), "torch": torch.__version__, "layers": sorted([*size, n] for size, n in counts.items())}
    seconds = _cached(folder or cache_folder("number_formats"), machine, partial(measure, layers))
    chosen = fastest(seconds, wanted)
    base = seconds[NumberFormat(torch.float32).name]
    log.info(
        "number_format",
        extra={"chosen": chosen.name, "times_plain_float32": round(min(_gains(base, seconds[chosen.name])), 2)},
    )
    return chosen


def fastest(seconds: Seconds, wanted: str) -> NumberFormat:
    """The format to use by measured `seconds`: the plainest, unless another one is clearly faster."""

    def best(dtype: torch.dtype) -> NumberFormat:
        plain, packed = NumberFormat(dtype), NumberFormat(dtype, packed=True)
        if packed.name not in seconds:
            return plain
        gains = _gains(seconds[plain.name], seconds[packed.name])
        return packed if geometric_mean(gains) >= _PACKED_GAIN and min(gains) >= _NOISE else plain

    single, half = best(torch.float32), best(torch.bfloat16)
    if wanted == "auto":
        faster = half.name in seconds and min(_gains(seconds[single.name], seconds[half.name])) >= _BFLOAT16_GAIN
        return half if faster else single
    return half if wanted == "bfloat16" else single


def _gains(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(slow, fast, strict=True)]


def measure(layers: Sequence[LinearSize]) -> dict[str, list[float]]:
    """CPU seconds of the products of `layers` on one thread, by format and number of rows; the formats take turns.

    Every size is computed once and counts as often as it occurs. A format that this build of torch lacks is left out.
    """
    counts = Counter(layers)
    acts: dict[tuple[str, int], Sequence[tuple[int, Callable[[], torch.Tensor]]]] = {}
    for number_format in _FORMATS:
        with contextlib.suppress(RuntimeError, AttributeError), torch.inference_mode():
            products = {
                (inputs, outputs): number_format.product(torch.ones(outputs, inputs), torch.zeros(outputs))
                for inputs, outputs in counts
            }
            for rows in _ROWS:
                calls = [
                    (counts[size], partial(product, torch.ones(rows, size[0], dtype=number_format.dtype)))
                    for size, product in products.items()
                ]
                for _, call in calls:
                    call()  # compiles the kernel, or raises
                acts[number_format.name, rows] = calls
    times = _timed(acts)
    names = dict.fromkeys(name for name, _ in acts)
    return {name: [times[name, rows] for rows in _ROWS] for name in names if (name, _ROWS[-1]) in times}


def _timed(acts: Mapping[Any, Sequence[tuple[int, Callable[[], Any]]]]) -> dict[Any, float]:
    """The least CPU seconds of each act, whose calls count as often as the number beside them."""
    took: dict[Any, list[float]] = {key: [] for key in acts}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a lane
    try:
        with torch.inference_mode():
            began = time.thread_time()
            while len(next(iter(took.values()))) < _ROUNDS or time.thread_time() - began < _BUDGET_S:
                for key, calls in acts.items():
                    took[key].append(sum(count * _seconds(call) for count, call in calls))
    finally:
        torch.set_num_threads(threads)
    return {key: min(values) for key, values in took.items()}


def _seconds(call: Callable[[], Any]) -> float:
    """CPU seconds of the second of two calls: the first one brings the weights into the cache."""
    call()
    began = time.thread_time()
    call()
    return time.thread_time() - began


def _cached(folder: Path, machine: dict[str, Any], act: Callable[[], dict[str, list[float]]]) -> Seconds:
    """What `act` measured on this machine before, or measures now. A cache that cannot be used is no error."""
    path = folder / f"{hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:16]}.json"
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        seconds: Seconds = json.loads(path.read_text())["seconds"]
        for wanted in ("auto", "float32", "bfloat16"):
            _gains(seconds["float32"], seconds[fastest(seconds, wanted).name])  # fails if anything is missing
        return seconds
    measured = act()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".making", delete=False) as making:
            json.dump({**machine, "seconds": measured}, making)
        Path(making.name).rename(path)  # whole or not at all: other processes read it
    return measured


def _cpu() -> str:
    """The model of the CPU, the instructions that torch uses, and a hash of all that the machine has."""
    lines: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            lines.setdefault(name.strip(), value.strip())
    flags = hashlib.sha256(lines.get("flags", "").encode()).hexdigest()[:16]
    model = lines.get("model name") or platform.processor() or platform.machine()
    return f"{model} {torch.backends.cpu.get_cpu_capability()} {flags}"
