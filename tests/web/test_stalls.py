"""One request does not stop the others: the longest stall of the event loop over bodies that cost much."""

import asyncio
from collections.abc import Iterator

import pytest

from bench.stall_bodies import Body, requests
from bench.stalls import measure, process

# Seconds. The aim is 0.05, which a machine that computes much else misses. Without threads, processes and limits, a
# body stops the loop for up to 9 s.
STALL_S = 0.1
BOUNDS = {
    "100,000 parts of a message": STALL_S,
    "1 MB of prose": STALL_S,
    "1 MB of base85": STALL_S,
    "1 MB of markup": STALL_S,
    "1 MB of quotes": STALL_S,
    "1 MB of right-to-left overrides": STALL_S,
    "20 MB of []": 3 * STALL_S,
    "20 MB of {}": 3 * STALL_S,
    "20 MB of long numbers": STALL_S,
    "9,999 system messages": STALL_S,
    "a PDF of 14 MB": 3 * STALL_S,
    "6 million escapes in a data URL": 3 * STALL_S,
    "Anthropic: stream of 5,000 blocks": 3 * STALL_S,
    "Gemini: event of 1,000 candidates": 3 * STALL_S,
    "Gemini: event of 5,000 calls": 6 * STALL_S,
    "LiteLLM, a reply of 20 long texts": 2 * STALL_S,
    "Bedrock: 20 long texts": 2 * STALL_S,
    "reply of 10,000 choices": STALL_S,
    "stream of 20 frames of 50 KB": 3 * STALL_S,
    "stream of 100 choices": 3 * STALL_S,
    "stream of 20,000 choices": 3 * STALL_S,
    "stream with a frame of 10,000 choices": 2 * STALL_S,
}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A proxy of its own process in front of an upstream of its own, with a heartbeat in its event loop."""
    folder = tmp_path_factory.mktemp("store")
    with (
        process("--serve", "upstream") as below,
        process("--serve", "proxy", "--target", below, "--folder", str(folder)) as url,
    ):
        yield url


@pytest.fixture(scope="module")
def bodies() -> dict[str, Body]:
    """The corpus by name."""
    return {body.name: body for body in requests() if body.name in BOUNDS}


@pytest.mark.parametrize("name", BOUNDS)
def test_the_event_loop_goes_on(proxy: str, bodies: dict[str, Body], name: str) -> None:
    row = asyncio.run(measure(proxy, bodies[name]))
    assert row.status in (200, 400, 413, 502)
    assert row.held_s < BOUNDS[name], row  # what the process itself causes, however busy the machine is


def test_the_corpus_is_known(bodies: dict[str, Body]) -> None:
    assert set(bodies) == set(BOUNDS)
