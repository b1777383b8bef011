"""Thresholds saved from the workbench: into the file that runs, checked as a whole, or not at all."""

import asyncio
import os
import re
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import structlog

from guardproxy.app import PolicyFile, Service, read
from guardproxy.console import ThresholdChange
from guardproxy.errors import ConfigError
from guardproxy.policy import Rule, SideRules
from guardproxy.reviews import ChangedRule, PolicyChange
from guardproxy.settings import Settings
from guardproxy.sinks.database import ReviewStore
from guardproxy.web.proxy import LivePolicies
from tests.console.kit import KEYS, POLICY, Console, console, fill, many, sqlite
from tests.console.test_pages import client, token
from tests.kit import serve

FILE = (
    POLICY.lstrip()
    .replace("    user:\n", "    user:\n      # agreed with legal\n")
    .replace("block: 0.6}", "block: 0.6}  # ours")
)
SAVE = "/guardproxy/workbench/save?t:user:violence_hate:block=0.45"


@dataclass
class Running:
    """A configuration file as a process runs it; `refusal` is what the canaries say, `used` counts reloads."""

    path: Path
    refusal: str = ""
    used: int = 0

    def __post_init__(self) -> None:
        source = read(str(self.path), None)
        self.policies = LivePolicies(source.file.policies)
        self.file = PolicyFile(source, self.policies, self.prepare)

    async def prepare(self, settings: Settings) -> Callable[[], None]:
        """Stands for the canaries of the running guard."""
        if self.refusal:
            raise ConfigError(self.refusal)

        def use() -> None:
            self.used += 1

        return use

    def save(self, block: float = 0.45, base: str = "") -> str:
        """Save another threshold, as the workbench does; return the version that then decides."""
        policy = self.policies.current.policies["default"]
        rules = {**policy.user.by_category, "violence_hate": (Rule("flag", 0.3), Rule("block", block))}
        wanted = type(policy)(**{**_fields(policy), "user": SideRules(rules)})
        change = ThresholdChange(
            wanted,
            f"user: {{violence_hate: {{flag: 0.3, block: {block}}}}}",
            base or self.policies.current.version,
            "olga",
        )
        return asyncio.run(self.file.save(change)).version


def content(path: Path) -> str:
    """A file, with two spaces before each comment: they keep their column when a number gets longer."""
    return re.sub(r" +# ours", "  # ours", path.read_text())


def _fields(policy: object) -> dict[str, object]:
    return {name: getattr(policy, name) for name in type(policy).__dataclass_fields__}  # type: ignore[attr-defined]


@pytest.fixture
def running(tmp_path: Path) -> Running:
    """A file with comments, and what runs with it."""
    path = tmp_path / "guardproxy.yaml"
    path.write_text(FILE)
    path.chmod(0o640)
    return Running(path)


def test_saving_changes_one_line_and_what_decides(running: Running) -> None:
    """The comments and the mode stay, the new policy is in force, and the log says who did it."""
    before = running.policies.current.version
    with structlog.testing.capture_logs() as logs:
        version = running.save()
    assert content(running.path) == FILE.replace("block: 0.6}  # ours", "block: 0.45}  # ours")
    assert stat.S_IMODE(running.path.stat().st_mode) == 0o640
    assert [path.name for path in running.path.parent.iterdir()] == ["guardproxy.yaml"]
    assert version == running.policies.current.version != before
    rules = running.policies.current.policies["default"].user.by_category["violence_hate"]
    assert [rule.threshold for rule in rules] == [0.3, 0.45]
    assert running.used == 1
    saved = next(log for log in logs if log["event"] == "thresholds_saved")
    assert (saved["by"], saved["policy"], saved["version"], saved["before"]) == ("olga", "default", version, before)
    assert running.save(0.4) != version  # and again, from what is in force now


def test_a_link_to_the_file_stays(tmp_path: Path) -> None:
    """What the link leads to is changed."""
    (tmp_path / "real.yaml").write_text(FILE)
    link = tmp_path / "guardproxy.yaml"
    link.symlink_to("real.yaml")
    Running(link).save()
    assert link.is_symlink()
    assert "block: 0.45" in (tmp_path / "real.yaml").read_text()


def refused(running: Running, words: str, block: float = 0.45, base: str = "") -> None:
    """Saving fails with these words, and changes neither the file nor the policies."""
    content, version = running.path.read_bytes(), running.policies.current.version
    with pytest.raises(ConfigError, match=re.escape(words)):
        running.save(block, base)
    assert (running.path.read_bytes(), running.policies.current.version, running.used) == (content, version, 0)


def test_nobodys_change_is_overwritten(running: Running) -> None:
    """A file with other content, a mistake or other bytes than those in force is left alone; comments may change."""
    running.path.write_text(FILE.replace("block: 0.7", "block: 0.8"))
    refused(running, "is no longer what the proxy runs with: somebody changed it")
    running.path.write_text(FILE.replace("block: 0.7", "block: maybe"))
    refused(running, "was changed, and now has mistakes")
    running.path.write_bytes(FILE.encode() + b"# \xff")
    refused(running, "is not UTF-8 any more")
    running.path.write_text(FILE + "# a new remark\n")
    running.save()
    assert running.path.read_text().endswith("# a new remark\n")


def test_a_page_of_another_version_saves_nothing(running: Running) -> None:
    """Two people cannot undo each other's change by accident."""
    refused(running, "the policies have changed since this page was loaded", base="0123456789ab")


def test_what_is_invalid_or_fails_the_canaries_is_not_saved(running: Running) -> None:
    """The whole file is checked, then the guard."""
    refused(running, "policies.default.user.violence_hate.flag: is unreachable", block=0.2)
    running.refusal = "the guard gives a known-bad user turn 0.1"
    refused(running, "the guard gives a known-bad user turn 0.1")


def test_a_file_that_cannot_be_replaced(running: Running, tmp_path: Path) -> None:
    """The reason of the system is passed on."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    refused(running, "cannot be replaced: Permission denied")
    tmp_path.chmod(0o700)


def test_rules_that_the_preset_brings_back_are_not_saved(tmp_path: Path) -> None:
    """What is saved is what the page showed, or nothing."""
    path = tmp_path / "guardproxy.yaml"
    path.write_text('version: 1\nupstream: {url: "http://127.0.0.1:9"}\npolicies:\n  default: {preset: strict}\n')
    running = Running(path)
    policy = running.policies.current.policies["default"]
    rules = {name: own for name, own in policy.user.by_category.items() if name != "violence_hate"}
    wanted = type(policy)(**{**_fields(policy), "user": SideRules(rules)})
    change = ThresholdChange(wanted, "user: {violence_hate: null}", running.policies.current.version, "olga")
    with pytest.raises(ConfigError, match="brings rules back"):
        asyncio.run(running.file.save(change))


def test_without_policies_in_a_file_nothing_can_be_saved(tmp_path: Path) -> None:
    """Built-in settings and a file without policies have no thresholds to change; their preset is named."""
    path = tmp_path / "guardproxy.yaml"
    path.write_text("version: 1\n")
    for source in (read(None, None), read(str(path), None, preset="strict")):
        file = PolicyFile(source, LivePolicies(source.file.policies), Running.prepare)  # type: ignore[arg-type]
        assert file.preset == (source.preset or "balanced")
        change = ThresholdChange(source.file.policies.policies["default"], "{}", source.file.policies.version, "olga")
        with pytest.raises(ConfigError, match="no policies in a file"):
            asyncio.run(file.save(change))


def changes_of(address: str) -> list[PolicyChange]:
    """The saved changes of a store, after its chain was verified."""

    async def run() -> list[PolicyChange]:
        store = ReviewStore(address)
        assert (await store.verify()).problems == ()
        found = await store.policy_changes(10)
        await store.close()
        return found

    return asyncio.run(run())


# --- by the page -----------------------------------------------------------------------------------------------------


@contextmanager
def page(running: Running) -> Iterator[Console]:
    """The page of a process with this file, and four people."""
    address = sqlite(running.path.parent)
    fill(address, many(12))
    with console(address, KEYS, running.file, lambda: running.policies.current) as served:
        yield served


def test_only_an_admin_with_a_token_saves(running: Running) -> None:
    """Others copy the YAML: they see no button, and their request is refused."""
    with page(running) as served:
        for name in ("rita", "anna"):
            with client(served, name) as browser:
                seen = browser.get("/guardproxy/workbench?t:user:violence_hate:block=0.45")
                assert "Save in" not in seen.text
                assert "with the role <code>admin</code> can save it" in seen.text
                sent = {"token": token(seen), "base": running.policies.current.version}
                assert browser.post(SAVE, data=sent).status_code == 403
        with client(served, "olga") as olga:
            assert olga.post(SAVE, data={"base": running.policies.current.version}).status_code == 403
            assert running.path.read_text() == FILE
            seen = olga.get("/guardproxy/workbench?t:user:violence_hate:block=0.45")
            assert "Save in guardproxy.yaml" in seen.text
            sent = {"token": token(seen), "base": running.policies.current.version}
            answer = olga.post(SAVE, data=sent)
            assert (
                f"Version <strong>{running.policies.current.version}</strong> of the policies now decides"
                in answer.text
            )
            assert "block: 0.45}  # ours" in content(running.path)
            changes = changes_of(served.address)
            assert [(one.by, one.policy, one.before, one.after) for one in changes] == [
                ("olga", "default", sent["base"], running.policies.current.version)
            ]
            assert changes[0].policy_after == running.policies.current.policies["default"].version
            assert changes[0].policy_before != changes[0].policy_after
            assert changes[0].rules == (ChangedRule("user", "violence_hate", "block", "0.6", "0.45"),)
            store = olga.get("/guardproxy/store").text
            assert "user turns, violence_hate, block: 0.6 to <strong>0.45</strong>" in store
            again = olga.post(SAVE, data=sent)
            assert again.status_code == 409
            assert "Nothing is changed" in again.text
            assert len(changes_of(served.address)) == 1


def test_a_store_that_takes_no_entry_does_not_undo_what_is_saved(running: Running) -> None:
    """The policies are in force, and the page says that the entry is missing."""
    with page(running) as served, client(served, "olga") as olga:
        seen = olga.get("/guardproxy/workbench?t:user:violence_hate:block=0.45")
        with sqlite3.connect(running.path.parent / "audit.sqlite3") as database:
            database.execute("DROP TABLE guardproxy_policy_changes")
        answer = olga.post(SAVE, data={"token": token(seen), "base": running.policies.current.version})
        assert "The audit store did not take an entry of this change" in answer.text
        assert "now decides" in answer.text
        assert "block: 0.45}  # ours" in content(running.path)


@pytest.mark.parametrize(
    ("query", "written"),
    [
        ("t:user:guns:flag=0.2", "guns: {flag: 0.2}"),
        ("t:user:guns:rewrite=0.2&t:user:guns:how=redact", "guns: {rewrite: {at: 0.2, how: redact}}"),
        ("t:user:violence_hate:flag=off", "violence_hate: {block: 0.6}  # ours"),
        ("t:user:violence_hate:with_unsafe=0.25", "violence_hate: {flag: 0.3, block: 0.6, with_unsafe: 0.25}  # ours"),
        ("t:user:sexual_content:with_unsafe=off", "sexual_content: {block: 0.5}"),
        ("t:user:sexual_content:block=off&t:user:sexual_content:with_unsafe=off", "sexual_content: {}"),
        ("t:assistant:*:rewrite=0.35", '"*": {rewrite: {at: 0.35, how: redact}}'),
        ("t:assistant:*:how=replace", '"*": {rewrite: {at: 0.5, how: replace}}'),
        ("t:user:unsafe:block=0.8", "unsafe: {block: 0.8}"),
    ],
)
def test_every_kind_of_change_is_saved(tmp_path: Path, query: str, written: str) -> None:
    """Rules come, go and change; the file then decides as the page showed."""
    path = tmp_path / "guardproxy.yaml"
    path.write_text(FILE.replace("version: 1", f"version: 1\n{TAXONOMY}"))
    running = Running(path)
    with page(running) as served, client(served, "olga") as olga:
        sent = {"token": token(olga.get("/guardproxy/workbench")), "base": running.policies.current.version}
        answer = olga.post(f"/guardproxy/workbench/save?{query}", data=sent)
        assert "now decides" in answer.text, re.findall(r"<li>(.*?)</li>", answer.text)
        assert written in content(path)
        assert "# agreed with legal" in path.read_text()


TAXONOMY = """guard: {family: qwen3guard, model: /nowhere, taxonomy: ours}
taxonomies:
  ours:
    categories:
      - {id: violence_hate, name: Violence}
      - {id: sexual_content, name: Sex}
      - {id: guns, name: Guns}
      - {id: criminal_planning, name: Crime}
"""


def test_a_proxy_whose_guard_is_down_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The running guard is asked before the file changes."""
    monkeypatch.setenv("GUARD_KEY", "a-key")
    path = tmp_path / "guardproxy.yaml"
    path.write_text(
        'version: 1\nserver: {host: 127.0.0.1}\nupstream: {url: "http://127.0.0.1:9"}\n'
        "guard:\n  family: openai_moderation\n"
        '  service: {key: "${env:GUARD_KEY}", url: "http://127.0.0.1:9", attempts: 1}\n'
        "policies:\n  default: {user: {violence_hate: {block: 0.5}}, assistant: {unsafe: {block: 0.5}}}\n"
    )
    before = path.read_text()
    source = read(str(path), str(tmp_path))
    with serve(Service(source.file, source).app) as url, httpx.Client(base_url=url, timeout=60) as browser:
        seen = browser.get("/guardproxy/workbench?t:user:violence_hate:block=0.4")
        assert "Save in guardproxy.yaml" in seen.text
        sent = {"token": token(seen), "base": source.file.policies.version}
        answer = browser.post("/guardproxy/workbench/save?t:user:violence_hate:block=0.4", data=sent)
        assert answer.status_code == 409
        assert "the guard cannot judge" in answer.text
        assert path.read_text() == before
