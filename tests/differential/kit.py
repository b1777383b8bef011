"""A guard that keeps the texts that it reads, a proxy around it, and the comparison of shown texts with judged texts.

Every text of a generated exchange is written in two alphabets that no protocol uses: the capital letters Q, Z and J,
and the Georgian letters. So the comparison finds these texts in all that a reader shows, a chat template renders or a
line contains, without a list of the places where they should be.
"""

import random
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from guardproxy.policy import JudgeScope, PolicySet, StreamPolicy
from guardproxy.settings.model_policy import PolicySettings
from guardproxy.types import Check, Taxonomy, Verdict
from guardproxy.web.upstream import Upstream
from tests.kit import Scripted, ScriptedUpstream, Seen, serve
from tests.web.kit import guarded, policy

_LATIN, _GEORGIAN = "QZJ", "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰ"
_RUN = re.compile(rf"(?:[{_LATIN}]{{2,}}|[{_GEORGIAN}])[{_LATIN}{_GEORGIAN}]*(?:\s+[{_LATIN}{_GEORGIAN}]+)*")
# Characters that no reader displays: a message that consists of them says nothing.
UNSEEN = ("\u200b", "\u200b\u200d", "\u2060", "\ufeff", "\u00ad", "\u2063 \u200b", "\U000e0001", "\u3164")
# The default of a configuration file, and a scope in which the policy leaves nothing unjudged on purpose.
VIEWS = next(item.default for item in fields(PolicySettings) if item.name == "views")
EVERYTHING = JudgeScope(roles=("developer", "system", "tool", "user"), skip=())


def word(rng: random.Random) -> str:
    """Return a word of 4 to 7 letters in one of the two alphabets."""
    letters = rng.choice((_LATIN, _GEORGIAN))
    return "".join(rng.choice(letters) for _ in range(rng.randint(4, 7)))


def phrase(rng: random.Random, words: int = 0) -> str:
    """Return two to four words, or `words` of them: a text that cannot be taken for an identifier."""
    return " ".join(word(rng) for _ in range(words or rng.randint(2, 4)))


def cut(rng: random.Random, text: str, most: int) -> list[str]:
    """Cut a text into at most `most` pieces that are not empty."""
    cuts = sorted({rng.randrange(1, len(text)) for _ in range(rng.randint(1, most - 1))}) if len(text) > 1 else []
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def runs(text: str) -> list[str]:
    """Return the generated texts in `text`, white space made single: letters with nothing but white space between."""
    return [_single_spaced(found[0]) for found in _RUN.finditer(text)]


def _single_spaced(text: str) -> str:
    return " ".join(text.split())


class Shown(NamedTuple):
    """A text that a reader gives to its user, joined as the reader joins it; `where` says in which way."""

    where: str
    text: str


@dataclass
class Sight:
    """Everything that a reader has shown so far. A reader that fails has still shown what it added before."""

    shown: list[Shown] = field(default_factory=list)

    def add(self, where: str, text: Any) -> None:
        """Add a text, or every string in a JSON value by itself."""
        if isinstance(text, str):
            self.shown.append(Shown(where, text))
        elif isinstance(text, dict | list):
            self.shown += [Shown(where, leaf) for leaf in strings(text)]


def strings(value: Any) -> Iterator[str]:
    """Yield every string in a JSON value, the keys of objects included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from strings(item)


def unjudged(shown: Iterable[Shown], judged: Iterable[str]) -> list[str]:
    """Return the generated texts in `shown` that are in no judged text, joined as they are shown."""
    known = [_single_spaced(text) for text in judged]
    missing = [
        f"{where}: {run!r}" for where, text in shown for run in runs(text) if not any(run in text for text in known)
    ]
    return list(dict.fromkeys(missing))


class RecordingGuard:
    """A guard that finds everything safe and keeps every text that it was asked about, of every view."""

    def __init__(self) -> None:
        self.name = "recording"
        self.taxonomy = Taxonomy("recording", ())
        self.judged: list[str] = []

    async def judge(self, check: Check) -> Verdict:
        self.judged.append(check.turn.text)
        return Verdict(0.0, (), self.name)

    def forget(self, stream: str) -> None:
        pass

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass


@dataclass
class Stand:
    """The proxy under test at `url`, its guard, and its upstream with a scripted answer."""

    url: str
    guard: RecordingGuard
    upstream: ScriptedUpstream

    def play(self, answer: Scripted) -> None:
        """Set the upstream's answer, and forget what was judged and what was asked."""
        self.upstream.script[:] = [answer]
        self.upstream.seen.clear()
        self.guard.judged.clear()

    @property
    def forwarded(self) -> Seen | None:
        """The request that the upstream got, None if the proxy refused it."""
        return self.upstream.seen[-1] if self.upstream.seen else None


@contextmanager
def standing() -> Iterator[Stand]:
    """Run a proxy whose policy judges everything, with the views that a configuration file has by default."""
    guard, upstream = RecordingGuard(), ScriptedUpstream([Scripted()])
    live = PolicySet({"default": policy(views=VIEWS, judge=EVERYTHING, stream=StreamPolicy(every=10))})
    with serve(upstream) as below, serve(guarded(Upstream(below), guard=guard, policies=live)) as url:
        yield Stand(url, guard, upstream)
