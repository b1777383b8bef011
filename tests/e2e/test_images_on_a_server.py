"""`guardproxy serve` with Llama Guard 4 on a server: red and green pictures of OpenAI's and Anthropic's clients."""

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from tests.e2e.guarded import serving
from tests.e2e.test_images import Proxy
from tests.guards.sight_kit import MODEL, SeeingServer, stored
from tests.kit import free_port, serve
from tests.pictures import data_url, encoded, picture

CONFIG = """
version: 1
server: {port: %d}
upstream: {url: "%s", retries: {attempts: 1}}
guard:
  family: llama_guard
  options: {version: "4"%s}
  model: %s
  reads: [text, image]
  runner: openai
  replicas: {urls: ["%s"], attempts: 1}
  completions: {tokenizer: "%s"}
policies:
  default:
    unsafe: {flag: 0.5}
    categories: {sexual_content: {block: 0.5}, violent_crimes: {block: 0.5}}
"""


class Guarded(Proxy):
    """The proxy, and the server of its guard."""

    server: SeeingServer


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The running proxy; its guard reads categories of texts one by one, as those of images."""
    port, folder = free_port(), tmp_path_factory.mktemp("seeing")
    running, files = Guarded(folder), stored(tmp_path_factory.mktemp("tokenizer"))
    running.url, running.server = f"http://127.0.0.1:{port}", SeeingServer()
    app = Starlette(routes=[Route("/{path:path}", running.upstream, methods=["POST"])])
    with serve(app) as upstream, serve(running.server.app) as guard:
        config = CONFIG % (port, upstream, ", scoring: one_vs_all", MODEL, guard, files)
        with serving(folder, config, f"{running.url}/readyz"):
            yield running


@pytest.mark.parametrize(("colour", "passes"), [("red", False), ("green", True)])
def test_openai_s_client(proxy: Guarded, colour: str, passes: bool) -> None:
    """The picture is judged with its text, by a category of its own; the record says so."""
    proxy.forwarded.clear()
    url = data_url(picture(colour))
    content: Any = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="k", timeout=60, max_retries=0) as client:
        (choice,) = client.chat.completions.create(model="m", messages=[{"role": "user", "content": content}]).choices
    assert choice.finish_reason == ("stop" if passes else "content_filter")
    assert bool(proxy.forwarded) == passes
    assert proxy.server.shown[-1]["messages"][-1]["content"][0]["image_url"]["url"] == url


@pytest.mark.parametrize(("colour", "passes"), [("red", False), ("green", True)])
def test_anthropic_s_client(proxy: Guarded, colour: str, passes: bool) -> None:
    """A picture alone."""
    proxy.forwarded.clear()
    source: Any = {"type": "base64", "media_type": "image/png", "data": encoded(picture(colour, size=(80, 60)))}
    with anthropic.Anthropic(base_url=proxy.url, api_key="k", timeout=60, max_retries=0) as client:
        content: Any = [{"type": "image", "source": source}]
        answer = client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": content}])
    assert ("A field." in str(answer.content), bool(proxy.forwarded)) == (passes, passes)


def test_a_server_that_refuses_the_picture(proxy: Guarded) -> None:
    """The guard has failed: nothing is forwarded."""
    proxy.forwarded.clear()
    proxy.server.refuses = 400
    try:
        assert proxy.chat(data_url(picture("red", size=(81, 60)))).status_code == 503
    finally:
        proxy.server.refuses = 0
    assert not proxy.forwarded
    health = httpx.get(f"{proxy.url}/healthz", timeout=60, trust_env=False).json()
    assert "image_tokens" in str(health)
