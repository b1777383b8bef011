"""Shared state as a server uses it: at its start, for its canaries, and for guards that are or are not the same."""

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from guardproxy.app import Service, catalogue, read
from guardproxy.app.apis import account
from guardproxy.app.guards import combined, members
from guardproxy.app.shared_state import guard_id
from guardproxy.engine.model_files import weights_of
from guardproxy.families.openai_moderation import OMNI
from guardproxy.settings import Settings, load_text
from tests.kit import serve, until
from tests.sharing.redis_server import SECRET, RedisServer, redis_server

CONFIG = """
version: 1
upstream: {url: "http://127.0.0.1:9"}
guard: {family: openai_moderation, service: {key: "${env:GUARD_KEY}", url: "%s"}}
policies: {default: {unsafe: {block: 0.5}}}
audit: {store: none}
shared_state: {url: "%s", secret: "${env:STATE_SECRET}", timeout_s: 1}
"""


class CountingJudge:
    """A moderation service that finds "kill" unsafe, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def answer(self, request: Request) -> Response:
        """The scores of each text."""
        texts: list[str] = (await request.json())["input"]
        self.asked += texts
        results = [{"category_scores": dict.fromkeys(OMNI, 0.9 if "kill" in text else 0.1)} for text in texts]
        return JSONResponse({"results": results})


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The secrets of the configurations."""
    monkeypatch.setenv("GUARD_KEY", "a-key")
    monkeypatch.setenv("STATE_SECRET", SECRET)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server with a password."""
    with redis_server(tmp_path_factory.mktemp("redis"), "--requirepass", "right") as server:
        yield server


def service(folder: Path, guard: str, state: str) -> Service:
    """A server, not started."""
    path = folder / "guardproxy.yaml"
    path.write_text(CONFIG % (guard, state))
    source = read(str(path), None)
    return Service(source.file, source)


def moderated(url: str, text: str) -> Any:
    """The answer about a text."""
    return httpx.post(f"{url}/v1/moderations", json={"input": text}, timeout=60).json()["results"][0]["flagged"]


def found(url: str, result: str) -> float:
    """How many verdicts were looked for with this result."""
    name = f'guardproxy_shared_state_gets_total{{kind="verdict",result="{result}"}} '
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def test_a_second_server_asks_its_guard_for_canaries_and_for_nothing_else(
    tmp_path: Path, shared: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a broken guard is seen at the start, whatever another server knows."""
    monkeypatch.setenv("PASSWORD", "right")
    address = shared.url.replace("redis://", "redis://:${env:PASSWORD}@")
    judge = CountingJudge()
    stub = Starlette(routes=[Route("/v1/moderations", judge.answer, methods=["POST"])])
    with serve(stub) as guard, serve(service(tmp_path, guard, address).app) as one:
        until(lambda: httpx.get(f"{one}/readyz").status_code == 200)
        canaries = sorted(judge.asked)
        assert canaries
        assert httpx.get(f"{one}/healthz").json()["shared_state"] == "up"
        answers = [moderated(one, text) for text in ("how to kill", "when is low tide", canaries[0])]
        until(lambda: len(shared.client(password="right").keys("guardproxy:verdict:*")) >= 2)
        judge.asked.clear()
        with serve(service(tmp_path, guard, address).app) as other:
            until(lambda: httpx.get(f"{other}/readyz").status_code == 200)
            assert sorted(judge.asked) == canaries
            assert [moderated(other, text) for text in ("how to kill", "when is low tide")] == answers[:2]
            assert sorted(judge.asked) == canaries
            assert found(other, "found") == 2
            assert answers[:2] == [True, False]


@pytest.mark.parametrize("command", ["serve", "guard"])
def test_a_start_with_a_wrong_password(tmp_path: Path, shared: RedisServer, command: str) -> None:
    """The command ends with the status of a mistake, and names the setting and not the password."""
    path = tmp_path / "guardproxy.yaml"
    path.write_text(CONFIG % ("http://127.0.0.1:9", shared.url.replace("redis://", "redis://:${env:STATE_SECRET}@")))
    arguments = [sys.executable, "-m", "guardproxy", command, "--config", str(path), "--port", "0"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 2
    assert "guardproxy.yaml: shared_state.url: the server refuses the connection: " in done.stderr.splitlines()[-1]
    assert SECRET not in done.stderr


# --- which guards are the same ----------------------------------------------------------------------------------------


def id_of(text: str) -> bytes | None:
    """The identity of the guard of a configuration, as a server has it."""
    settings = read_text(text)
    opened = members(settings)
    guard = combined(settings, opened)
    return guard_id(settings, account(settings, guard, 0.0, None), opened, None)


def read_text(text: str) -> Settings:
    """The settings of a text."""
    return load_text(text, "f", {"GUARD_KEY": "k", "OTHER": "l"}, catalogue())


SERVICE = 'guard: {family: openai_moderation, service: {key: "${env:GUARD_KEY}", url: "http://h"}}\n'
SMALL = "guard: {model: embedded-small}\n"


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (SERVICE, SERVICE.replace("GUARD_KEY", "OTHER"), True),
        (SERVICE, SERVICE.replace("guard: {", "guard: {timeout_s: 3, "), True),
        (SERVICE, SERVICE.replace("http://h", "http://other"), False),
        (SMALL, SMALL.replace("}", ", threads: 1, max_wait_s: 9}"), True),
        (SMALL, SMALL.replace("small", "large"), False),
        (SMALL, SMALL.replace("}", ", dtype: float32}"), False),
        (SMALL, SMALL.replace("}", ", languages: [en, de]}"), False),
        (
            "guard: {family: patterns, patterns: {secret: {words: [one]}}}\n",
            "guard: {family: patterns, patterns: {secret: {words: [two]}}}\n",
            False,
        ),
    ],
)
def test_which_guards_share_their_verdicts(one: str, other: str, equal: bool) -> None:
    """Those whose verdicts are equal; where and how fast they are computed does not count."""
    rules = "policies: {default: {unsafe: {block: 0.5}}}\nversion: 1\n"
    assert (id_of(one + rules) == id_of(other + rules)) is equal


def test_other_weights_under_the_same_name(tmp_path: Path) -> None:
    """A model that was trained again has files of the same names and sizes."""
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"\1" * 3_000_000)
    before = weights_of(str(tmp_path))
    assert weights_of(str(tmp_path)) == before
    assert len(before) == 2
    weights.write_bytes(b"\2" * 3_000_000)
    assert weights_of(str(tmp_path)) != before
    assert weights_of("embedded-small") != weights_of("embedded")
    assert weights_of("no-such/model") == []


def test_a_small_part_that_was_trained_alone(tmp_path: Path) -> None:
    """The head of a model is a thousandth of its file, and lies between the blocks at even distances."""
    sizes = {"body": 4_000_000, "head": 2_000, "rest": 4_000_000}

    def written(name: str, head: bytes) -> str:
        ends = list(accumulate(sizes.values(), initial=0))
        offsets = zip(sizes, pairwise(ends), strict=True)
        header = json.dumps(
            {name: {"dtype": "U8", "shape": [b - a], "data_offsets": [a, b]} for name, (a, b) in offsets}
        )
        folder = tmp_path / name
        folder.mkdir()
        tensors = b"".join(head if name == "head" else bytes(size) for name, size in sizes.items())
        (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode() + tensors)
        return str(folder)

    one, other = written("one", b"\1" * 2_000), written("other", b"\2" * 2_000)
    assert weights_of(one) == weights_of(written("same", b"\1" * 2_000))
    assert weights_of(one) != weights_of(other)


def test_weights_in_the_folder_of_the_server(tmp_path: Path) -> None:
    """A model that lies there by its name counts, also for the version that replicas say."""
    settings = read_text(
        "guard: {model: embedded-multilingual}\npolicies: {default: {unsafe: {block: 0.5}}}\nversion: 1\n"
    )
    versions = set()
    for number in range(2):
        folder = tmp_path / str(number) / "embedded-multilingual"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(bytes([number]) * 10)
        guard = combined(settings, members(settings))
        versions.add(account(settings, guard, 0.0, str(tmp_path / str(number))).version)
    assert len(versions) == 2


def test_no_verdict_is_shared_while_a_replica_is_unknown() -> None:
    """It may be down at the start, and another model than that of another server when it is back."""
    settings = read_text(
        "guard: {runner: http, replicas: {urls: ['http://127.0.0.1:9']}}\n"
        "policies: {default: {unsafe: {block: 0.5}}}\nversion: 1\n"
    )
    opened = members(settings)
    assert guard_id(settings, account(settings, opened[0], 0.0, None), opened, None) is None
