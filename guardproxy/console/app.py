"""The page as an ASGI application: sign-in, roles, the token of forms, and which address shows what."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from guardproxy.console import feed, labelling, overview, record, review, signin, trying, workbench
from guardproxy.console.parts import ConsoleParts
from guardproxy.console.people import ConsoleRole
from guardproxy.console.rendering import HEADERS, STATIC, answer
from guardproxy.console.signin import give_cookie, session_of
from guardproxy.console.visits import BASE, Form, Page, Visit, address, fields_of, query_of
from guardproxy.errors import ConfigError
from guardproxy.sinks.database import FilterError

Handler = Callable[[Visit], Awaitable[Page | Response]]


class Endpoint(NamedTuple):
    """An address: what shows it, the role that it needs (None: nobody signs in), and the keys of its query."""

    path: str
    handler: Handler
    role: ConsoleRole | None = "read"
    method: str = "GET"
    keys: tuple[str, ...] = ()
    forms: tuple[Form, ...] = ("html",)


_EVERY: Final[tuple[Form, ...]] = ("html", "json", "csv")
PLACES: Final = (
    Endpoint("/", feed.home, "read"),
    Endpoint("/sign-in", signin.form, None, keys=("next",)),
    Endpoint("/sign-in", signin.sign_in, None, "POST", keys=("next",)),
    Endpoint("/sign-out", signin.sign_out, "read", "POST"),
    Endpoint("/feed", feed.feed, "read", keys=("before", "after"), forms=_EVERY),
    Endpoint("/live", feed.live, "read", keys=("last",)),
    Endpoint("/records/{name}", record.record, "read", forms=_EVERY),
    Endpoint("/records/{name}/label", labelling.label, "label", "POST"),
    Endpoint("/records/{name}/erase", labelling.erase, "admin", "POST"),
    Endpoint("/queue", review.queue, "label", keys=("before", "after", "did"), forms=_EVERY),
    Endpoint("/queue/{name}", review.item, "label", keys=("did",)),
    Endpoint("/queue/{name}/label", review.label, "label", "POST"),
    Endpoint("/queue/{name}/undo", review.undo, "label", "POST"),
    Endpoint("/workbench", workbench.workbench, "read", keys=workbench.QUERY, forms=_EVERY),
    Endpoint("/workbench/result", workbench.result, "read", keys=workbench.QUERY),
    Endpoint("/overview", overview.overview, "read", keys=overview.QUERY, forms=_EVERY),
    Endpoint("/try", trying.form, "label"),
    Endpoint("/try", trying.judge, "label", "POST"),
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
        return answer(Visit(request, parts, session_of(request, parts.people)), _problem(status, what))

    app = Starlette(routes=routes, exception_handlers={HTTPException: refused})
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


_MESSAGES: Final = {
    404: "There is no such page.",
    405: "This address does not take requests of this kind.",
}


def _endpoint(place: Endpoint, form: Form, parts: ConsoleParts) -> Callable[[Request], Awaitable[Response]]:
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
            shown = _problem(error.status_code, error.detail)
        except ConfigError as error:
            shown = _problem(503, f"The audit store cannot be read: {error}")
        response = answer(visit, shown) if isinstance(shown, Page) else shown
        give_cookie(response, visit)
        return response

    return endpoint


def _instead(place: Endpoint, visit: Visit) -> Page | Response | None:
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


def _problem(status: int, what: str) -> Page:
    return Page(
        "problem.html", {"status": status, "what": what}, lambda: {"error": what}, lambda: [["error"], [what]], status
    )
