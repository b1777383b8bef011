"""Sentences: a text cut at their ends, and from which probability on a policy counts a sentence by itself. Pure.

The score of harm falls with harmless sentences around it, so a user's text is judged sentence by sentence as well
(decision 0041).
"""

import re
from collections.abc import Sequence
from typing import Annotated

from annotated_types import Interval

from guardproxy.frozen import frozen

# A sentence ends at . ! ? or an ideographic stop (with closing quotes), or at a line break. It includes the white space
# after it.
_SENTENCE = re.compile(r"[^\n.!?。！？]*(?:[.!?。！？]++[\"'”’)\]]*+(?=\s|$)|[.!?。！？]+|\n|$)\s*")  # noqa: RUF001
# A sentence of fewer words says too little by itself: it is read with the next one.
_FEWEST_WORDS = 5
# A sentence of more than _LONG words is read in windows as well, because text without stops is one sentence. A window
# has _WINDOW words, twice as many until there are at most _MOST passages, and shares half of them with the next one.
_LONG, _WINDOW = 24, 14
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
    """What of `text` to judge by itself, sentence by sentence, without the white space around it.

    Sentences of few words are read with the next one, the last with the one before it, and that one alone as well;
    sentences of many words in windows as well. At most _MOST passages with several sentences or one: of more, as many
    neighbours are read together as it takes. A single short sentence has none, as a text of more than _LONGEST
    characters.
    """
    if len(text) > _LONGEST:
        return []
    groups: list[list[str]] = []
    for sentence in _whole(text):
        if groups and _is_short("".join(groups[-1])):
            groups[-1].append(sentence)
        else:
            groups.append([sentence])
    if len(groups) > 1 and _is_short("".join(groups[-1])):
        groups[-2:] = [[*groups[-2], *groups[-1]]]
    together = -(-len(groups) // _MOST)
    starts = range(0, len(groups), together or 1)
    joined = ["".join(sentence for group in groups[at : at + together] for sentence in group) for at in starts]
    alone = [one for group in groups if len(group) > 1 for one in group if not _is_short(one)] if together == 1 else []
    most = _MOST - len(joined) - len(alone)
    windows = _windows([one for group in groups for one in group], most) if together == 1 else []
    return [passage.strip() for passage in dict.fromkeys((*joined, *alone, *windows)) if passage != text]


def _windows(sentences: Sequence[str], most: int) -> list[str]:
    """At most `most` windows of the long sentences, each with its words in order; none if they would be too long."""
    split = [words for sentence in sentences if len(words := sentence.split()) > _LONG]
    size, longest = _WINDOW, max(map(len, split), default=0)
    while size < longest:
        half = size // 2
        found = [" ".join(words[at : at + size]) for words in split for at in range(0, len(words) - half, half)]
        if len(found) <= most:
            return found
        size *= 2
    return []


def _whole(text: str) -> list[str]:
    """The sentences of `text`; a stop without white space behind it, as in 3.5, ends none."""
    found: list[str] = []
    for sentence in sentences(text):
        if found and found[-1].endswith((".", "!", "?")):
            found[-1] += sentence
        else:
            found.append(sentence)
    return found


def _is_short(text: str) -> bool:
    return len(text.split(None, _FEWEST_WORDS - 1)) < _FEWEST_WORDS
