"""The guard on Ray Serve: two replicas, one killed under load; streams stay with one of them. Skipped without Ray."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from ruamel.yaml import YAML

from guardproxy import app
from guardproxy.app.registries import open_family
from guardproxy.app.replicas import replica_guard
from guardproxy.errors import ConfigError, Overloaded
from guardproxy.guards.replicas import ReplicaGuard
from guardproxy.settings import load_text
from guardproxy.types import Check, Conversation, Message, Part
from tests.e2e.guarded import answers
from tests.kit import free_port, until

pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'guardproxy[ray]'")
ray_serve = pytest.importorskip("guardproxy.app.ray_serve")

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "config" / "ray_serve.yaml"
# A Ray cluster needs up to a minute to start on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ASKS = """version: 1
guard: {runner: http, model: embedded-small, replicas: {urls: ["%s"], attempts: 6}}
policies: {default: {preset: balanced}}
audit: {store: none}
"""
TEXTS = ("How do I build a pipe bomb?", "What is the capital of France?")


@contextmanager
def ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """The process and those that it starts, until the end of the context."""
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The application of config/ray_serve.yaml with the small model; its URL, and the folder of the replicas' logs."""
    folder, logs = tmp_path_factory.mktemp("ray"), tmp_path_factory.mktemp("r")
    port = free_port()
    yaml = YAML(typ="safe")
    content = yaml.load(FILE.read_text())
    content["http_options"] = {"host": "127.0.0.1", "port": port}
    (application,) = content["applications"]
    guard = (ROOT / application["args"]["config"]).read_text()
    (folder / "guard.yaml").write_text(guard.replace("model: embedded", "model: embedded-small"))
    application["args"]["config"] = str(folder / "guard.yaml")
    yaml.dump(content, folder / "serve.yaml")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(logs), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-m", "ray.serve.scripts", "run", str(folder / "serve.yaml")]
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=env, start_new_session=True)
    with ended(process), httpx.Client(trust_env=False) as http:

        def is_ready() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            return answers(http, f"http://127.0.0.1:{port}/readyz") and len(replicas()) == 2

        until(is_ready, f"not ready: {folder / 'log'}", 300)
        yield f"http://127.0.0.1:{port}", logs


def replicas() -> list[int]:
    """The processes of the replicas, by their title."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(b"ray::ServeReplica:guard:guard"):
                found.append(int(process.name))
    return found


def asking(url: str) -> ReplicaGuard:
    """What a proxy asks with."""
    settings = load_text(ASKS % url, "proxy.yaml", {}, app.catalogue())
    family = open_family(settings.guard.family, settings.guard.options, None)
    return replica_guard("embedded-small", settings.guard, family.taxonomy, 0.0)


def check(text: str, stream: str | None = None) -> Check:
    """A check of a user's text."""
    return Check(Conversation((Message("user", (Part("x", text),)),)), "user", stream)


def asked(logs: Path) -> Counter[str]:
    """How many checks each replica has answered, by its log."""
    found = logs.rglob("serve/replica_guard_guard_*.log")
    return Counter({path.name: len(re.findall(r"-- POST /", path.read_text())) for path in found})


@pytest.mark.parametrize("args", [{"builtin_only": "false"}, {"builtin_only": 1}, {"config": 5}, {"data_dir": ["x"]}])
def test_arguments_of_another_type_are_mistakes(args: dict[str, object]) -> None:
    """They have the name of the argument, and none is coerced."""
    with pytest.raises(ConfigError, match=f"args.{next(iter(args))}: must be"):
        ray_serve.app(args)


@pytest.mark.parametrize("target_s", [0, -1, True, "0.5", None, float("nan"), float("inf")])
def test_the_work_of_a_replica_is_a_number_of_seconds(target_s: object) -> None:
    """Anything else would scale to nothing, or fail in Serve's controller."""
    with pytest.raises(ConfigError, match="target_s"):
        ray_serve.QueuedWork(target_s)


def test_a_replica_is_killed_under_load(serving: tuple[str, Path]) -> None:
    """Every check is answered with the right verdict, or refused because the other replica is busy."""
    victim = replicas()[0]
    outcomes = asyncio.run(under_load(serving[0], victim))
    assert outcomes["wrong"] == 0
    assert outcomes["right"] + outcomes["busy"] == 120
    assert outcomes["right"] > 60
    # Serve starts another one in its place.
    until(lambda: len(replicas()) == 2 and victim not in replicas(), "no other replica has started", 200)


async def under_load(url: str, victim: int) -> Counter[str]:
    """How 120 checks end, during which a process is killed."""
    guard = asking(url)
    await guard.start()
    right = [(await guard.judge(check(text))).unsafe for text in TEXTS]
    assert right[0] > 0.5 > right[1]
    outcomes: Counter[str] = Counter()
    places = asyncio.Semaphore(8)

    async def one(number: int) -> None:
        async with places:
            if number == 20:
                os.kill(victim, signal.SIGKILL)
            try:
                # With a number of its own, so that no replica has it in its cache.
                verdict = await guard.judge(check(f"{TEXTS[number % 2]} {number}"))
            except Overloaded:
                outcomes["busy"] += 1
            else:
                outcomes["right" if (verdict.unsafe > 0.5) == (number % 2 == 0) else "wrong"] += 1

    await asyncio.gather(*(one(number) for number in range(120)))
    assert [(await guard.judge(check(text))).unsafe for text in TEXTS] == right
    await guard.close()
    return outcomes


def test_a_stream_stays_with_one_replica(serving: tuple[str, Path]) -> None:
    """All checks of a streamed reply, which keeps its work there; other streams go to the other replica."""
    url, logs = serving
    begin = asked(logs)

    def both_answer() -> bool:
        asyncio.run(asked_alone(url))
        return len(asked(logs) - begin) == 2

    until(both_answer, "a replica is asked nothing", 200)  # the latest one may still load
    used = set()
    for stream in range(16):
        before = asked(logs)
        asyncio.run(streamed(url, f"stream-{stream}"))
        until(lambda before=before: sum((asked(logs) - before).values()) == 3, "the logs lack checks")
        (name,) = asked(logs) - before
        used.add(name)
    assert len(used) == 2


async def asked_alone(url: str) -> None:
    """Ask about texts that belong to no stream."""
    guard = asking(url)
    await guard.start()
    await asyncio.gather(*(guard.judge(check(f"Hello {number}.")) for number in range(8)))
    await guard.close()


async def streamed(url: str, stream: str) -> None:
    """Ask three times about a reply that grows."""
    guard = asking(url)
    await guard.start()
    text = f"In {stream}:"
    for word in ("one", "two", "three"):
        text += f" {word}"
        await guard.judge(check(text, stream))
    await guard.close()
