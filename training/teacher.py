"""A larger encoder as a teacher model: any base encoder whose vocabulary contains the guard's word pieces."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from tokenizers import Tokenizer
from transformers import AutoModel

from training.labels import OUTPUTS

_SPECIAL = {"[PAD]": "<pad>", "[CLS]": "<s>", "[SEP]": "</s>", "[UNK]": "<unk>", "[MASK]": "<mask>"}


class Teacher(torch.nn.Module):
    """A base encoder with mean pooling and a linear head, on the guard's own token windows.

    Each word piece of `tokenizer` (the guard's) is mapped to the encoder's id of the same piece. Raises KeyError if the
    encoder's vocabulary lacks a piece.
    """

    def __init__(self, base: Path, tokenizer: Tokenizer, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = AutoModel.from_pretrained(base, dtype=torch.float32, add_pooling_layer=False)
        self.dropout = torch.nn.Dropout(0.1)
        self.head = torch.nn.Linear(self.encoder.config.hidden_size, len(OUTPUTS))
        theirs = Tokenizer.from_file(str(base / "tokenizer.json")).get_vocab()
        ours = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        table = [theirs[piece] if piece in theirs else theirs[_SPECIAL[piece]] for piece, _ in ours]
        self.table: torch.Tensor
        self.register_buffer("table", torch.tensor(table))

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> SimpleNamespace:
        """Logits of shape (texts, outputs), as `.logits`. `token_type_ids` is unused: the separator marks segments."""
        hidden = self.encoder(input_ids=self.table[input_ids], attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        return SimpleNamespace(logits=self.head(self.dropout(pooled)))
