"""The reviewer's page of a process: its store, its people, and the running guard for its text box."""

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from guardproxy.actions import REWRITES
from guardproxy.app.audit import store_address, store_keys
from guardproxy.app.opinions import SecondOpinions
from guardproxy.console import (
    ConsoleParts,
    People,
    Person,
    PolicyEditor,
    ReadView,
    Trial,
    Tried,
    TriedPolicy,
    create_console,
)
from guardproxy.console.visits import BASE
from guardproxy.errors import ConfigError, GuardproxyError, GuardUnavailable
from guardproxy.evaluation.metrics import Rate
from guardproxy.pipeline import Judging
from guardproxy.policy import REGENERATE, STEER, Policy
from guardproxy.ports import Guard
from guardproxy.settings import OPERATOR, ConsoleSettings, Settings
from guardproxy.sinks.database import DATABASES, ReviewStore, data_folder
from guardproxy.types import Check, Conversation, Message, Part, Side, Taxonomy, Verdict
from guardproxy.views import Views, views_of
from guardproxy.web.proxy import LivePolicies
from guardproxy.web.visitors import Visitors, is_loopback

PATHS = (BASE, f"{BASE}/")


def is_served(settings: Settings) -> bool:
    """Whether the page is served.

    It is not if it is turned off, if no audit store is in a database, and if it has no keys while its listener can be
    reached from more than this machine.
    """
    console, store = settings.console, store_address(settings, None)
    allowed = console.key is not None or bool(console.keys) or is_loopback((settings.admin or settings.server).host)
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
    judgings: Sequence[Judging],
    editor: PolicyEditor,
    stopping: Callable[[], bool],
) -> list[BaseRoute]:
    """The routes of the page. `judgings` are for its text box: that of the proxy first.

    Raises ConfigError if the file of its secret cannot be read or written.
    """
    people = People(_people(settings.console), _secret(data_folder(data_dir)), 3600 * settings.console.session_hours)
    parts = ConsoleParts(
        store,
        people,
        lambda: policies.current,
        lambda hits, n: Rate(hits, n).interval,
        _TextBox(judgings, policies),
        editor,
        # The others are for one side only, and `steer` needs a text in the file.
        rewrites=[name for name in REWRITES if name not in (STEER, REGENERATE)],
        categories=_names(judgings[0].guard.taxonomy),
        stopping=stopping,
        opinion=SecondOpinions(settings, data_dir).ask if settings.opinion else None,
    )
    console = create_console(parts)
    if people.open:
        # A page from elsewhere can read what needs no key by DNS rebinding, but its host name is not this machine's.
        visitors = own_visitors(settings, loopback=True)
        return [Mount(BASE, _OwnHosts(console, visitors))]
    return [Mount(BASE, console)]


def own_visitors(settings: Settings, *, loopback: bool) -> Visitors:
    """Who may call the listener of the operators' paths: without `admin`, whoever may call the proxy."""
    if settings.admin is None:
        hosts = settings.server.hosts or () if loopback else settings.server.hosts
        return Visitors(hosts, settings.server.origins, loopback=loopback)
    return Visitors(settings.admin.hosts or (() if loopback else None), loopback=loopback, section="admin")


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


def _names(taxonomy: Taxonomy) -> Mapping[str, str]:
    """A name for each category of a taxonomy."""
    return {category.id: category.name or category.id.replace("_", " ") for category in taxonomy.categories}


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
    """Judges the texts of the page's text box, as the proxy judges a turn without context.

    `judgings` judge with the guard that runs and with each of those that it combines.
    """

    def __init__(self, judgings: Sequence[Judging], policies: LivePolicies) -> None:
        self._judgings = judgings
        self._policies = policies

    async def __call__(self, text: str, side: Side) -> Tried:
        """Judge a text under every policy. The verdict cache spares a guard the same work for each of them."""
        policies = self._policies.current.policies
        names = sorted(policies, key=lambda name: (name != "default", name))
        message = Message(side, (Part("text", text),))
        tried = [await _trial(judging, message, [policies[name] for name in names]) for judging in self._judgings]
        seen = {name: views_of(text, (), policies[name].views) for name in names}
        forms = dict.fromkeys((view.name, view.text) for views in seen.values() for view in views.views)
        views = [
            ReadView(
                name,
                form,
                [await _verdict_alone(judging.guard, form, side) for judging in self._judgings],
                [policy for policy in names if name != "text" and not _has(seen[policy], name, form)],
            )
            for name, form in [("text", text), *forms]
        ]
        return Tried(
            [trial for trial, _ in tried],
            views,
            all(found.complete for found in seen.values()),
            any(excluded for _, excluded in tried),
        )


async def _trial(judging: Judging, message: Message, policies: Sequence[Policy]) -> tuple[Trial, bool]:
    """What a guard says of a message under each policy, and whether an exclusion covers it."""
    started = time.perf_counter()
    judged = [await judging.judgement((), message, policy) for policy in policies]
    seconds = time.perf_counter() - started
    decisions = [
        TriedPolicy(policy.name, one.decision, one.error) for policy, one in zip(policies, judged, strict=True)
    ]
    trial = Trial(judging.guard.name, judged[0].verdict, decisions, judged[0].unread, seconds)
    return trial, any(one.counted is not None for one in judged)


async def _verdict_alone(guard: Guard, text: str, side: Side) -> Verdict | None:
    """A guard's verdict on one form of a text; None if it gives none, which the trial explains."""
    try:
        return await guard.judge(Check(Conversation((Message(side, (Part("text", text),)),)), side))
    except GuardUnavailable:
        return None


def _has(views: Views, name: str, form: str) -> bool:
    return any((view.name, view.text) == (name, form) for view in views.views)
