"""Generative guards: causal language models read for label lists and token choices."""
