"""Text to token ids, with control tokens only where the template has them."""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import Metaspace

from guardproxy.errors import GuardUnavailable
from guardproxy.ports import Piece


class PromptTokenizer:
    """Encodes prompts piece by piece. Safe to call from several threads.

    The backend is switched to encode the text of control tokens as ordinary characters; a control token gets into the
    ids only through a `special` piece. `begins` says that a text is the first ordinary one: some tokenizers put a space
    before that one, and before none that stands behind a control token.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._backend.encode_special_tokens = True
        self._further = _without_first_space(backend)

    def text(self, text: str, *, begins: bool = True) -> list[int]:
        """The ids of ordinary text."""
        return self.spans(text, begins=begins)[0] if text else []

    def spans(self, text: str, *, begins: bool = True) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of ordinary text and the characters [start, end) that each stands for."""
        encoded = (self._backend if begins else self._further).encode(text, add_special_tokens=False)
        return list(encoded.ids), list(encoded.offsets)

    def special(self, token: str) -> int:
        """The id of a control token. Raises GuardUnavailable where the vocabulary has none of that name."""
        found = self._backend.token_to_id(token)
        if found is None:
            raise GuardUnavailable(f"the tokenizer has no control token {token!r}: is this the model for its family?")
        return int(found)

    def known(self, token: str) -> int | None:
        """The id of a token by its exact text, or None."""
        found = self._backend.token_to_id(token)
        return None if found is None else int(found)

    def ids(self, pieces: Sequence[Piece]) -> list[int]:
        """The ids of a prompt: runs of ordinary pieces are encoded as one string each."""
        out: list[int] = []
        begins = True
        for run in runs(pieces):
            if run[0].kind == "special":
                out.append(self.special(run[0].text))
            else:
                out.extend(self.text("".join(piece.text for piece in run), begins=begins))
                begins = False
        return out


def _without_first_space(backend: Tokenizer) -> Tokenizer:
    """The tokenizer for text behind a control token: itself, but for the space that it puts before the first text."""
    first = getattr(backend, "pre_tokenizer", None)
    if not isinstance(first, Metaspace) or first.prepend_scheme != "first":
        return backend
    other = Tokenizer.from_str(backend.to_str())
    other.encode_special_tokens = True
    other.pre_tokenizer = Metaspace(replacement=first.replacement, prepend_scheme="never", split=first.split)
    return other


def runs(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Neighbouring ordinary pieces together, each special piece alone; empty pieces are dropped."""
    out: list[list[Piece]] = []
    for piece in pieces:
        if not piece.text:
            continue
        if piece.kind != "special" and out and out[-1][0].kind != "special":
            out[-1].append(piece)
        else:
            out.append([piece])
    return out
