"""The guard and policy of `guardproxy serve` without a configuration, for measurements."""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

from guardproxy import app
from guardproxy.cli.evaluate import open_scores, patient
from guardproxy.errors import GuardUnavailable
from guardproxy.evaluation.scoring import ScoreStore, judged
from guardproxy.guards.cache import check_key
from guardproxy.policy import Policy
from guardproxy.ports import Guard
from guardproxy.settings import load
from guardproxy.types import Check, Verdict


class Stored:
    """A guard whose verdicts stay in the store that `guardproxy evaluate` has for texts without views.

    A measurement that is interrupted continues, and a text that another one has judged needs no check. A failure ends
    the measurement: a text that is stopped because the guard failed must not count as found. Verdicts from the store
    have no spans. `new` and `known` count the checks that the guard answered and those that the store answered.
    """

    def __init__(self, guard: Guard, store: ScoreStore) -> None:
        self.name, self.taxonomy = guard.name, guard.taxonomy
        self.new = self.known = 0
        self._guard, self._store = guard, store

    async def judge(self, check: Check) -> Verdict:
        """The verdict, from the store if it has one. Raises RuntimeError if the guard fails."""
        key = check_key(check)
        score = self._store.get(key)
        if score is None:
            try:
                score = await judged(self._guard, (), check)
            except GuardUnavailable as error:
                raise RuntimeError(f"the guard failed while it was measured: {error}") from error
            self._store.put(key, score)
            self.new += 1
        else:
            self.known += 1
        return score.verdict(self.name)

    def forget(self, stream: str) -> None:
        """Pass the call on."""
        self._guard.forget(stream)

    async def start(self) -> None:
        """Do nothing: `measured_guard` has loaded the guard."""

    async def close(self) -> None:
        """Do nothing: `measured_guard` releases the guard."""


@asynccontextmanager
async def measured_guard() -> AsyncIterator[tuple[Stored, Policy]]:
    """The embedded guard, loaded, with a longer time limit and stored verdicts; and the default policy."""
    settings = load(None, os.environ, app.catalogue())
    guard = app.guard(patient(settings))
    await guard.start()
    try:
        with open_scores(settings, None) as store:
            yield Stored(guard, store), settings.policies.policies["default"]
    finally:
        await guard.close()


def weights() -> str:
    """The first 12 hexadecimal digits of the SHA-256 of both models of the embedded guard, the small one first."""
    folder = files("guardproxy") / "weights" / "embedded"
    data = b"".join((folder / name / "model.gguf").read_bytes() for name in ("small", "large"))
    return hashlib.sha256(data).hexdigest()[:12]
