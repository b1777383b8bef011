"""The public entry: an engine for a family and a model. Loads nothing until `start()`."""

from guardproxy.engine.engine import Engine
from guardproxy.engine.runner import Options
from guardproxy.ports import Family


def open_engine(
    *,
    name: str,
    family: Family,
    model: str,
    device: str = "auto",
    dtype: str = "auto",
    max_batch_tokens: int | None = None,
    timeout_s: float = 30.0,
    max_wait_s: float = 10.0,
    floor: float = 0.0,
    threads: int | None = None,
) -> Engine:
    """A guard named `name` that runs `model` in this process.

    `model` is a hub id, a directory, a GGUF file, or `embedded`. `device` is `auto`, `cpu`, `cuda` or `cuda:N`;
    `dtype` `auto` (float32 on a CPU, bfloat16 on CUDA) or a torch name. `max_batch_tokens` bounds one forward pass
    (None: chosen for the device). A check fails after `timeout_s`, and is refused when the queue would take longer than
    `max_wait_s`. Which categories an unsafe turn falls in is computed where P(unsafe) is over `floor`. `threads` is the
    number of CPU threads of torch in this process. Raises nothing: `Guard.start` raises ConfigError.
    """

    options = Options(
        model=model,
        device=device,
        dtype=dtype,
        max_batch_tokens=max_batch_tokens,
        floor=floor,
        threads=threads,
    )
    return Engine(name=name, family=family, load=options.load, timeout_s=timeout_s, max_wait_s=max_wait_s)
