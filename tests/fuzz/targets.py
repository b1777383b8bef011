"""What is fuzzed: for each target how an input is drawn, written to a file, read from it and checked."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz import asked, bodies, configurations, splitting, texts
from tests.fuzz.choices import Choices

CORPUS = Path(__file__).parent / "corpus"
SECONDS = 5.0  # of CPU time that an input may take; none of those that were drawn took a tenth of it


@dataclass(frozen=True)
class Target:
    """A target. `draw` makes an input, `check` raises for a finding; `dump` and `load` write and read it as a file."""

    draw: Callable[[Choices], Any]
    check: Callable[[Any], None]
    dump: Callable[[Any], bytes]
    load: Callable[[bytes], Any]
    suffix: str

    def run(self, value: Any) -> None:
        """Check an input, and that it takes little time. Raises AssertionError, or what the code under test raises."""
        with _in_time():
            self.check(value)


@contextmanager
def _in_time() -> Iterator[None]:
    started = time.thread_time()
    yield
    took = time.thread_time() - started
    assert took < SECONDS, f"took {took:.1f} s of CPU time"


def _to_json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def _to_utf8(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


def _from_utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


TARGETS = {
    "wires": Target(bodies.draw, bodies.check, _to_json, json.loads, ".json"),
    "apis": Target(asked.draw, asked.check, _to_json, json.loads, ".json"),
    "frames": Target(splitting.draw, splitting.check, _to_json, json.loads, ".json"),
    "settings": Target(configurations.draw, configurations.check, _to_utf8, _from_utf8, ".yaml"),
    "views": Target(texts.draw, texts.check, _to_utf8, _from_utf8, ".txt"),
}
