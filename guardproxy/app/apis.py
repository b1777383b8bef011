"""The guard's own APIs that a process serves, as `apis` of the configuration names them."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from guardproxy import __version__, wires
from guardproxy.app.guards import location
from guardproxy.app.kinds import is_service
from guardproxy.app.languages import languages_read
from guardproxy.app.restarts import floor_of
from guardproxy.checkapi import CHECK, Account
from guardproxy.engine.model_files import weights_of
from guardproxy.pipeline import Pipeline
from guardproxy.ports import Guard
from guardproxy.registry import load
from guardproxy.settings import GuardSettings, Settings
from guardproxy.web.apis import ApiParts, GuardApi
from guardproxy.web.bedrock import BEDROCK, BedrockApi
from guardproxy.web.checks import CheckApi
from guardproxy.web.errors import error_answer
from guardproxy.web.litellm import LITELLM, LitellmApi
from guardproxy.web.moderations import MODERATIONS, ModerationsApi
from guardproxy.web.nemo import CHECKS, NemoApi

PATHS: Mapping[str, str] = {
    "check": CHECK,
    "moderations": MODERATIONS,
    "litellm": LITELLM,
    "nemo": CHECKS,
    "bedrock": BEDROCK,
}
"""Where each API is."""


def apis_of(settings: Settings, *, alone: bool) -> tuple[str, ...]:
    """The names of the APIs: those of the configuration, or the usual ones of a proxy and of a guard alone."""
    if settings.apis is not None:
        return settings.apis
    return (CheckApi.name, ModerationsApi.name) if alone else (ModerationsApi.name,)


def floor_for(settings: Settings, *, alone: bool) -> float:
    """Below which P(unsafe) no category is read. Callers of the check API have policies that nobody knows here."""
    return 0.0 if CheckApi.name in apis_of(settings, alone=alone) else floor_of(settings)


def own_path(name: str) -> str:
    """The path of an API for `create_app`: up to its first parameter, with all paths below it."""
    return PATHS[name].partition("{")[0]


def api_routes(
    names: Collection[str], parts: ApiParts, pipeline: Pipeline, account: Callable[[], Account], *, alone: bool
) -> list[BaseRoute]:
    """The routes of the APIs. `alone`: the process is no proxy, so that its callers are the operator's own."""
    chat = load("openai_chat", wires.REGISTRY, "wire")
    openers: Mapping[str, Callable[[], GuardApi]] = {
        "check": lambda: CheckApi(parts, pipeline.growing, account, plain=alone),
        "moderations": lambda: ModerationsApi(parts),
        "litellm": lambda: LitellmApi(parts, pipeline, chat),
        "nemo": lambda: NemoApi(parts, pipeline, chat),
        "bedrock": lambda: BedrockApi(parts),
    }
    return [Route(PATHS[name], openers[name]()) for name in names]


def account(settings: Settings, guard: Guard, floor: float, data_dir: str | None) -> Account:
    """The account of a guard, which reads categories above `floor`. `data_dir` as for `members`."""
    described = [member.guard for member in settings.members.values()] or [settings.guard]
    models = tuple(one.family if is_service(one) else one.model for one in described)
    reads = languages_read(settings)
    return Account(
        guard.name,
        guard.taxonomy,
        models,
        _version(settings, described, data_dir),
        None if reads is None else tuple(sorted(reads)),
        floor,
    )


def _version(settings: Settings, described: Sequence[GuardSettings], data_dir: str | None) -> str:
    """A hash of what verdicts depend on: the models with samples of their files, their options, and how they combine.

    Number formats count as they are configured: `auto` takes the fastest one of the machine, and they differ by no more
    than rounding.
    """
    single = settings.guard
    content = [
        __version__,
        [
            (one.family, one.model, one.dtype, sorted(one.options.items()), weights_of(location(one.model, data_dir)))
            for one in described
        ],
        [repr(single.cascade), repr(single.by_language), repr(single.by_role), repr(single.mean)],
    ]
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:12]


async def nothing_else(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers what is no path of a guard that is no proxy."""
    answer = error_answer(scope["path"], 404, "not_found", f"the guard has no path {scope['path']}")
    headers = [(b"content-type", answer.content_type.encode("ascii")), (b"content-length", b"%d" % len(answer.body))]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
