"""A service built from its settings: its start, and changes of the configuration file."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from guardproxy.app import Service, read
from guardproxy.families.openai_moderation import OMNI
from tests.kit import Scripted, ScriptedUpstream, serve

CONFIG = """
version: 1
upstream: {url: "http://127.0.0.1:9"}
guard:
  family: openai_moderation
  service: {key: "${env:GUARD_KEY}", url: "%s", attempts: 1}
policies:
  default: {unsafe: {block: 0.5}}
audit: {store: none}
"""


class Judge:
    """A moderation service that finds "kill" unsafe; while `down`, it answers 503."""

    def __init__(self) -> None:
        self.down = False

    async def answer(self, request: Request) -> Response:
        """The scores of each text."""
        if self.down:
            return Response(status_code=503)
        texts: list[str] = (await request.json())["input"]
        results = [{"category_scores": dict.fromkeys(OMNI, 0.9 if "kill" in text else 0.1)} for text in texts]
        return JSONResponse({"results": results})


@pytest.fixture
def judge() -> Judge:
    """The moderation service behind the guard."""
    return Judge()


@pytest.fixture
def config(judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A configuration whose guard is the moderation service."""
    monkeypatch.setenv("GUARD_KEY", "a-key")
    with serve(Starlette(routes=[Route("/v1/moderations", judge.answer, methods=["POST"])])) as url:
        path = tmp_path / "guardproxy.yaml"
        path.write_text(CONFIG % url)
        yield path


def until(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    """Wait until `condition` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_ready(url: str) -> bool:
    """Whether /readyz answers 200."""
    return httpx.get(f"{url}/readyz").status_code == 200


def in_force(url: str) -> str:
    """The version of the policies in force."""
    version: str = httpx.get(f"{url}/healthz").json()["policy"]
    return version


def changed(path: Path) -> str:
    """Change the threshold in the file; return the new version."""
    path.write_text(path.read_text().replace("block: 0.5", "block: 0.25"))
    return read(str(path), None).file.version


def test_a_guard_that_comes_back_makes_it_ready(judge: Judge, config: Path) -> None:
    """If the service is down at the start, the proxy becomes ready as soon as it comes back."""
    judge.down = True
    source = read(str(config), None)
    with serve(Service(source.file, source, canaries_s=0.1).app) as url:
        until(lambda: "cannot judge" in httpx.get(f"{url}/readyz").json()["status"])
        judge.down = False
        until(lambda: is_ready(url))


@pytest.mark.parametrize("allowed", [False, True])
def test_headers_of_the_upstream_that_the_file_allows(config: Path, allowed: bool) -> None:
    """A header with a text leaves with a judged reply only if `upstream.response_headers` names it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}
    headers = {"content-type": "application/json", "x-note": "some words of text"}
    upstream = ScriptedUpstream([Scripted([json.dumps({"choices": [choice]}).encode()], headers=headers)])
    with serve(upstream) as below:
        names = ", response_headers: [x-note]" if allowed else ""
        config.write_text(config.read_text().replace('"http://127.0.0.1:9"', f'"{below}"{names}'))
        source = read(str(config), None)
        with serve(Service(source.file, source).app) as url:
            until(lambda: is_ready(url))
            chat = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
            answer = httpx.post(f"{url}/v1/chat/completions", json=chat)
    assert (answer.status_code, "x-note" in answer.headers) == (200, allowed)


def test_a_change_while_it_loads_is_taken_up(config: Path) -> None:
    """A change of the file during the start is applied after it."""
    source = read(str(config), None)
    new = changed(config)
    assert new != source.file.version
    with serve(Service(source.file, source).app) as url:
        until(lambda: in_force(url) == new)


@pytest.mark.parametrize("mistake", ["lgo: 1", "routes: [{name: a, policy: b}]", "limits: {messages: 5}", "\x00"])
def test_a_mistake_while_it_loads_does_not_end_the_watching(config: Path, mistake: str) -> None:
    """A file with mistakes leaves the old policies in force; a later valid file is applied."""
    good = config.read_text()
    source = read(str(config), None)
    config.write_text(f"{good}\n{mistake}\n")
    with serve(Service(source.file, source).app) as url:
        until(lambda: is_ready(url))
        time.sleep(0.3)
        assert in_force(url) == source.file.version
        config.write_text(good)
        new = changed(config)
        until(lambda: in_force(url) == new)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.safetensors", lambda data: data[:100_000], "damaged"),
        (
            "config.json",
            lambda data: data.replace(b'"num_hidden_layers": 6', b'"num_hidden_layers": null'),
            "TypeError",
        ),
    ],
)
def test_a_start_that_breaks_is_told(tmp_path: Path, name: str, damage: Callable[[bytes], bytes], message: str) -> None:
    """Damaged model files end the start with a message, whatever exception they cause."""
    folder = tmp_path / "model"
    shutil.copytree(str(files("guardproxy") / "weights" / "embedded"), folder)
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    path = tmp_path / "guardproxy.yaml"
    path.write_text(f'guard: {{model: "{folder}"}}\nupstream: {{url: "http://127.0.0.1:9"}}\naudit: {{store: none}}\n')
    source = read(str(path), None)
    failed = threading.Event()
    service = Service(source.file, source, failed.set)
    with serve(service.app) as url:
        assert failed.wait(60)
        assert "start failed" in httpx.get(f"{url}/readyz").json()["status"]
    assert message in str(service.failure)
