"""The sign-in with a key, and the cookie of the session."""

import asyncio
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from guardproxy.console.people import ConsoleSession, People
from guardproxy.console.rendering import HEADERS
from guardproxy.console.visits import BASE, Page, Visit, address

log = structlog.get_logger("guardproxy.console")

COOKIE: Final = "guardproxy_session"
_WRONG_KEY_S: Final = 1.0  # seconds that a wrong key waits for its answer, so that nobody tries many
_HOME: Final = f"{BASE}/feed"


def session_of(request: Request, people: People) -> ConsoleSession:
    """The session of a request; a new one if its cookie is missing, forged or too old."""
    cookie = request.cookies.get(COOKIE)
    return (people.session(cookie) if cookie else None) or people.new_session()


def give_cookie(response: Response, visit: Visit) -> None:
    """Give the browser its session if it has none, unless the response gives it one."""
    cookie = visit.request.cookies.get(COOKIE)
    known = cookie is not None and visit.parts.people.session(cookie) is not None
    if not known and not any(name == b"set-cookie" for name, _ in response.raw_headers):
        _set_cookie(response, visit, visit.session)


def _set_cookie(response: Response, visit: Visit, session: ConsoleSession) -> None:
    people = visit.parts.people
    response.set_cookie(
        COOKIE,
        people.cookie(session),
        max_age=int(people.session_s),
        path=BASE,
        secure=visit.request.scope["scheme"] == "https",
        httponly=True,
        samesite="strict",
    )


async def form(visit: Visit) -> Page | Response:
    """The form that asks for a key."""
    if visit.session.person is not None:
        return RedirectResponse(_next(visit), 303, HEADERS)
    return Page("signin.html", {"next": _next(visit), "wrong": False})


async def sign_in(visit: Visit) -> Page | Response:
    """Sign in with the key that the form sends."""
    person = visit.parts.people.with_key(visit.sent.get("key", "").strip())
    if person is None:
        log.warning("console_sign_in_refused")
        await asyncio.sleep(_WRONG_KEY_S)
        return Page("signin.html", {"next": _next(visit), "wrong": True}, status=403)
    log.info("console_sign_in", name=person.name, role=person.role)
    response = RedirectResponse(_next(visit), 303, HEADERS)
    _set_cookie(response, visit, visit.parts.people.new_session(person))
    return response


async def sign_out(visit: Visit) -> Response:
    """End the session in this browser."""
    response = RedirectResponse(address("/sign-in"), 303, HEADERS)
    response.delete_cookie(COOKIE, path=BASE, httponly=True, samesite="strict")
    return response


def _next(visit: Visit) -> str:
    """Where to go after the sign-in: an address of this page, never one of another server."""
    wanted = visit.value("next", _HOME)
    inside = wanted.startswith(f"{BASE}/") and wanted.isascii() and wanted.isprintable() and "\\" not in wanted
    return wanted if inside else _HOME
