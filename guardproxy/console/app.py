"""The page as an ASGI application: sign-in, roles, the token of forms, and which address shows what."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from guardproxy.console import excluding, feed, keeping, labelling, overview, record, review, signin, trying, workbench
from guardproxy.console.parts import ConsoleParts
from guardproxy.console.people import ConsoleRole
from guardproxy.console.rendering import HEADERS, STATIC, answer
from guardproxy.console.signin import give_cookie, session_of
from guardproxy.console.visits import BASE, Form, Page, Visit, address, fields_of, query_of
from guardproxy.errors import ConfigError
from guardproxy.sinks.database import FilterError

log = structlog.get_logger("guardproxy.console")

Handler = Callable[[Visit], Awaitable[Page | Response]]


class Place(NamedTuple):
    """An address: what shows it, the role that it needs (None: nobody signs in), and the keys of its query."""

    path: str
    handler: Handler
    role: ConsoleRole | None = "read"
    method: str = "GET"
    keys: tuple[str, ...] = ()
    forms: tuple[Form, ...] = ("html",)


_EVERY: Final[tuple[Form, ...]] = ("html", "json", "csv")
PLACES: Final = (
    Place("/", feed.home, "read"),
    Place("/sign-in", signin.form, None, keys=("next",)),
    Place("/sign-in", signin.sign_in, None, "POST", keys=("next",)),
    Place("/sign-out", signin.sign_out, "read", "POST"),
    Place("/feed", feed.feed, "read", keys=("before", "after"), forms=_EVERY),
    Place("/live", feed.live, "read", keys=("last",)),
    Place("/records/{name}", record.record, "read", forms=_EVERY),
    Place("/records/{name}/label", labelling.label, "label", "POST"),
    Place("/records/{name}/exclude", excluding.exclude, "label", "POST"),
    Place("/records/{name}/erase", labelling.erase, "admin", "POST"),
    Place("/records/{name}/second-opinion", labelling.second_opinion, "label", "POST"),
    Place("/exclusions", excluding.exclusions, "read", keys=("ended", "start"), forms=_EVERY),
    Place("/exclusions/{name}/end", excluding.end, "label", "POST"),
    Place("/queue", review.queue, "label", keys=("before", "after", *review.DONE), forms=_EVERY),
    Place("/queue/{name}", review.item, "label", keys=review.DONE),
    Place("/queue/{name}/label", review.label, "label", "POST"),
    Place("/queue/{name}/exclude", review.exclude, "label", "POST"),
    Place("/queue/{name}/undo", review.undo, "label", "POST", keys=review.DONE),
    Place("/workbench", workbench.workbench, "read", keys=workbench.QUERY, forms=_EVERY),
    Place("/workbench/result", workbench.result, "read", keys=workbench.QUERY),
    Place("/workbench/save", workbench.save, "admin", "POST", keys=workbench.QUERY),
    Place("/overview", overview.overview, "read", keys=overview.QUERY, forms=_EVERY),
    Place("/try", trying.form, "label"),
    Place("/try", trying.judge, "label", "POST"),
    Place("/store", keeping.store, "admin", keys=keeping.QUERY),
    Place("/store/verify", keeping.verify, "admin", "POST"),
    Place("/store/erase", keeping.erase, "admin", "POST"),
)


def create_console(parts: ConsoleParts) -> ASGIApp:
    """The application, for the paths below `BASE` with that prefix removed."""
    routes: list[BaseRoute] = []
    for place in PLACES:
        for form in place.forms:
            path = place.path if form == "html" else f"{place.path}.{form}"
            routes.append(Route(path, _endpoint(place, form, parts), methods=[place.method]))
    # `/records/x.json` fits `/records/{name}` as well, so the forms with a suffix come first.
    routes.sort(key=lambda route: not str(getattr(route, "path", "")).endswith((".json", ".csv")))

    async def refused(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        what = _MESSAGES.get(status, str(getattr(error, "detail", "")))
        visit = Visit(request, parts, session_of(request, parts.people))
        return await asyncio.to_thread(answer, visit, _problem(status, what))

    app = Starlette(routes=routes, exception_handlers={HTTPException: refused})
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


_MESSAGES: Final = {
    404: "There is no such page.",
    405: "This address does not take requests of this kind.",
}


def _endpoint(place: Place, form: Form, parts: ConsoleParts) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        visit = Visit(request, parts, session_of(request, parts.people), form)
        try:
            query = query_of(request, place.keys)
            sent = await fields_of(request) if place.method == "POST" else {}
            visit = replace(visit, query=query, sent=sent)
            shown = _instead(place, visit) or await place.handler(visit)
        except FilterError as error:
            shown = _problem(400, f"The filter cannot be used: {error}")
        except HTTPException as error:
            shown = _problem(error.status_code, error.detail, _back(request))
        except (ConfigError, SQLAlchemyError, OSError) as error:
            log.error("console_store_failed", error=str(error))
            shown = _problem(503, "The audit store cannot be used at the moment; the log says why. Try again later.")
        # On a thread: the first visit of a page compiles its template, which takes up to 0.1 s.
        response = await asyncio.to_thread(answer, visit, shown) if isinstance(shown, Page) else shown
        give_cookie(response, visit)
        return response

    return endpoint


def _instead(place: Place, visit: Visit) -> Page | Response | None:
    """What to answer instead, None if the visit is allowed: the sign-in, or a refusal for the role or the token."""
    if place.method == "POST" and not visit.parts.people.holds(visit.session, visit.sent.get("token", "")):
        return _problem(403, "This form is too old, or another page sent it. Load the page again, then repeat.")
    if place.role is None:
        return None
    if visit.session.person is None:
        if visit.form != "html" or place.method != "GET":
            return _problem(401, "Sign in first: your session has ended, or there was none.")
        path = visit.request.scope["path"].removeprefix(BASE)
        return RedirectResponse(address("/sign-in", next=address(path, visit.query)), 303, HEADERS)
    if not visit.person.may(place.role):
        return _problem(
            403, f"This needs the role {place.role}; yours is {visit.person.role}. An operator can change it."
        )
    return None


def _problem(status: int, what: str, back: str = "") -> Page:
    values = {"status": status, "what": what, "back": back}
    return Page("problem.html", values, lambda: {"error": what}, lambda: [["error"], [what]], status)


def _back(request: Request) -> str:
    """The page from which a form was sent, to repeat it; empty if it is none of this page."""
    sent = urlsplit(request.headers.get("referer", ""))
    inside = request.method == "POST" and sent.netloc == request.url.netloc and sent.path.startswith(f"{BASE}/")
    return f"{sent.path}?{sent.query}" if inside and sent.query else sent.path if inside else ""
