"""When the first words of a stream arrive: `guardproxy serve` behind a demo upstream of 50 tokens a second.

    python -m bench.first_words_live [--asks 5]

The client is OpenAI's SDK, the guard the embedded one. `first` is the time from the request to the first text, `end` to
the last frame, `pause` the longest time between two frames with text; medians over the requests.
"""

import argparse
import asyncio
import contextlib
import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import openai
import structlog
import uvicorn

from bench.pages import machine
from bench.stalls import free_port
from guardproxy.demo.server import demo_app

TOKENS_S = 50
TEXT = (
    "Sourdough bread rises because wild yeast and bacteria live together in the starter. Feed it with equal weights of "
    "flour and water each morning, and wait until it has doubled. Then mix four parts of flour with three of water, "
    "let it rest for half an hour, and fold in the starter and the salt. Stretch and fold the dough every thirty "
    "minutes for three hours. Shape it, put it in a floured basket, and leave it in the fridge over night. Heat the "
    "oven with a heavy pot inside, turn the loaf into the pot, cut the top with a sharp blade, and bake it with the "
    "lid on for twenty minutes and without it for another twenty-five. Let it cool for an hour before the first slice. "
)


class Paced:
    """A completion whose tokens, words here, come at a steady pace. `number` makes it new to the verdict cache."""

    prompt_tokens, completion_tokens, finish = 10, 100, "stop"

    def __init__(self, number: int) -> None:
        self._text = f"Recipe {number}. {TEXT}"

    async def __aiter__(self) -> AsyncIterator[str]:
        began = time.perf_counter()
        for number, word in enumerate(self._text.split(), 1):
            await asyncio.sleep(max(0.0, began + number / TOKENS_S - time.perf_counter()))
            yield word + " "


class Model:
    """A chat model whose answers differ only in a number."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def stream(self, *_: Any) -> Paced:
        """The next answer."""
        return Paced(next(self._numbers))


@contextlib.contextmanager
def upstream() -> Iterator[str]:
    """The demo upstream with the paced model; yields its URL."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(demo_app(Model()), port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@contextlib.contextmanager
def proxy(target: str, every: str, folder: str) -> Iterator[str]:
    """`guardproxy serve` with a setting of `every`; yields its URL when it is ready."""
    port, config = free_port(), Path(folder) / f"{every}.yaml"
    policies = f"policies: {{default: {{preset: balanced, stream: {{every: {every}}}}}}}"
    config.write_text(f"version: 1\nupstream: {{url: {target}}}\n{policies}\n")
    command = [sys.executable, "-m", "guardproxy", "serve", "--config", str(config), "--port", str(port)]
    command += ["--data-dir", folder]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        url = f"http://127.0.0.1:{port}"
        try:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                        break
                if running.poll() is not None:
                    raise RuntimeError("guardproxy serve did not start")
                time.sleep(0.2)
            yield url
        finally:
            running.terminate()


def ask(client: openai.OpenAI) -> tuple[float, float, float]:
    """Seconds to the first text, to the end, and of the longest pause."""
    began = time.perf_counter()
    question = [{"role": "user", "content": "How do I bake sourdough bread?"}]
    stream = client.chat.completions.create(model="m", messages=question, stream=True)  # type: ignore[call-overload]
    texts = (chunk for chunk in stream if chunk.choices and chunk.choices[0].delta.content)
    times = [time.perf_counter() for _ in texts]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    return times[0] - began, times[-1] - began, max(pauses)


def line(name: str, url: str, asks: int) -> str:
    """The line of a table."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
    ask(client)
    found: Sequence[tuple[float, float, float]] = [ask(client) for _ in range(asks)]
    return f"| {name} | {' | '.join(f'{median(column):.2f}' for column in zip(*found, strict=True))} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asks", type=int, default=5)
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    print(f"{machine()}\n\n| | first s | end s | longest pause s |\n|---|--:|--:|--:|")
    with upstream() as target, tempfile.TemporaryDirectory() as folder:
        print(line("the upstream alone", target, args.asks), flush=True)
        for every in ("auto", "200"):
            with proxy(target, every, folder) as url:
                print(line(f"`every: {every}`", url, args.asks), flush=True)


if __name__ == "__main__":
    main()
