"""The guard's own APIs that a process serves, as `apis` of the configuration names them."""

from collections.abc import Collection, Mapping

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from guardproxy.app.languages import languages_read
from guardproxy.checkapi import CHECK, Account
from guardproxy.ports import Guard
from guardproxy.settings import Settings
from guardproxy.web.apis import ApiParts, GuardApi
from guardproxy.web.checks import CheckApi
from guardproxy.web.errors import error_answer
from guardproxy.web.moderations import MODERATIONS, ModerationsApi

PATHS: Mapping[str, str] = {"check": CHECK, "moderations": MODERATIONS}
"""Where each API is."""


def apis_of(settings: Settings, *, alone: bool) -> tuple[str, ...]:
    """The names of the APIs: those of the configuration, or the usual ones of a proxy and of a guard alone."""
    if settings.apis is not None:
        return settings.apis
    return (CheckApi.name, ModerationsApi.name) if alone else (ModerationsApi.name,)


def api_routes(names: Collection[str], parts: ApiParts, account: Account, *, alone: bool) -> list[BaseRoute]:
    """The routes of the APIs. `alone`: the process is no proxy, so that its callers are the operator's own."""
    return [Route(PATHS[name], _api(name, parts, account, alone=alone)) for name in names]


def _api(name: str, parts: ApiParts, account: Account, *, alone: bool) -> GuardApi:
    if name == CheckApi.name:
        return CheckApi(parts, account, plain=alone)
    return ModerationsApi(parts)


def account(settings: Settings, guard: Guard) -> Account:
    """The guard's account of itself."""
    single = settings.guard
    described = [member.guard for member in settings.members.values()] or [single]
    models = tuple(one.family if one.service is not None else one.model for one in described)
    reads = languages_read(settings)
    return Account(guard.name, guard.taxonomy, models, None if reads is None else tuple(sorted(reads)))


async def nothing_else(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers what is no path of a guard that is no proxy."""
    answer = error_answer(scope["path"], 404, "not_found", f"the guard has no path {scope['path']}")
    headers = [(b"content-type", answer.content_type.encode("ascii")), (b"content-length", b"%d" % len(answer.body))]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
