"""Choose the runner for a model: a classifier for families that read class logits, else a language model."""

import torch

from guardproxy.engine.encoder.cascade import CascadeRunner
from guardproxy.engine.encoder.packed import PackedEncoder, weights_of
from guardproxy.engine.encoder.runner import ClassifierRunner
from guardproxy.engine.encoder.stored import load_stored
from guardproxy.engine.load import (
    LoadedModel,
    choose_device,
    choose_dtype,
    load_causal,
    load_classifier,
    second_reading,
)
from guardproxy.engine.model_files import CASCADE, PACKAGED
from guardproxy.engine.number_format import choose_format, convert_parameters, linear_sizes
from guardproxy.engine.runner import Runner
from guardproxy.errors import ConfigError
from guardproxy.ports import ClassLogits, Prompt

# The activation for each `problem_type` of a classifier's config.
_ACTIVATIONS = {"single_label_classification": "softmax", "multi_label_classification": "sigmoid"}


def open_runner(
    probe: Prompt,
    *,
    model: str,
    device: str = "auto",
    dtype: str = "auto",
    max_batch_tokens: int | None = None,
    floor: float = 0.0,
    threads: int | None = None,
) -> Runner:
    """Load `model` into the runner that prompts like `probe` need. Raises ConfigError if it cannot be loaded.

    `model` is a hub id, a directory, a GGUF file or `embedded`; `device` is `auto`, `cpu`, `cuda` or `cuda:N`; `dtype`
    is `auto` or the name of a torch type. `max_batch_tokens` and `threads` None mean the device's default. Label lists
    are read only if P(unsafe) is above `floor`.
    """
    chosen_device = choose_device(device)
    if threads is not None and chosen_device.type == "cpu":
        # Applies to this thread and to threads that have not called torch yet; LanePool sets the count of its own.
        torch.set_num_threads(threads)
    if isinstance(probe.readout, ClassLogits):
        sizes = {"max_batch_tokens": max_batch_tokens, "threads": threads}
        if model != CASCADE:
            return _open_classifier(model, probe.readout, chosen_device, dtype, **sizes)
        first, second = (_open_classifier(part, probe.readout, chosen_device, dtype, **sizes) for part in PACKAGED)
        return CascadeRunner(first, second, second_reading())
    # Only language models need it, and it imports transformers.
    from guardproxy.engine.decoder.runner import GenerativeRunner  # noqa: PLC0415

    loaded = load_causal(model, chosen_device, choose_dtype(dtype, chosen_device))
    number_format = None
    if chosen_device.type == "cpu":
        number_format = choose_format(dtype, linear_sizes(loaded.model.get_decoder().layers))
    return GenerativeRunner(
        loaded,
        chosen_device,
        max_batch_tokens=max_batch_tokens,
        floor=floor,
        threads=threads,
        number_format=number_format,
    )


def _open_classifier(
    model: str,
    readout: ClassLogits,
    device: torch.device,
    dtype: str,
    *,
    max_batch_tokens: int | None,
    threads: int | None,
) -> ClassifierRunner:
    # The packed encoder keeps embeddings and classifier in float32, and rounds the layers itself.
    own_dtype = choose_dtype(dtype, device)
    loaded = load_stored(model) if device.type == "cpu" else None
    if loaded is None:
        loaded = load_classifier(model, device, torch.float32 if device.type == "cpu" else own_dtype)
    _check_outputs(model, loaded, readout)
    number_format = None
    if PackedEncoder.supports(loaded.model, device):
        number_format = choose_format(dtype, weights_of(loaded.model).linear_sizes())
    else:
        convert_parameters(loaded.model, own_dtype)
    return ClassifierRunner(
        loaded, device, max_batch_tokens=max_batch_tokens, threads=threads, number_format=number_format
    )


def _check_outputs(model: str, loaded: LoadedModel, readout: ClassLogits) -> None:
    """Raise ConfigError if the model's own config contradicts how the family reads its outputs."""
    config = loaded.model.config
    activation = _ACTIVATIONS.get(str(getattr(config, "problem_type", None)), readout.activation)
    if activation != readout.activation:
        raise ConfigError(
            f"model {model!r}: its config says {config.problem_type}: set the option activation: {activation}"
        )
    outputs = [str(config.id2label[index]) for index in range(int(config.num_labels))]
    if sorted(outputs) == sorted(readout.labels) and outputs != list(readout.labels):
        raise ConfigError(
            f"model {model!r}: its outputs are in the order {', '.join(outputs)}: list the labels in this order"
        )
