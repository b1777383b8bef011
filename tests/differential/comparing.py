"""The comparison of a reply: what its readers show against what the guard has read."""

import random
from collections.abc import Sequence

from tests.differential.kit import Stand, unjudged
from tests.differential.readers import readers, versions
from tests.differential.reading import Reader
from tests.differential.replies import Choices, reply
from tests.kit import Scripted


def missed(stand: Stand, answer: Scripted, all_readers: Sequence[Reader]) -> list[str]:
    """Return what each reader shows of this answer and the guard has not read."""
    found = []
    for reader in all_readers:
        stand.play(answer)
        sight = reader.read(stand.url)
        found += [f"{reader.name}: {text}" for text in unjudged(sight.shown, stand.guard.judged)]
    return found


def check(stand: Stand, protocol: str, examples: Sequence[Choices], rng: random.Random) -> None:
    """Fail with the first of these replies of which a reader shows unjudged text, whole or streamed."""
    for example in examples:
        for stream in (False, True):
            answer = reply(rng, protocol, example, stream=stream)
            found = missed(stand, answer, readers(protocol, stream=stream))
            assert not found, "\n".join(["streamed" if stream else "whole", str(example), *found, versions()])
