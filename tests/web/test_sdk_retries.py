"""How often an upstream is called for one request of an official SDK: through the proxy no more than without it."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import anthropic
import ollama
import openai
import pytest
from google import genai

from guardproxy.web.failover import UpstreamGroup, Upstreams
from guardproxy.web.upstream import Retries, Upstream
from tests.kit import serve
from tests.web.kit import guarded

HELLO = [{"role": "user", "content": "hello"}]
# How the server fails; with `late` it answers after the SDK and the proxy have given up.
FAILURES = ("429", "500", "503", "reset")
_LATE_S = 0.4


class FailingServer:
    """Fails every request in the way that its model is called; counts them by client and model.

    The clients' SDKs wait as long as `retry-after-ms` says, which makes the test quick.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read a request and fail it."""
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
        text = (head + await reader.readexactly(length)).decode("latin-1")
        case = text.partition("case-")[2].partition("-end")[0]
        self.calls[case] += 1
        failure = case.rpartition("-")[2]
        if failure == "late":
            await asyncio.sleep(4 * _LATE_S)
        elif failure != "reset":
            body = b'{"error": {"message": "no", "type": "error"}, "type": "error"}'
            head = b"HTTP/1.1 %b No\r\ncontent-type: application/json\r\nretry-after-ms: 1\r\nconnection: close\r\n"
            writer.write(head % failure.encode() + b"content-length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()


@contextmanager
def failing() -> Iterator[tuple[str, FailingServer]]:
    """A server that fails, and its address."""
    failing, loop = FailingServer(), asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(failing.answer, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", failing
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


def patience(model: str) -> float:
    """The SDK's time-out in seconds: it shall end only the calls that are late."""
    return 2 * _LATE_S if "-late-" in model else 60.0


def _openai(url: str, model: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", timeout=patience(model)) as client:
        client.chat.completions.create(model=model, messages=HELLO)  # type: ignore[arg-type]


def _anthropic(url: str, model: str) -> None:
    with anthropic.Anthropic(base_url=url, api_key="k", timeout=patience(model)) as client:
        client.messages.create(model=model, messages=HELLO, max_tokens=9)  # type: ignore[arg-type]


def _ollama(url: str, model: str) -> None:
    ollama.Client(host=url, timeout=patience(model)).chat(model=model, messages=HELLO)


def _genai(url: str, model: str) -> None:
    options = genai.types.HttpOptions(base_url=url, timeout=round(1000 * patience(model)))
    client = genai.Client(api_key="k", http_options=options)
    client.models.generate_content(model=model, contents="hello")


SDKS: dict[str, Callable[[str, str], None]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "ollama": _ollama,
    "genai": _genai,
}


def ask(case: tuple[str, str, str]) -> None:
    """One request of an SDK to an address, which must fail."""
    url, sdk, failure = case
    with pytest.raises(Exception):  # noqa: B017, PT011 - each SDK has errors of its own, and of its HTTP client
        SDKS[sdk](url, f"case-{sdk}-{failure}-end")


def counted(address: str, server: FailingServer, failures: Sequence[str] = FAILURES) -> Counter[str]:
    """The calls to the upstream for one request of every SDK and failure."""
    server.calls.clear()
    with ThreadPoolExecutor(len(SDKS) * len(failures)) as pool:
        list(pool.map(ask, [(address, sdk, failure) for sdk in SDKS for failure in failures]))
    return server.calls.copy()


def test_an_upstream_is_called_no_more_than_without_the_proxy() -> None:
    """For one upstream as without the proxy; for two that stand in for each other no more, and one time each.

    So does an upstream that the proxy itself calls again: it then tells the SDKs not to.
    """
    with failing() as (url, server):
        alone = counted(url, server)
        assert {case: count for case, count in alone.items() if count > 1}, "the SDKs repeat by themselves"
        with serve(guarded(Upstreams([Upstream(url)]))) as proxy:
            assert counted(proxy, server) == alone
        with serve(guarded(Upstreams([Upstream(url, retries=Retries(3, "unknown"))]))) as proxy:
            assert counted(proxy, server) == dict.fromkeys(alone, 3)
        pair = [Upstream(url, name=name) for name in ("a", "b")]
        with serve(guarded(Upstreams(pair, {"default": UpstreamGroup(("a", "b"))}))) as proxy:
            both = counted(proxy, server)
    assert both == {case: count if case.endswith("-reset") else 2 for case, count in alone.items()}


def test_silence_is_not_repeated_by_the_proxy() -> None:
    """The SDK repeats it, and nobody else: on a busy machine fewer times, if it gives up before its request arrives."""
    with failing() as (url, server):
        pair = [Upstream(url, name=name, first_byte_s=_LATE_S) for name in ("a", "b")]
        with serve(guarded(Upstreams(pair, {"default": UpstreamGroup(("a", "b"))}))) as proxy:
            calls = counted(proxy, server, ["late"])
    assert all(count <= (3 if case.startswith(("openai", "anthropic")) else 1) for case, count in calls.items()), calls
    assert calls


def test_a_dead_upstream_is_tried_again_without_harm() -> None:
    """No connection comes about, so nothing is sent: the proxy tries three times, and the SDK may do so again."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with serve(guarded(Upstreams([Upstream(dead)]))) as proxy, pytest.raises(openai.InternalServerError) as caught:
            openai.OpenAI(base_url=f"{proxy}/v1", api_key="k", timeout=60, max_retries=0).models.list()
    assert caught.value.status_code == 502
    assert "x-should-retry" not in caught.value.response.headers
