"""The guard's input: `[CLS] text [SEP]`, or `[CLS] question [SEP] reply [SEP]`, in overlapping windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

WINDOW = 256  # tokens, including up to three special tokens
OVERLAP = 64  # tokens of judged text that neighbouring windows share
# The trained guard also reads a text of more than OVER tokens in parts: in a long window of harmless sentences, a
# harmful sentence is lost. A part's logits are lowered by DISCOUNT.
OVER = 128
PART = 64
PART_OVERLAP = 16
DISCOUNT = 1.0
QUESTION = 96  # most tokens of the question in front of a window of the reply
CLS, SEP = 101, 102  # ids in the BERT uncased vocabulary


@dataclass(frozen=True, slots=True)
class Windows:
    """Token windows of many texts: window i of text `owner[i]` has `ids[i]`, the first `first[i]` in segment 0."""

    ids: list[NDArray[np.uint16]]
    first: list[int]
    owner: list[int]


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens and truncation."""
    return [e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def spans(length: int, room: int, overlap: int = OVERLAP) -> list[tuple[int, int]]:
    """Half-open windows of at most `room` tokens that cover `length` tokens and overlap by `overlap`."""
    if length <= room:
        return [(0, length)]
    step = room - min(overlap, room // 2)
    starts = [*range(0, length - room, step), length - room]
    return [(s, s + room) for s in starts]


def windows(tokenizer: Tokenizer, pairs: Sequence[tuple[str | None, str]], window: int = WINDOW) -> Windows:
    """All windows of at most `window` tokens of the pairs (question or None, judged text), in order."""
    return _cut(
        tokenizer, pairs, lambda length, prefix: spans(length, window - prefix - 1), QUESTION * window // WINDOW
    )


def parts(tokenizer: Tokenizer, pairs: Sequence[tuple[str | None, str]]) -> Windows:
    """The parts in which the trained guard also reads texts of more than OVER tokens."""
    return _cut(
        tokenizer, pairs, lambda length, _: spans(length, PART, PART_OVERLAP) if length > OVER else [], QUESTION
    )


def _cut(
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str | None, str]],
    places: Callable[[int, int], list[tuple[int, int]]],
    question_tokens: int,
) -> Windows:
    """Windows at `places(tokens of the text, tokens before it)`, each after the first tokens of its question."""
    bodies = encode_texts(tokenizer, [text for _, text in pairs])
    heads = encode_texts(tokenizer, [question or "" for question, _ in pairs])
    out = Windows([], [], [])
    for owner, ((question, _), head, body) in enumerate(zip(pairs, heads, bodies, strict=True)):
        prefix = [CLS] if question is None else [CLS, *head[:question_tokens], SEP]
        for start, end in places(len(body), len(prefix)):
            out.ids.append(np.asarray([*prefix, *body[start:end], SEP], dtype=np.uint16))
            out.first.append(0 if question is None else len(prefix))
            out.owner.append(owner)
    return out
