"""The reviewer's page of a process: its store, its people, and the running guard for its text box."""

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from guardproxy.app.audit import store_address, store_keys
from guardproxy.console import ConsoleParts, People, Person, Trial, TriedPolicy, create_console
from guardproxy.console.visits import BASE
from guardproxy.errors import ConfigError, GuardproxyError
from guardproxy.evaluation.metrics import Rate
from guardproxy.pipeline import Judging
from guardproxy.settings import OPERATOR, ConsoleSettings, Settings
from guardproxy.sinks.database import DATABASES, ReviewStore, data_folder
from guardproxy.types import Message, Part, Side
from guardproxy.views import views_of
from guardproxy.web.proxy import LivePolicies
from guardproxy.web.visitors import Visitors, is_loopback

PATHS = (BASE, f"{BASE}/")


def is_served(settings: Settings) -> bool:
    """Whether the page is served.

    It is not if it is turned off, if no audit store is in a database, and if it has no keys while the proxy listens on
    more than this machine.
    """
    console, store = settings.console, store_address(settings, None)
    allowed = console.key is not None or bool(console.keys) or is_loopback(settings.server.host)
    return console.enabled and allowed and store.partition("://")[0] in DATABASES


def console_store(settings: Settings, data_dir: str | None) -> ReviewStore | None:
    """The store that the page reads; None if the page is not served."""
    if not is_served(settings):
        return None
    return ReviewStore(store_address(settings, data_dir), keys=store_keys(settings))


def console_routes(
    store: ReviewStore,
    settings: Settings,
    data_dir: str | None,
    *,
    policies: LivePolicies,
    judging: Judging,
    stopping: Callable[[], bool],
) -> list[BaseRoute]:
    """The routes of the page. Raises ConfigError if the file of its secret cannot be read or written."""
    people = People(_people(settings.console), _secret(data_folder(data_dir)), 3600 * settings.console.session_hours)
    parts = ConsoleParts(
        store,
        people,
        lambda: policies.current,
        lambda hits, n: Rate(hits, n).interval,
        _TextBox(judging, policies),
        _names(settings),
        stopping,
    )
    console = create_console(parts)
    if people.open:
        # A page from elsewhere can read what needs no key by DNS rebinding, but its host name is not this machine's.
        visitors = Visitors(settings.server.hosts or (), settings.server.origins, loopback=True)
        return [Mount(BASE, _OwnHosts(console, visitors))]
    return [Mount(BASE, console)]


class _OwnHosts:
    """Refuses requests that name a host which is not known to be this machine's."""

    def __init__(self, app: ASGIApp, visitors: Visitors) -> None:
        self._app = app
        self._visitors = visitors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._visitors.check(scope["headers"])
        except GuardproxyError as error:
            await PlainTextResponse(f"{error}\n", error.status)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _people(settings: ConsoleSettings) -> list[Person]:
    people = [
        Person(entry.name, entry.role, (entry.hash or _digest(entry.key or "")).lower()) for entry in settings.keys
    ]
    return people if settings.key is None else [*people, Person(OPERATOR, "admin", _digest(settings.key))]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _names(settings: Settings) -> Mapping[str, str]:
    taxonomies = [settings.taxonomy, *(member.taxonomy for member in settings.members.values())]
    return {category.id: category.name for one in taxonomies if one for category in one.categories if category.name}


def _secret(folder: Path) -> str:
    """The secret that signs sessions: random, in a file that only its owner reads, the same for every worker."""
    path = folder / "console.secret"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = folder / f"console.secret.{os.getpid()}.{secrets.token_hex(4)}"
        made.touch(mode=0o600)
        made.write_text(secrets.token_urlsafe(48))
        try:
            # A link, not a rename: the first worker's file stays, and nobody ever reads one that is half written.
            os.link(made, path)
        except FileExistsError:
            pass
        finally:
            made.unlink()
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}: the reviewer's page keeps its secret there; see --data-dir"
        ) from error


class _TextBox:
    """Judges the texts of the page's text box, as the proxy judges a turn without context."""

    def __init__(self, judging: Judging, policies: LivePolicies) -> None:
        self._judging = judging
        self._policies = policies

    async def __call__(self, text: str, side: Side) -> Trial:
        """Judge a text under every policy. The verdict cache spares the guard the same work for each of them."""
        started = time.perf_counter()
        message = Message(side, (Part("text", text),))
        policies = self._policies.current.policies
        judged = {
            name: await self._judging.judgement((), message, policies[name])
            for name in sorted(policies, key=lambda name: (name != "default", name))
        }
        seen = views_of(text, (), policies["default"].views)
        first = judged["default"]
        return Trial(
            first.verdict,
            [TriedPolicy(name, one.decision, one.error) for name, one in judged.items()],
            [(view.name, view.text) for view in seen.views],
            seen.complete,
            first.unread,
            time.perf_counter() - started,
        )
