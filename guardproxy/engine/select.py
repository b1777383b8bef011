"""The runner for a model: a classifier for families that read class logits, else a language model."""

import torch

from guardproxy.engine.classifier import ClassifierRunner
from guardproxy.engine.generative import GenerativeRunner
from guardproxy.engine.load import choose_device, choose_dtype, load_causal, load_classifier
from guardproxy.engine.runner import Options, Runner
from guardproxy.ports import ClassLogits, Prompt


def open_runner(options: Options, probe: Prompt) -> Runner:
    """The runner for `options.model`, of the kind that `probe` needs. Raises ConfigError."""
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    if options.threads is not None and device.type == "cpu":
        torch.set_num_threads(options.threads)  # of this thread, and of those that have not computed yet
    if isinstance(probe.readout, ClassLogits):
        loaded = load_classifier(options.model, device, dtype)
        return ClassifierRunner(loaded, device, max_batch_tokens=options.max_batch_tokens, threads=options.threads)
    loaded = load_causal(options.model, device, dtype)
    return GenerativeRunner(
        loaded, device, max_batch_tokens=options.max_batch_tokens, floor=options.floor, threads=options.threads
    )
