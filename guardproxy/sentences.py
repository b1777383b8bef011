"""Sentences: a text cut at their ends, and from which probability on a policy counts a sentence by itself. Pure.

The score of harm falls with harmless sentences around it, so a user's text is judged sentence by sentence as well
(decision 0041).
"""

import re
from typing import Annotated

from annotated_types import Interval

from guardproxy.frozen import frozen

# A sentence ends at . ! ? or an ideographic stop (with closing quotes), or at a line break. It includes the white space
# after it.
_SENTENCE = re.compile(r"[^\n.!?。！？]*(?:[.!?。！？]++[\"'”’)\]]*+(?=\s|$)|[.!?。！？]+|\n|$)\s*")  # noqa: RUF001
# A sentence of fewer words says too little by itself: it is read with the next one.
_FEWEST_WORDS = 5
# Of more sentences, neighbours are read together. A text of more characters would have passages too long to help.
_MOST, _LONGEST = 64, 25_600


@frozen
class SentencePolicy:
    """Whether the sentences of a user's text are also judged, each by itself."""

    unsafe: Annotated[float, Interval(ge=0, le=1)] | None = None
    """The verdict on a sentence counts from this P(unsafe) on; null: sentences are not judged by themselves. Out of its
    context a sentence may sound worse, so it needs more certainty than a whole text. A preset sets it if the guard is
    the embedded one."""


def sentences(text: str) -> list[str]:
    """Split `text` into sentences, each with the white space after it; joined, they give `text` again."""
    return [match.group() for match in _SENTENCE.finditer(text) if match.group()]


def passages(text: str) -> list[str]:
    """The sentences of `text` to judge one by one, without the white space around them; none if it is only one.

    A stop without white space behind it, as in 3.5, ends none. Sentences of few words are read with the next one, the
    last with the one before it. At most _MOST: of more sentences, as many neighbours are read together as it takes. A
    text of more than _LONGEST characters has none.
    """
    if len(text) > _LONGEST:
        return []
    found: list[str] = []
    for sentence in sentences(text):
        if found and (found[-1].endswith((".", "!", "?")) or _is_short(found[-1])):
            found[-1] += sentence
        else:
            found.append(sentence)
    if len(found) > 1 and _is_short(found[-1]):
        found[-2:] = ["".join(found[-2:])]
    together = -(-len(found) // _MOST)
    joined = ["".join(found[place : place + together]) for place in range(0, len(found), together or 1)]
    return [passage.strip() for passage in joined] if len(joined) > 1 else []


def _is_short(text: str) -> bool:
    return len(text.split(None, _FEWEST_WORDS - 1)) < _FEWEST_WORDS
