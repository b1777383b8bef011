"""Encode text to token ids, with control tokens only where the template has them."""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import Metaspace

from guardproxy.errors import GuardUnavailable
from guardproxy.ports import Piece


class PromptTokenizer:
    """Encodes prompts piece by piece. Several threads may call it at the same time.

    The backend encodes the text of control tokens as ordinary characters, so only a `special` piece gives the id of a
    control token. `begins` marks the first ordinary text of a prompt: some tokenizers put a space before that text, and
    before no text behind a control token.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._backend.encode_special_tokens = True
        self._later = _without_first_space(backend)

    def text(self, text: str, *, begins: bool = True) -> list[int]:
        """The ids of ordinary text."""
        return self.spans(text, begins=begins)[0] if text else []

    def spans(self, text: str, *, begins: bool = True) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of ordinary text, and for each the characters [start, end) that it covers."""
        encoded = (self._backend if begins else self._later).encode(text, add_special_tokens=False)
        return list(encoded.ids), list(encoded.offsets)

    def special(self, token: str) -> int:
        """The id of a control token. Raises GuardUnavailable if the vocabulary has no token of that name."""
        token_id = self._backend.token_to_id(token)
        if token_id is None:
            raise GuardUnavailable(f"the tokenizer has no control token {token!r}: is this the model for its family?")
        return int(token_id)

    def known(self, token: str) -> int | None:
        """The id of a token by its exact text, or None."""
        token_id = self._backend.token_to_id(token)
        return None if token_id is None else int(token_id)

    def ids(self, pieces: Sequence[Piece]) -> list[int]:
        """The ids of a prompt. Neighbouring ordinary pieces are encoded as one string."""
        out: list[int] = []
        begins = True
        for run in ordinary_runs(pieces):
            if run[0].kind == "special":
                out.append(self.special(run[0].text))
            else:
                out.extend(self.text("".join(piece.text for piece in run), begins=begins))
                begins = False
        return out


def without_limits(backend: Tokenizer) -> Tokenizer:
    """The same tokenizer, which now neither truncates nor pads."""
    backend.no_truncation()
    backend.no_padding()
    return backend


def _without_first_space(backend: Tokenizer) -> Tokenizer:
    """The tokenizer for text behind a control token: `backend` without the space that it puts before the first text."""
    first = getattr(backend, "pre_tokenizer", None)
    if not isinstance(first, Metaspace) or first.prepend_scheme != "first":
        return backend
    other = Tokenizer.from_str(backend.to_str())
    other.encode_special_tokens = True  # a setting of the object, which its serialised form does not hold
    other.pre_tokenizer = Metaspace(replacement=first.replacement, prepend_scheme="never", split=first.split)
    return other


def ordinary_runs(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Neighbouring ordinary pieces as one run, each special piece as its own; empty pieces are dropped."""
    out: list[list[Piece]] = []
    for piece in pieces:
        if not piece.text:
            continue
        if piece.kind != "special" and out and out[-1][0].kind != "special":
            out[-1].append(piece)
        else:
            out.append([piece])
    return out
