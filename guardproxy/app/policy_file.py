"""The configuration file of a process: read at the start, followed for changes, changed by the reviewer's page."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog

from guardproxy.app.registries import catalogue
from guardproxy.app.reloading import LOOK_S, FileStamp, Reloader, stamp_of
from guardproxy.app.restarts import restarts_needed
from guardproxy.console import ThresholdChange
from guardproxy.errors import ConfigError
from guardproxy.observe.state import ReloadState
from guardproxy.policy import PolicySet, PresetName
from guardproxy.settings import DEFAULT_PRESET, Catalogue, Settings, load_text, read_text, replace_text, with_rules
from guardproxy.settings import load as load_settings
from guardproxy.web.proxy import LivePolicies

log = structlog.get_logger("guardproxy")


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """Where the configuration and the data lie, and the state of the file when it was read.

    `file` are the settings of the file without the overrides of the command line, which a reload compares; a changed
    `stamp` means a changed file. `preset` is the policy of a file without policies, `text` what the file had.
    """

    config: str | None
    data_dir: str | None
    builtin_only: bool
    file: Settings
    stamp: FileStamp
    preset: PresetName | None = None
    text: str = ""


def read(
    config: str | None,
    data_dir: str | None,
    *,
    builtin_only: bool = False,
    preset: PresetName | None = None,
    text: str | None = None,
) -> ConfigSource:
    """Load a configuration file, or the built-in defaults, for a proxy. Raises ConfigError with every mistake.

    `text` is the file's at the start of the server, for a process that begins later.
    """
    # Taken first: a change between the two is then noticed, at the cost of a reload at worst.
    stamp = stamp_of(config) if config is not None else None
    names = catalogue(builtin_only=builtin_only)
    if config is None:
        return ConfigSource(
            config, data_dir, builtin_only, load_settings(None, os.environ, names, preset), stamp, preset
        )
    text = read_text(config) if text is None else text
    file = load_text(text, config, os.environ, names, preset)
    return ConfigSource(config, data_dir, builtin_only, file, stamp, preset, text)


class PolicyFile:
    """The policies of the configuration file in one process: tried, put in force, and changed by its reviewers.

    `prepare` gets settings whose file is valid; it returns what puts them in force, or raises ConfigError with the
    reason why they cannot be. `policies` are those in force, `state` is what operators see of reloads. `follow` looks
    at the file every `look_s` seconds.
    """

    def __init__(
        self,
        source: ConfigSource,
        policies: LivePolicies,
        prepare: Callable[[Settings], Awaitable[Callable[[], None]]],
        *,
        look_s: float = LOOK_S,
    ) -> None:
        self.state = ReloadState()
        self._source = source
        self._policies = policies
        self._prepare = prepare
        self._sections = source.file.sections
        # The stamp is from before the weights were loaded, so that a change during that time is noticed.
        self._alone = Reloader(source.config, source.text, source.stamp, lambda: [self], look_s=look_s)
        self._tried: tuple[Settings, Callable[[], None], tuple[str, ...]] | None = None
        self._save: Callable[[str, bytes], Awaitable[None]] = self._save_alone

    # --- reload ----------------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Apply the policies and routes of the file whenever it changes. Only for a process that serves alone."""
        await self._alone.follow()

    def ask(self) -> None:
        """Have `follow` read the file again soon."""
        self._alone.ask()

    async def attempt(self, text: str) -> tuple[str, tuple[str, ...]]:
        """Check a text and try its policies, as `Participant.attempt` says."""
        source = self._source
        self._tried = None
        settings = await asyncio.to_thread(
            load_text, text, source.config or source.file.name, os.environ, self._names, source.preset
        )
        restart = restarts_needed(source.file, settings, self._sections)
        self._tried = settings, await self._prepare(settings), restart
        return settings.policies.version, restart

    async def switch(self) -> None:
        """Put the policies of the latest attempt in force: requests that have begun keep theirs."""
        if self._tried is None:
            raise RuntimeError("no policies were tried")
        (settings, use, restart), self._tried = self._tried, None
        use()
        self._policies.current = settings.policies
        self._sections = settings.sections
        before = self.state
        self.state = ReloadState(restart_needed=restart, applied=before.applied + 1, refused=before.refused)

    async def refused(self, problems: Sequence[str]) -> None:
        """Note why the file is not in force."""
        self._tried = None
        self.state = replace(self.state, problems=tuple(problems), refused=self.state.refused + 1)

    def save_by(self, save: Callable[[str, bytes], Awaitable[None]]) -> None:
        """Have `save` write a changed text in place of the old content, and put it in force in every process."""
        self._save = save

    async def _save_alone(self, text: str, old: bytes) -> None:
        await self._alone.change(text, partial(asyncio.to_thread, replace_text, self.file, old, text))

    @property
    def _names(self) -> Catalogue:
        return catalogue(builtin_only=self._source.builtin_only)

    # --- change ----------------------------------------------------------------------------------------------------

    @property
    def file(self) -> str:
        """The name of the file; empty without one."""
        return self._source.config or ""

    @property
    def preset(self) -> str:
        """The built-in policy that is in force because the configuration has none; empty if it has policies."""
        return "" if "policies" in self._sections else self._source.preset or DEFAULT_PRESET

    async def save(self, change: ThresholdChange) -> PolicySet:
        """Write new thresholds into the file and put them in force; return the policies that now decide.

        1. The file on disk must be what is in force: nobody's change is overwritten.
        2. The file with the new thresholds must be valid as a whole, need no restart, and come to the very rules that
           the reviewer saw.
        3. The guard must judge its canaries right under it, in every process of the server.
        4. Only then the file is replaced, and the policies with it.

        Raises ConfigError with the reasons why not; the file is then as it was.
        """
        path, before = self._source.config, self._policies.current.version
        if path is None or self.preset:
            raise ConfigError("there are no policies in a file that could be changed")
        if change.base != before:
            raise ConfigError(
                f"the policies have changed since this page was loaded: version {before} is in force now, and the "
                f"page showed {change.base}"
            )
        old = await asyncio.to_thread(_content, path)
        settings, text = await asyncio.to_thread(self._changed, path, old, change)
        await self._save(text, old)
        log.info(
            "thresholds_saved",
            by=change.by,
            policy=change.policy.name,
            rules=change.rules,
            file=path,
            version=settings.policies.version,
            before=before,
        )
        return settings.policies

    def _changed(self, path: str, old: bytes, change: ThresholdChange) -> tuple[Settings, str]:
        """The settings and the text of the file with new thresholds. Raises ConfigError."""
        text = _text(path, old)
        in_force = self._policies.current.version
        try:
            found = load_text(text, path, os.environ, self._names, self._source.preset).version
        except ConfigError as error:
            raise ConfigError([f"{path} was changed, and now has mistakes:", *error.problems]) from error
        if found != in_force:
            raise ConfigError(
                f"{path} is no longer what the proxy runs with: somebody changed it to version {found}, and version "
                f"{in_force} is in force. The log says why, if the change was refused"
            )
        try:
            new = with_rules(text, change.policy.name, change.rules)
        except ConfigError as error:
            raise ConfigError(f"{path} {error}") from error
        settings = load_text(new, path, os.environ, self._names, self._source.preset)
        policy = settings.policies.policies[change.policy.name]
        if (policy.user, policy.assistant) != (change.policy.user, change.policy.assistant):
            raise ConfigError(
                f"{path} would decide in another way than this page shows: the policy's preset brings rules back that "
                "are removed here. Give the category rules of its own"
            )
        return settings, new


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _text(path: str, content: bytes) -> str:
    try:
        return content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} was changed, and is not UTF-8 any more") from error
