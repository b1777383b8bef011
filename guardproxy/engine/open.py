"""The public entry: an engine for a family and a model. Loads nothing until `start()`."""

from guardproxy.engine.engine import PROBE, Engine
from guardproxy.engine.runner import Options, Runner
from guardproxy.ports import Family, LabelList, Prompt


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

    def load(probe: Prompt) -> Runner:
        options = Options(
            model=model,
            device=device,
            dtype=dtype,
            max_batch_tokens=max_batch_tokens,
            floor=floor if _lists(family) < 2 else 0.0,
            threads=threads,
        )
        return options.load(probe)

    return Engine(name=name, family=family, load=load, timeout_s=timeout_s, max_wait_s=max_wait_s)


def _lists(family: Family) -> int:
    """How many label lists a check is read for: P(unsafe) of several can be over a floor that each of them is under."""
    return sum(isinstance(prompt.readout, LabelList) for prompt in family.render(PROBE))
