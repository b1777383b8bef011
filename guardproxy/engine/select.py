"""The runner for a model: a classifier for families that read class logits, else a language model."""

import torch

from guardproxy.engine.decoder.runner import GenerativeRunner
from guardproxy.engine.encoder.runner import ClassifierRunner
from guardproxy.engine.load import Loaded, choose_device, choose_dtype, load_causal, load_classifier
from guardproxy.engine.runner import Options, Runner
from guardproxy.errors import ConfigError
from guardproxy.ports import ClassLogits, Prompt

# What a classifier's config says of its outputs, and how such are read.
_ACTIVATIONS = {"single_label_classification": "softmax", "multi_label_classification": "sigmoid"}


def open_runner(options: Options, probe: Prompt) -> Runner:
    """The runner for `options.model`, of the kind that `probe` needs. Raises ConfigError."""
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    if options.threads is not None and device.type == "cpu":
        torch.set_num_threads(options.threads)  # of this thread, and of those that have not computed yet
    if isinstance(probe.readout, ClassLogits):
        loaded = load_classifier(options.model, device, dtype)
        _fits(options.model, loaded, probe.readout)
        return ClassifierRunner(loaded, device, max_batch_tokens=options.max_batch_tokens, threads=options.threads)
    loaded = load_causal(options.model, device, dtype)
    return GenerativeRunner(
        loaded, device, max_batch_tokens=options.max_batch_tokens, floor=options.floor, threads=options.threads
    )


def _fits(model: str, loaded: Loaded, readout: ClassLogits) -> None:
    """Raise ConfigError where the model's own config contradicts how the family reads its outputs."""
    config = loaded.model.config
    activation = _ACTIVATIONS.get(str(getattr(config, "problem_type", None)), readout.activation)
    if activation != readout.activation:
        raise ConfigError(
            f"model {model!r}: its config says {config.problem_type}: set the option activation: {activation}"
        )
    outputs = [str(config.id2label[index]) for index in range(int(config.num_labels))]
    if sorted(outputs) == sorted(readout.labels) and outputs != list(readout.labels):
        raise ConfigError(f"model {model!r}: its outputs are in the order {', '.join(outputs)}: list the labels so")
