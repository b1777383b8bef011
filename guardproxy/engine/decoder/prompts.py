"""Prompts to token ids: what is shared, what is kept, where it is read, and windows of what is too long. Pure."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from guardproxy.engine.decoder.grammar import Grammar, compile_grammar
from guardproxy.engine.text import PromptTokenizer, runs
from guardproxy.errors import GuardUnavailable
from guardproxy.ports import LabelList, Piece, Prompt, Readout, TokenChoice

# Tokens that neighbouring windows of a judged text share.
OVERLAP = 64
# The least judged tokens a window must hold; a prompt that leaves less room cannot be read.
_ROOM = 2 * OVERLAP
# Characters before the reading position that decide how the answer's first token is spelled.
_CONTEXT = 48
_REMEMBERED = 64

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Choice:
    """The ids that count for each label of a token choice."""

    groups: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """An encoded prompt. `ids[:head]` is the policy text, `ids[:keep]` ends with the judged text."""

    ids: list[int] = field(repr=False)
    head: int
    keep: int
    key: str
    read: Grammar | Choice = field(repr=False)
    stream: str | None = None


class PromptEncoder:
    """Encodes the prompts of one model. `limit` is its window in tokens, `eos` what ends its answers."""

    def __init__(self, tokenizer: PromptTokenizer, limit: int, eos: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._limit = limit
        self._eos = tuple(eos)
        self._heads: OrderedDict[tuple[Piece, ...], list[int]] = OrderedDict()
        self._reads: OrderedDict[tuple[str, Readout], Grammar | Choice] = OrderedDict()

    def encode(self, prompt: Prompt) -> tuple[EncodedPrompt, ...]:
        """The prompt, or windows of it where it exceeds the limit. Raises GuardUnavailable where nothing fits.

        Context goes first: pieces that are `turn`, oldest first. Then the longest judged piece is cut in overlapping
        windows, each read in the whole rest of the prompt.
        """
        read = self._read(prompt)
        limit = self._limit - _reserve(read)
        pieces = tuple(piece for piece in prompt.pieces if piece.text)
        script = self._script(pieces, prompt, read)
        while len(script.ids) > limit and any(piece.kind == "turn" for piece in pieces):
            pieces = _without_oldest_turn(pieces)
            script = self._script(pieces, prompt, read)
        if len(script.ids) <= limit:
            return (script,)
        return self._windows(pieces, prompt, read, limit)

    def _windows(
        self, pieces: tuple[Piece, ...], prompt: Prompt, read: Grammar | Choice, limit: int
    ) -> tuple[EncodedPrompt, ...]:
        judged = [index for index, piece in enumerate(pieces) if piece.kind == "judged"]
        if not judged:
            raise GuardUnavailable(f"the guard's prompt without any text exceeds the model's {self._limit} tokens")
        index = max(judged, key=lambda at: len(pieces[at].text))
        text = pieces[index].text
        _, spans = self._tokenizer.spans(text)
        around = self._tokenizer.ids([*pieces[:index], *pieces[index + 1 :]])
        room = limit - len(around) - 4  # tokens at the seams of a window may fall apart
        if room < _ROOM:
            raise GuardUnavailable(f"the guard's prompt leaves no room for a text in the model's {self._limit} tokens")
        scripts: list[EncodedPrompt] = []
        start = 0
        while True:
            stop = min(start + room, len(spans))
            while True:
                part = text[spans[start][0] if start else 0 : spans[stop - 1][1] if stop < len(spans) else len(text)]
                window = (*pieces[:index], replace(pieces[index], text=part), *pieces[index + 1 :])
                script = self._script(window, prompt, read)
                if len(script.ids) <= limit:
                    break
                stop -= max(1, len(script.ids) - limit)
                if stop - start < OVERLAP:
                    raise GuardUnavailable("the text cannot be cut into windows for this model's tokenizer")
            scripts.append(script)
            if stop >= len(spans):
                return tuple(scripts)
            start = stop - min(OVERLAP, (stop - start) // 2)

    def _script(self, pieces: tuple[Piece, ...], prompt: Prompt, read: Grammar | Choice) -> EncodedPrompt:
        ids: list[int] = []
        keep = 0
        begins = True
        for run in runs(pieces):
            if run[0].kind == "special":
                ids.append(self._tokenizer.special(run[0].text))
                continue
            more, spans = self._tokenizer.spans("".join(piece.text for piece in run), begins=begins)
            begins = False
            end = _judged_end(run)
            if end:
                keep = len(ids) + sum(1 for _, stop in spans if stop <= end)
            ids += more
        head = self._head(pieces)
        shared = 0
        while shared < min(len(head), len(ids) - 1) and head[shared] == ids[shared]:
            shared += 1
        return EncodedPrompt(ids, shared, max(shared, min(keep, len(ids) - 1)), prompt.key, read)

    def _head(self, pieces: tuple[Piece, ...]) -> list[int]:
        """The ids of what stands before the conversation."""
        count = next((at for at, piece in enumerate(pieces) if piece.kind in {"turn", "judged"}), len(pieces))
        return _remember(self._heads, pieces[:count], lambda: self._tokenizer.ids(pieces[:count]))

    def _read(self, prompt: Prompt) -> Grammar | Choice:
        """How the prompt's answer is spelled in tokens, right behind the prompt."""
        last = runs(prompt.pieces)[-1]
        tail = "" if last[0].kind == "special" else "".join(piece.text for piece in last)[-_CONTEXT:]
        return _remember(self._reads, (tail, prompt.readout), lambda: self._compile(tail, prompt.readout))

    def _compile(self, tail: str, readout: Readout) -> Grammar | Choice:
        before = self._tokenizer.text(tail, begins=False)

        def behind(text: str) -> list[int]:
            ids = self._tokenizer.text(tail + text, begins=False)
            if ids[: len(before)] != before or len(ids) == len(before):
                raise GuardUnavailable(f"this model's tokens for {text!r} run into the end of the prompt")
            return ids[len(before) :]

        if isinstance(readout, LabelList):
            return compile_grammar(readout, behind, self._tokenizer.known, self._eos)
        if isinstance(readout, TokenChoice):
            return _choice(readout, behind)
        raise GuardUnavailable("a language model has no class logits")


def _choice(readout: TokenChoice, behind: Callable[[str], list[int]]) -> Choice:
    groups = tuple(tuple(dict.fromkeys(behind(text)[0] for text in spellings)) for spellings in readout.spellings)
    if len({token for group in groups for token in group}) != sum(len(group) for group in groups):
        raise GuardUnavailable(
            f"two of the answers {', '.join(readout.labels)} begin with the same token of this model"
        )
    return Choice(groups)


def _judged_end(run: Sequence[Piece]) -> int:
    """Characters of the run up to the end of its last judged piece; 0 where it has none."""
    at = end = 0
    for piece in run:
        at += len(piece.text)
        if piece.kind == "judged":
            end = at
    return end


def _without_oldest_turn(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    oldest = next(index for index, piece in enumerate(pieces) if piece.kind == "turn")
    return (*pieces[:oldest], *pieces[oldest + 1 :])


def _reserve(read: Grammar | Choice) -> int:
    """Tokens that an answer may take behind the prompt."""
    if isinstance(read, Choice):
        return 1
    return len(read.forced) + 2 + sum(read.further.longest for _ in range(read.labels)) + read.first.longest


def _remember(memory: OrderedDict[K, V], key: K, make: Callable[[], V]) -> V:
    """The value for `key`, made once while it is among the last few used."""
    if key in memory:
        memory.move_to_end(key)
        return memory[key]
    memory[key] = value = make()
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)
    return value
