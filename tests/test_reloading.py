"""Reload by several processes: all take the new policies, or none does."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from guardproxy.app import PolicyFile, catalogue, read, restarts
from guardproxy.app.reloading import Gone, Reloader, stamp_of
from guardproxy.app.restarts import restarts_needed
from guardproxy.app.workers import Membership, WorkerGroup
from guardproxy.console import ThresholdChange
from guardproxy.errors import ConfigError
from guardproxy.observe import Metrics
from guardproxy.policy import Rule, SideRules
from guardproxy.settings import Settings, load_text
from guardproxy.web.proxy import LivePolicies
from tests.kit import eventually

OLD = """version: 1
policies:
  default:
    user:
      violence_hate: {block: 0.6}
    assistant:
      violence_hate: {block: 0.6}
"""
NEW = OLD.replace("0.6", "0.4")


class Process:
    """A participant that answers `attempt` with `found`, or raises it."""

    def __init__(self, found: Any = ("v2", ()), before: Callable[[], None] = lambda: None) -> None:
        self.found = found
        self.before = before
        self.in_force = "v1"
        self.problems: list[str] = []

    async def attempt(self, text: str) -> tuple[str, tuple[str, ...]]:
        """Answer."""
        await asyncio.sleep(0)
        self.before()
        if isinstance(self.found, Exception):
            raise self.found
        found: tuple[str, tuple[str, ...]] = self.found
        return found

    async def switch(self) -> None:
        """Take the new policies."""
        self.in_force = "v2"

    async def refused(self, problems: Sequence[str]) -> None:
        """Note them."""
        self.problems += problems


async def accept() -> None:
    """Nothing stands against the change."""


@pytest.mark.parametrize(
    ("second", "error"),
    [
        (ConfigError("the guard cannot judge"), ConfigError),
        (("v3", ()), ConfigError),  # it has read another file of messages
        (("v2", ("server.port",)), ConfigError),
        (RuntimeError("a defect"), RuntimeError),
    ],
)
def test_one_that_refuses_keeps_all_on_the_old(second: Any, error: type[Exception]) -> None:
    """No process switches if one of them cannot, or would switch to something else."""
    processes = [Process(), Process(second), Process()]
    reloader = Reloader("f", "old", None, lambda: processes)
    with pytest.raises(error):
        asyncio.run(reloader.change("new", accept))
    assert ([one.in_force for one in processes], reloader.text) == (["v1"] * 3, "old")


def test_what_is_not_accepted_changes_nothing() -> None:
    """If the file cannot be written, no process has its new text."""
    processes = [Process(), Process()]
    reloader = Reloader("f", "old", None, lambda: processes)

    async def refuse() -> None:
        raise ConfigError("the disk is full")

    with pytest.raises(ConfigError, match="disk"):
        asyncio.run(reloader.change("new", refuse))
    assert ([one.in_force for one in processes], reloader.text) == (["v1"] * 2, "old")


def test_a_process_that_ends_does_not_hold_the_others() -> None:
    """It comes back with the new text; without any process, nothing changes."""
    processes = [Process(Gone()), Process()]
    reloader = Reloader("f", "old", None, lambda: processes)
    asyncio.run(reloader.change("new", accept))
    assert (processes[1].in_force, reloader.text) == ("v2", "new")
    del processes[1]
    with pytest.raises(Gone):
        asyncio.run(reloader.change("newer", accept))
    assert reloader.text == "new"


def following(reloader: Reloader, scene: Callable[[], Awaitable[None]]) -> None:
    """Run `scene` while the reloader follows its file."""

    async def run() -> None:
        task = asyncio.create_task(reloader.follow())
        try:
            await scene()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(run())


def test_a_file_that_changes_while_it_is_tried_is_tried_again(tmp_path: Path) -> None:
    """What was tried is not what the file has by then."""
    path = tmp_path / "f"
    path.write_text("one")
    tried: list[str] = []

    def change() -> None:
        tried.append(path.read_text())
        if len(tried) == 1:
            path.write_text("three")
            os.utime(path, (1, 1))

    process = Process(before=change)
    reloader = Reloader(str(path), "one", stamp_of(str(path)), lambda: [process], look_s=0.01)
    path.write_text("two is longer")

    async def scene() -> None:
        await eventually(lambda: process.in_force == "v2")

    following(reloader, scene)
    assert (tried, reloader.text) == (["two is longer", "three"], "three")


def test_a_file_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    """A file that has changed between two looks is left alone; it is tried once, when it is complete."""
    path = tmp_path / "f"
    path.write_text("old")
    pieces = ["new ", "policies ", "in ", "four pieces"]
    tried: list[str] = []
    process = Process(before=lambda: tried.append(path.read_text()))

    def write_on() -> list[Process]:
        """The participants, for whom each look asks: it finds a further piece in the file."""
        if pieces:
            with path.open("w" if len(pieces) == 4 else "a") as file:
                file.write(pieces.pop(0))
        return [process]

    reloader = Reloader(str(path), "old", stamp_of(str(path)), write_on, look_s=0.01)

    async def scene() -> None:
        await eventually(lambda: process.in_force == "v2")

    following(reloader, scene)
    assert (tried, reloader.text) == (["new policies in four pieces"], "new policies in four pieces")


def test_who_asks_gets_the_file_read_again(tmp_path: Path) -> None:
    """An unchanged file is tried as well: its policies may have been refused because the guard was down."""
    path = tmp_path / "f"
    path.write_text("one")
    process = Process(ConfigError("the guard cannot judge"))
    reloader = Reloader(str(path), "one", stamp_of(str(path)), lambda: [process], look_s=0.01)

    async def scene() -> None:
        reloader.ask()
        await eventually(lambda: process.problems == ["the guard cannot judge"])
        process.found = ("v2", ())
        reloader.ask()
        await eventually(lambda: process.in_force == "v2")
        assert reloader.problems == ()

    following(reloader, scene)


UPSTREAMS = """
routes: [{name: r, policy: default, when: {model: m}, upstream: %s}]
upstreams:
  default: {url: 'http://a', client_key: true}
  %s: {url: '%s', client_key: true}
"""


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        ("server: {port: 1}\n", "server: {port: 2}\n", ("server.port",)),
        ("log: {level: info}\n", "log: {level: info}\nadmin: {}\notel: {endpoint: 'http://c'}\n", ("admin", "otel")),
        (
            "upstream: {url: 'http://a'}\n",
            "upstream: {url: 'http://a', timeouts: {connect_s: 1}}\n",
            ("upstream.timeouts.connect_s",),
        ),
        (UPSTREAMS % ("b", "b", "http://b"), UPSTREAMS % ("b", "b", "http://c"), ("upstreams.b.url",)),
        ("audit: {sample_passed: 0.1}\n", "audit: {sample_passed: 0.1, exclusions: []}\n", ()),
    ],
)
def test_changes_beside_the_policies_are_named(old: str, new: str, keys: tuple[str, ...]) -> None:
    """The keys of a file that wait for a restart have their place in the file, and never a value."""
    before, after = (load_text(OLD + text, "f", {}, catalogue()) for text in (old, new))
    assert restarts_needed(before, after, before.sections) == keys


def test_every_section_is_applied_or_waits() -> None:
    """A change of a new section would otherwise neither act nor be named."""
    applied = {"policies", "clients", "name", "version", "sections", "unset"}
    known = {*restarts._BESIDE, *restarts._OF_THE_GUARD, *applied}
    assert {field.name for field in fields(Settings)} == known


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            "guard: {timeout_s: 5}\n",
            "guard: {timeout_s: 6}\n",
            "changes of guard.timeout_s need a restart, and the policies",
        ),
        ("routes: []\n", "", "routes: was in the file and is missing now"),
        (
            UPSTREAMS % ("b", "b", "http://b"),
            UPSTREAMS % ("c", "c", "http://b"),
            "routes name c, which the running proxy does not have",
        ),
    ],
)
def test_policies_that_do_not_fit_what_runs_wait(old: str, new: str, why: str) -> None:
    """They would decide by another guard's thresholds, or send requests to an upstream that is not there."""
    before, after = (load_text(OLD + text, "f", {}, catalogue()) for text in (old, new))
    with pytest.raises(ConfigError, match=why):
        restarts_needed(before, after, before.sections)


# --- workers ---------------------------------------------------------------------------------------------------------


class Worker:
    """A worker of a group in this process, without a guard: `obstacle` is what its canaries say."""

    def __init__(self, path: Path, text: str, folder: Path) -> None:
        source = read(str(path), None, text=text)
        self.policies = LivePolicies(source.file.policies)
        self.obstacle = ""
        self.file = PolicyFile(source, self.policies, self.prepare)
        self.metrics = Metrics(CollectorRegistry())
        self.membership = Membership(folder, self.file, self.metrics)

    async def prepare(self, settings: Settings) -> Callable[[], None]:
        """The canaries."""
        if self.obstacle:
            raise ConfigError(self.obstacle)
        return lambda: None

    @property
    def threshold(self) -> float:
        """The threshold in force."""
        return self.policies.current.policies["default"].user.by_category["violence_hate"][0].threshold


@asynccontextmanager
async def grouped(path: Path, folder: Path) -> Any:
    """A group, and a function that starts a worker of it."""
    await asyncio.to_thread(path.write_text, OLD)
    workers: list[Worker] = []

    async def start(*, join: bool = True) -> Worker:
        worker = Worker(path, OLD, folder)
        await worker.membership.connect()
        workers.append(worker)
        if join:
            await worker.membership.join()
        return worker

    with WorkerGroup(folder, read(str(path), None)) as group:
        try:
            yield group, start
        finally:
            for worker in workers:
                await worker.membership.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a group, with a path too long for the address of a socket."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    return folder


def test_workers_reload_together(tmp_path: Path, folder: Path) -> None:
    """A file is put in force in all workers, or in none and both say why; a later worker takes what is in force."""

    async def run() -> None:
        path = tmp_path / "guardproxy.yaml"
        async with grouped(path, folder) as (group, start):
            first, second = await start(), await start()
            path.write_text(NEW)
            group.ask()
            await eventually(lambda: (first.threshold, second.threshold) == (0.4, 0.4))
            second.obstacle = "the guard cannot judge"
            path.write_text(OLD)
            group.ask()
            await eventually(lambda: first.file.state.problems and second.file.state.problems)
            assert first.file.state.problems == ("the guard cannot judge",) == second.file.state.problems
            assert (first.threshold, second.threshold) == (0.4, 0.4)
            await second.membership.close()
            third = await start()
            assert (third.threshold, third.file.state.problems) == (0.4, ("the guard cannot judge",))
            group.ask()
            await eventually(lambda: (first.threshold, third.threshold) == (0.6, 0.6))
            assert first.file.state.problems == () == third.file.state.problems

    asyncio.run(run())


def test_a_worker_that_loads_does_not_hold_a_reload(tmp_path: Path, folder: Path) -> None:
    """It takes the policies in force when it joins; one whose guard fails them stays outside."""

    async def run() -> None:
        path = tmp_path / "guardproxy.yaml"
        async with grouped(path, folder) as (group, start):
            first, second = await start(), await start(join=False)
            path.write_text(NEW)
            group.ask()
            await eventually(lambda: first.threshold == 0.4)
            assert second.threshold == 0.6
            second.obstacle = "the guard cannot judge"
            with pytest.raises(ConfigError, match="cannot judge"):
                await second.membership.join()
            path.write_text(NEW.replace("0.4", "0.3"))
            group.ask()
            await eventually(lambda: first.threshold == 0.3)
            second.obstacle = ""
            await second.membership.join()
            assert second.threshold == 0.3

    asyncio.run(run())


def test_a_change_by_the_console_acts_in_all_workers(tmp_path: Path, folder: Path) -> None:
    """It is saved if every worker takes it; otherwise the file and the policies stay."""

    async def run() -> None:
        path = tmp_path / "guardproxy.yaml"
        async with grouped(path, folder) as (_, start):
            first, second = await start(), await start()
            await first.file.save(_change(first, 0.5))
            assert (first.threshold, second.threshold) == (0.5, 0.5)
            assert "{block: 0.5}" in path.read_text()
            second.obstacle = "the guard cannot judge"
            with pytest.raises(ConfigError, match="cannot judge"):
                await first.file.save(_change(first, 0.7))
            assert (first.threshold, second.threshold) == (0.5, 0.5)
            assert "0.7" not in path.read_text()

    asyncio.run(run())


def _change(worker: Worker, block: float) -> ThresholdChange:
    policy = worker.policies.current.policies["default"]
    fields = {name: getattr(policy, name) for name in type(policy).__dataclass_fields__}
    fields["user"] = SideRules({"violence_hate": (Rule("block", block),)})
    rules = f"user: {{violence_hate: {{block: {block}}}}}"
    return ThresholdChange(type(policy)(**fields), rules, worker.policies.current.version, "olga")


def test_a_scrape_counts_all_workers(tmp_path: Path, folder: Path) -> None:
    """Counts are those of all workers, and what a worker has counted stays counted when it ends."""

    async def run() -> None:
        async with grouped(tmp_path / "guardproxy.yaml", folder) as (_, start):
            first, second = await start(), await start()
            first.metrics.request("openai_chat", 200)
            second.metrics.request("openai_chat", 200)
            second.metrics.upstream(0.3)
            line = 'guardproxy_requests_total{status="2xx",wire="openai_chat"} 2.0\n'
            for worker in (first, second):
                text = (await worker.membership.scrape())[1].decode()
                assert line in text
                assert 'guardproxy_upstream_seconds_bucket{le="0.5"} 1.0\n' in text
            await second.membership.close()
            third = await start()
            text = (await third.membership.scrape())[1].decode()
            assert line in text
            assert "guardproxy_upstream_seconds_count 1.0\n" in text

    asyncio.run(run())
