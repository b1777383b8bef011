"""Templates, and the headers that keep a page to itself: nothing from elsewhere, no script inside of the page."""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response

from guardproxy.console import shown
from guardproxy.console.visits import BASE, Page, Visit, address
from guardproxy.plaintext import csv_line

STATIC: Final = Path(str(files("guardproxy.console") / "static"))
_TEMPLATES: Final = Path(str(files("guardproxy.console") / "templates"))

HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    # Not `no-referrer`: a browser then sends forms with `Origin: null`, which the check of origins refuses.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@cache
def environment() -> Environment:
    """The templates. Every value is escaped, and a missing one is an error."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(base=BASE, address=address, zone=shown.zone)
    for name in ("moment", "machine_time", "chance", "share", "seconds", "excerpt", "plain", "pieces", "worst_reasons"):
        made.filters[name] = getattr(shown, name)
    return made


def rendered(template: str, **values: Any) -> str:
    """A template with its values. Lone surrogates of a record become a question mark: no encoding has them."""
    text = environment().get_template(template).render(**values)
    return text.encode("utf-8", "replace").decode()


def answer(visit: Visit, page: Page) -> Response:
    """A page in the form that the visit asks for."""
    if visit.form == "json":
        text = json.dumps(page.data(), indent=1) + "\n"
        return Response(text, page.status, HEADERS, "application/json")
    if visit.form == "csv":
        name = page.template.removesuffix(".html")
        headers = {**HEADERS, "content-disposition": f'attachment; filename="guardproxy-{name}.csv"'}
        return Response("".join(f"{csv_line(row)}\r\n" for row in page.table()), page.status, headers, "text/csv")
    person = visit.session.person
    shared = {
        "person": person,
        "token": visit.parts.people.token(visit.session),
        "open_to_all": visit.parts.people.open,
        "here": page.template.removesuffix(".html"),
        "query": visit.query,
        "path": visit.request.scope["path"],
    }
    return Response(rendered(page.template, **{**shared, **page.values}), page.status, HEADERS, "text/html")
