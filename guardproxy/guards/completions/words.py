"""The probabilities of a word that a model has written in a line of its answer, as a chat shows them."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from guardproxy.errors import Unintelligible
from guardproxy.guards.completions.api import NextToken
from guardproxy.guards.completions.reader import Shares, require_certain
from guardproxy.ports import Reading

_WORDS: Final = ("safe", "unsafe")


def word_reading(answer: Mapping[str, Any], text: str, line: str, top: int, uncertainty: float) -> Reading:
    """P(safe) and P(unsafe) of the word behind `line`, given what the model wrote before it.

    `answer` is a chat completion with `logprobs`, `text` its content. Where a word has several tokens, its first one
    counts: a token that begins one of the words alone. `top` tokens are shown at most. Raises Unintelligible if
    the line or its probabilities are missing; GuardUnavailable if P(unsafe) may be off by more than `uncertainty`.
    """
    try:
        entries = answer["choices"][0]["logprobs"]["content"]
        tokens = [(str(entry["token"]), entry) for entry in entries]
    except (KeyError, TypeError, IndexError):
        raise Unintelligible("the server shows no log-probabilities in chats") from None
    if not "".join(token for token, _ in tokens).startswith(text):
        raise Unintelligible("the tokens that the server shows are not those of its answer")
    place = text.find(f"{line} ") + len(line)
    if place < len(line) or f"\n{text}".find(f"\n{line} ") + len(line) != place:
        raise Unintelligible(f"the answer has no line {line!r}")
    if re.match(r" (un)?safe\b", text[place:]) is None:
        raise Unintelligible(f"the answer has another word than safe or unsafe behind {line!r}")
    entry, rest = _token_at(tokens, text, place)
    shown = _shown(entry)
    bounds = [_bounds(shown, word, rest) for word in _WORDS]
    least, most = tuple(low for low, _ in bounds), tuple(high for _, high in bounds)
    shares = Shares(least, most, min(1.0, sum(least)))
    require_certain(shares, top, uncertainty)
    unsafe = shares.of(1)
    return Reading((1.0 - unsafe, unsafe), shares.uncertainty, max(0.0, 1.0 - shares.seen))


def _token_at(tokens: Sequence[tuple[str, Any]], text: str, place: int) -> tuple[Any, str]:
    """The token in which the word begins, and what of it stands before the word: a space or nothing."""
    begins = 0
    for token, entry in tokens:
        ends = begins + len(token)
        if begins in (place, place + 1) and ends > place + 1:
            return entry, text[begins : place + 1]
        begins = ends
    raise Unintelligible("no token of the answer begins with the word safe or unsafe")


def _shown(entry: Any) -> NextToken:
    try:
        chosen = entry["token"]
        shown: dict[int | str, float] = {}
        for one in entry["top_logprobs"]:
            shown[one["token"]] = shown.get(one["token"], 0.0) + _probability(one["logprob"])
        shown.setdefault(chosen, _probability(entry["logprob"]))
    except (KeyError, TypeError, ValueError):
        raise Unintelligible("the server shows no log-probabilities beside the word safe or unsafe") from None
    if sum(shown.values()) > 1.01:
        raise Unintelligible("the probabilities that the server shows have a sum above 1")
    return NextToken(chosen, shown, 0)


def _probability(logprob: Any) -> float:
    if isinstance(logprob, bool) or not isinstance(logprob, int | float) or not logprob <= 1e-3:
        raise ValueError
    return min(1.0, math.exp(float(logprob)))


def _bounds(shown: NextToken, word: str, before: str) -> tuple[float, float]:
    """The least and the most probability of the tokens that begin a word."""
    found = [share for name, share in shown.shown.items() if _begins(str(name), f"{before}{word}")]
    return (sum(found), sum(found)) if found else (0.0, shown.most_unseen)


def _begins(token: str, word: str) -> bool:
    return bool(token.strip()) and (word.startswith(token) or token.rstrip() == word)
