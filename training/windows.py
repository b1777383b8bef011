"""The guard's input: `[CLS] text [SEP]`, or `[CLS] question [SEP] reply [SEP]`, in overlapping windows.

XLM-R's vocabulary calls the special tokens `<s>` and `</s>`.
"""

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
# The special pieces, by their meaning, in a BERT's vocabulary and in XLM-R's, which multilingual encoders have.
_BERT = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
_XLM = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>"}


@dataclass(frozen=True, slots=True)
class Windows:
    """Token windows of many texts: window i of text `owner[i]` has `ids[i]`, the first `first[i]` in segment 0."""

    ids: list[NDArray[np.int32]]
    first: list[int]
    owner: list[int]


def special_pieces(tokenizer: Tokenizer) -> dict[str, str]:
    """The special pieces of the tokenizer by their meaning: cls, sep, pad, unk, and mask if there is one.

    Raises ValueError if the vocabulary is neither a BERT's nor XLM-R's.
    """
    for pieces in (_BERT, _XLM):
        if all(tokenizer.token_to_id(piece) is not None for piece in pieces.values()):
            return pieces
    raise ValueError("the tokenizer has the special tokens of neither BERT nor XLM-R")


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
    pieces = special_pieces(tokenizer)
    cls, sep = (tokenizer.token_to_id(pieces[name]) for name in ("cls", "sep"))
    for owner, ((question, _), head, body) in enumerate(zip(pairs, heads, bodies, strict=True)):
        prefix = [cls] if question is None else [cls, *head[:question_tokens], sep]
        for start, end in places(len(body), len(prefix)):
            out.ids.append(np.asarray([*prefix, *body[start:end], sep], dtype=np.int32))
            out.first.append(0 if question is None else len(prefix))
            out.owner.append(owner)
    return out
