"""The tokens of a model as its server names them, and prompts as the server reads them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from guardproxy.engine.decoder.grammar import Grammar, TrieNode
from guardproxy.engine.decoder.prompts import Choice, EncodedPrompt
from guardproxy.engine.tokenizer_files import StoredTokenizer
from guardproxy.guards.completions.api import Name
from guardproxy.ports import Prompt

# A character in front of a token, without which some tokenizers take the space at its beginning away.
_BEFORE = "a"


class TokenTexts:
    """The text of every token of a tokenizer, behind other text."""

    def __init__(self, tokenizer: StoredTokenizer) -> None:
        backend = self._backend = tokenizer.backend
        before = backend.encode(_BEFORE, add_special_tokens=False).ids
        size = backend.get_vocab_size(with_added_tokens=True)
        start = len(backend.decode(before, skip_special_tokens=False))
        both = backend.decode_batch([[*before, token] for token in range(size)], skip_special_tokens=False)
        self._texts = [text[start:] for text in both]
        self._counts = Counter(self._texts)
        added = backend.get_added_tokens_decoder().values()
        self._control = sorted((token.content for token in added if token.special and token.content), key=len)[::-1]

    @property
    def size(self) -> int:
        """The number of tokens."""
        return len(self._texts)

    def text(self, token: int) -> str:
        """The text of a token, as it stands behind others."""
        return self._texts[token]

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text by itself."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def count(self, text: str) -> int:
        """The number of tokens of a text by itself."""
        return len(self.tokens(text))

    def is_ambiguous(self, token: int) -> bool:
        """Whether another token has the same text, or the token is a part of a character."""
        text = self._texts[token]
        return self._counts[text] > 1 or not text or "\ufffd" in text

    def defused(self, prompt: Prompt) -> Prompt:
        """The prompt without the texts of control tokens in its ordinary text: a space follows their first character.

        For servers that read prompts as text, in which such a text would become the control token.
        """
        pieces = [
            piece if piece.kind == "special" else replace(piece, text=self.without_control(piece.text))
            for piece in prompt.pieces
        ]
        return replace(prompt, pieces=tuple(pieces))

    def without_control(self, text: str) -> str:
        """A text in which no control token is spelled: a space follows its first character."""
        for control in self._control:
            if control in text:
                text = text.replace(control, f"{control[0]} {control[1:]}")
        return text


@dataclass(frozen=True, slots=True)
class Naming:
    """How a server takes prompts and names tokens: by numbers or by texts.

    `adds`: it puts the token for the beginning of a text before every prompt, which then leaves it out.
    """

    texts: TokenTexts
    by_number: bool
    as_ids: bool
    adds: bool = False

    def name(self, token: int) -> Name:
        """The server's name of a token."""
        return token if self.by_number else self.texts.text(token)

    def prompt(self, encoded: EncodedPrompt, further: Sequence[int] = ()) -> list[int] | str:
        """A prompt with further tokens behind it, as the server reads it."""
        if self.as_ids:
            return [*encoded.ids, *further]
        pieces = encoded.pieces[1:] if self.adds else encoded.pieces
        return "".join([*(piece.text for piece in pieces), *(self.texts.text(token) for token in further)])


def tokens_of(answer: Grammar | Choice) -> list[int]:
    """Every token whose probability an answer is read for, the verdict's first, without repetition."""
    if isinstance(answer, Choice):
        return list(dict.fromkeys(token for group in answer.groups for token in group))
    labels = [*_below(answer.first), *_below(answer.further)]
    return list(dict.fromkeys([answer.safe, answer.unsafe, *labels, *answer.ends]))


def verdict_tokens(answer: Grammar | Choice) -> list[int]:
    """The tokens that are read right behind the prompt."""
    return [answer.safe, answer.unsafe] if isinstance(answer, Grammar) else tokens_of(answer)


def _below(node: TrieNode) -> Iterator[int]:
    for token, child in node.children.items():
        yield token
        yield from _below(child)
