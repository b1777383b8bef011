"""The configuration file of a process: read at the start, followed for changes, changed by the reviewer's page."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from guardproxy.app.guards import reads_label_lists
from guardproxy.app.registries import catalogue
from guardproxy.console import ThresholdChange
from guardproxy.errors import ConfigError
from guardproxy.policy import PolicySet, PresetName
from guardproxy.settings import DEFAULT_PRESET, Catalogue, Settings, load_text, replace_text, with_rules
from guardproxy.settings import load as load_settings
from guardproxy.web.proxy import LivePolicies

log = structlog.get_logger("guardproxy")

# Seconds between two looks at the configuration file.
_RELOAD_S = 1.0

FileStamp = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """Where the configuration and the data lie, and the state of the file when it was read.

    `file` are the settings of the file without the overrides of the command line, which a reload compares; a changed
    `stamp` means a changed file. `preset` is the policy of a file without policies.
    """

    config: str | None
    data_dir: str | None
    builtin_only: bool
    file: Settings
    stamp: FileStamp
    preset: PresetName | None = None


def read(
    config: str | None, data_dir: str | None, *, builtin_only: bool = False, preset: PresetName | None = None
) -> ConfigSource:
    """Load a configuration file, or the built-in defaults, for a proxy. Raises ConfigError with every mistake."""
    # Taken first: a change between the two is then noticed, at the cost of a reload at worst.
    stamp = _stamp(config) if config is not None else None
    file = load_settings(config, os.environ, catalogue(builtin_only=builtin_only), preset)
    return ConfigSource(config, data_dir, builtin_only, file, stamp, preset)


class PolicyFile:
    """Puts the policies of the configuration file in force when it changes, and changes their thresholds in it.

    `prepare` gets settings whose file is valid; it returns what puts them in force, or raises ConfigError with the
    reason why they cannot be. `policies` are those in force.
    """

    def __init__(
        self,
        source: ConfigSource,
        policies: LivePolicies,
        prepare: Callable[[Settings], Awaitable[Callable[[], None]]],
    ) -> None:
        self._source = source
        self._policies = policies
        self._prepare = prepare
        self._sections = source.file.sections
        # From before the weights were loaded, so that a change during that time is noticed.
        self._applied = source.stamp
        self._one_at_a_time = asyncio.Lock()

    # --- follow ----------------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Apply the policies and routes of the file whenever it changes."""
        path = self._source.config
        if path is None:
            return
        before = self._applied
        while True:
            current = _stamp(path)
            # A file that is still being written would be read in part, so wait until it has stopped changing.
            if current == before:
                async with self._one_at_a_time:
                    if current != self._applied and await self._reload(path, current):
                        self._applied = current
            before = current
            await asyncio.sleep(_RELOAD_S)

    async def _reload(self, path: str, stamp: FileStamp) -> bool:
        """Apply the file's policies; if it has mistakes, log them and keep the current policies.

        Returns False, and applies nothing, if the file has changed while it was read.
        """
        problems: list[str] = []
        try:
            settings = await asyncio.to_thread(load_settings, path, os.environ, self._names, self._source.preset)
            use = await self._checked(settings)
        except ConfigError as error:
            problems = error.problems
        except Exception:  # keep following the file: its next version may work
            log.exception("reload_broke", in_force=self._policies.current.version)
            return True
        if _stamp(path) != stamp:
            return False
        if problems:
            log.error("reload_refused", problems=problems, in_force=self._policies.current.version)
            return True
        self._use(settings, use)
        log.info("policies_reloaded", policy=settings.policies.version)
        return True

    async def _checked(self, settings: Settings) -> Callable[[], None]:
        """What puts valid settings in force. Raises ConfigError if they need a restart or the guard fails with them."""
        _check_reload(self._source.file, settings, self._sections)
        return await self._prepare(settings)

    def _use(self, settings: Settings, use: Callable[[], None]) -> None:
        use()
        self._policies.current = settings.policies
        self._sections = settings.sections

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
        3. The guard must judge its canaries right under it.
        4. Only then the file is replaced, and the policies with it.

        Raises ConfigError with the reasons why not; the file is then as it was.
        """
        async with self._one_at_a_time:
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
            use = await self._checked(settings)
            await asyncio.to_thread(replace_text, path, old, text)
            self._use(settings, use)
            stamp = _stamp(path)
            if await asyncio.to_thread(_content, path) == text.encode():
                self._applied = stamp  # what is already in force is not loaded again
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


def _check_reload(old: Settings, new: Settings, sections: frozenset[str]) -> None:
    """Raise ConfigError if a change needs a restart. `sections` are those of the file when it was last applied.

    A section that has gone would silently put the built-in policy in force; the file may be half-written.
    """
    if gone := sorted(sections - new.sections):
        names = ", ".join(gone)
        raise ConfigError(f"{new.name}: {names}: was in the file and is missing now; complete the file, or restart")
    # Exclusions and the calibration are applied as the policies are.
    old = replace(old, audit=replace(old.audit, exclusions=new.audit.exclusions))
    old = replace(old, guard=replace(old.guard, calibration=new.guard.calibration))
    inside = (
        "server",
        "admin",
        "upstream",
        "upstreams",
        "upstream_groups",
        "guard",
        "members",
        "taxonomy",
        "wires",
        "limits",
        "paths",
        "audit",
        "alerts",
        "console",
    )
    fixed = (*inside, "log")
    changed = [name for name in fixed if getattr(old, name) != getattr(new, name)]
    if changed:
        raise ConfigError(f"{new.name}: changes of {', '.join(changed)} need a restart")
    old_floor, new_floor = floor_of(old), floor_of(new)
    if new_floor < old_floor and reads_label_lists(new):
        raise ConfigError(
            f"{new.name}: a threshold of {new_floor:g} is below {old_floor:g}, from which the running guard reads "
            "categories; restart to apply it"
        )


def floor_of(settings: Settings) -> float:
    """The P(unsafe) below which no category can reach a threshold, so that none needs to be read."""
    return min(policy.floor for policy in settings.policies.policies.values())


def _stamp(path: str) -> FileStamp:
    """The modification time, size and inode of a file, or None if it is missing."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
