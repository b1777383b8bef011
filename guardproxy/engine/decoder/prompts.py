"""Encode prompts to token ids: the policy text, the part worth caching, the answer's tokens, windows. Pure."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from guardproxy.engine.decoder.grammar import Grammar, compile_grammar
from guardproxy.engine.tokenizer import PromptTokenizer, ordinary_runs
from guardproxy.errors import GuardUnavailable
from guardproxy.ports import LabelList, Piece, Prompt, Readout, TokenChoice

# Tokens that neighbouring windows of a judged text share.
OVERLAP = 64
# A window holds at least this many judged tokens; a prompt that leaves less room cannot be read.
_MIN_WINDOW = 2 * OVERLAP
# Tokens at the ends of a window may fall apart; reserve room for this many more.
_SEAM_TOKENS = 4
# Characters at the end of a prompt that decide how the answer's first token is spelled.
_CONTEXT = 48
# Policy texts and readouts that stay encoded.
_REMEMBERED = 64

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Choice:
    """A token choice in ids: the first tokens that count for each label."""

    groups: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """An encoded prompt and the tokens of its answer.

    `ids[:policy_size]` is the policy text. `ids[:cached_size]`, which ends with the judged text, is worth caching; the
    question behind it never is, because the next turn puts other text in its place. `pieces` is what was encoded.
    """

    ids: list[int] = field(repr=False)
    policy_size: int
    cached_size: int
    key: str
    answer: Grammar | Choice = field(repr=False)
    pieces: tuple[Piece, ...] = field(repr=False)
    stream: str | None = None


class PromptEncoder:
    """Encodes prompts for one model: `limit` is its context length in tokens, `eos` the tokens that end an answer."""

    def __init__(self, tokenizer: PromptTokenizer, limit: int, eos: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._limit = limit
        self._eos = tuple(eos)
        self._policies: OrderedDict[tuple[Piece, ...], list[int]] = OrderedDict()
        self._answers: OrderedDict[tuple[str, Readout], Grammar | Choice] = OrderedDict()

    def encode(self, prompt: Prompt) -> tuple[EncodedPrompt, ...]:
        """Encode the prompt, in windows if it exceeds the limit. Raises GuardUnavailable if no window fits.

        Context is left out first: the pieces that are `turn`, the oldest first. Then the longest judged piece is cut in
        overlapping windows, each with all the rest of the prompt around it.
        """
        answer = self._answer(prompt)
        limit = self._limit - _answer_tokens(answer)
        pieces = tuple(piece for piece in prompt.pieces if piece.text)
        encoded = self._encode(pieces, prompt, answer)
        while len(encoded.ids) > limit and any(piece.kind == "turn" for piece in pieces):
            pieces = _without_oldest_turn(pieces)
            encoded = self._encode(pieces, prompt, answer)
        if len(encoded.ids) <= limit:
            return (encoded,)
        return self._windows(pieces, prompt, answer, limit)

    def _windows(
        self, pieces: tuple[Piece, ...], prompt: Prompt, answer: Grammar | Choice, limit: int
    ) -> tuple[EncodedPrompt, ...]:
        judged = [index for index, piece in enumerate(pieces) if piece.kind == "judged"]
        if not judged:
            raise GuardUnavailable(
                f"the guard's prompt is longer than the model's {self._limit} tokens even without any text"
            )
        index = max(judged, key=lambda candidate: len(pieces[candidate].text))
        text = pieces[index].text
        _, spans = self._tokenizer.spans(text)
        around = self._tokenizer.ids([*pieces[:index], *pieces[index + 1 :]])
        room = limit - len(around) - _SEAM_TOKENS
        if room < _MIN_WINDOW:
            raise GuardUnavailable(f"the guard's prompt leaves no room for a text in the model's {self._limit} tokens")
        windows: list[EncodedPrompt] = []
        start = 0
        while True:
            stop = min(start + room, len(spans))
            while True:
                # To the text's own start and end: characters there that have no token would be lost.
                part = text[spans[start][0] if start else 0 : spans[stop - 1][1] if stop < len(spans) else len(text)]
                window = (*pieces[:index], replace(pieces[index], text=part), *pieces[index + 1 :])
                encoded = self._encode(window, prompt, answer)
                if len(encoded.ids) <= limit:
                    break
                stop -= max(1, len(encoded.ids) - limit)  # tokens at the cut fell apart: try a shorter window
                if stop - start < OVERLAP:
                    raise GuardUnavailable("this model's tokenizer does not let the text be cut into windows")
            windows.append(encoded)
            if stop >= len(spans):
                return tuple(windows)
            start = stop - min(OVERLAP, (stop - start) // 2)

    def _encode(self, pieces: tuple[Piece, ...], prompt: Prompt, answer: Grammar | Choice) -> EncodedPrompt:
        ids: list[int] = []
        cached_size = 0
        begins = True
        for run in ordinary_runs(pieces):
            if run[0].kind == "special":
                ids.append(self._tokenizer.special(run[0].text))
                continue
            run_ids, spans = self._tokenizer.spans("".join(piece.text for piece in run), begins=begins)
            begins = False
            end = _judged_end(run)
            if end:
                cached_size = len(ids) + sum(1 for _, stop in spans if stop <= end)
            ids += run_ids
        policy = self._policy(pieces)
        # The policy's last tokens may merge with the text that follows: only the tokens that both have are shared.
        # The prompt's last token is always computed, because the verdict is read there.
        shared = 0
        while shared < min(len(policy), len(ids) - 1) and policy[shared] == ids[shared]:
            shared += 1
        size = max(shared, min(cached_size, len(ids) - 1))
        return EncodedPrompt(ids, shared, size, prompt.key, answer, pieces)

    def _policy(self, pieces: tuple[Piece, ...]) -> list[int]:
        """The ids of the pieces before the conversation."""
        count = next((index for index, piece in enumerate(pieces) if piece.kind in {"turn", "judged"}), len(pieces))
        return _remember(self._policies, pieces[:count], lambda: self._tokenizer.ids(pieces[:count]))

    def _answer(self, prompt: Prompt) -> Grammar | Choice:
        """The tokens of the prompt's answer, as spelled right behind the prompt."""
        last = ordinary_runs(prompt.pieces)[-1]
        tail = "" if last[0].kind == "special" else "".join(piece.text for piece in last)[-_CONTEXT:]
        return _remember(self._answers, (tail, prompt.readout), lambda: self._compile(tail, prompt.readout))

    def _compile(self, tail: str, readout: Readout) -> Grammar | Choice:
        before = self._tokenizer.text(tail, begins=False)

        def encode_answer(text: str) -> list[int]:
            ids = self._tokenizer.text(tail + text, begins=False)
            if ids[: len(before)] != before or len(ids) == len(before):
                raise GuardUnavailable(
                    f"this model's tokens for {text!r} merge with the end of the prompt: it is no model of this family "
                    "or of these options, or the tokenizer is another model's"
                )
            return ids[len(before) :]

        if isinstance(readout, LabelList):
            return compile_grammar(readout, encode_answer, self._tokenizer.known, self._eos)
        if isinstance(readout, TokenChoice):
            return _choice(readout, encode_answer)
        raise GuardUnavailable("a language model has no class logits")


def _choice(readout: TokenChoice, encode_answer: Callable[[str], list[int]]) -> Choice:
    groups = tuple(
        tuple(dict.fromkeys(encode_answer(text)[0] for text in spellings)) for spellings in readout.spellings
    )
    if len({token for group in groups for token in group}) != sum(len(group) for group in groups):
        raise GuardUnavailable(
            f"two of the answers {', '.join(readout.labels)} begin with the same token of this model"
        )
    return Choice(groups)


def _judged_end(run: Sequence[Piece]) -> int:
    """Characters of the run up to the end of its last judged piece; 0 if it has none."""
    size = end = 0
    for piece in run:
        size += len(piece.text)
        if piece.kind == "judged":
            end = size
    return end


def _without_oldest_turn(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    oldest = next(index for index, piece in enumerate(pieces) if piece.kind == "turn")
    return (*pieces[:oldest], *pieces[oldest + 1 :])


def _answer_tokens(answer: Grammar | Choice) -> int:
    """The most tokens that an answer may take behind the prompt."""
    if isinstance(answer, Choice):
        return 1
    return len(answer.forced) + 2 + answer.labels * answer.further.depth + answer.first.depth


def _remember(memory: OrderedDict[K, V], key: K, make: Callable[[], V]) -> V:
    """The value for `key`, made once as long as it is among the last few used."""
    if key in memory:
        memory.move_to_end(key)
        return memory[key]
    memory[key] = value = make()
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)
    return value
