"""`guardproxy serve` as a process, with a moderation service as its guard, which starts at once."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from guardproxy.families.openai_moderation import OMNI
from tests.kit import serve, until

CONFIG = """
version: 1
%s
guard:
  family: openai_moderation
  service: {key: "${env:GUARD_KEY}", url: "%s", attempts: 1}
policies:
  default: {unsafe: {block: 0.5}}
"""
BAD = "kill"


async def _judge(request: Request) -> Response:
    texts: list[str] = (await request.json())["input"]
    return JSONResponse({"results": [{"category_scores": dict.fromkeys(OMNI, float(BAD in text))} for text in texts]})


@contextmanager
def judging() -> Iterator[str]:
    """A moderation service that finds BAD unsafe; its URL."""
    with serve(Starlette(routes=[Route("/v1/moderations", _judge, methods=["POST"])])) as url:
        yield url


@contextmanager
def guarded(
    folder: Path,
    upstream: str,
    more: str,
    ready: str,
    *,
    tls: str = "",
    upstreams: str = "",
    verify: Any = True,
    cert: Any = None,
) -> Iterator["subprocess.Popen[bytes]"]:
    """A running proxy with `more` in its file, as soon as the URL `ready` answers 200. Its log is `folder`/log.

    `tls` are further options of the upstream, `upstreams` the sections in its place; `verify` and `cert` are httpx's,
    for the URL.
    """
    with judging() as judge:
        section = upstreams or f'upstream: {{url: "{upstream}", retries: {{attempts: 1}}{tls}}}'
        with serving(folder, CONFIG % (section, judge) + more, ready, verify=verify, cert=cert) as process:
            yield process


@contextmanager
def serving(
    folder: Path,
    configuration: str,
    ready: str,
    *,
    environment: Mapping[str, str] | None = None,
    verify: Any = True,
    cert: Any = None,
) -> Iterator["subprocess.Popen[bytes]"]:
    """A running proxy with this file, as soon as `ready` answers 200 and all workers are. Its log is `folder`/log."""
    (folder / "guardproxy.yaml").write_text(configuration)
    command = [sys.executable, "-m", "guardproxy", "serve", "--config", str(folder / "guardproxy.yaml")]
    command += ["--data-dir", str(folder)]
    variables = {**os.environ, **(environment or {})}
    with (folder / "log").open("wb") as output:
        # In a group of its own, so that a test can kill all of its workers at once.
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, env=variables)
        try:
            with httpx.Client(verify=verify, cert=cert, trust_env=False) as http:

                def is_ready() -> bool:
                    assert process.poll() is None, (folder / "log").read_text()
                    return answers(http, ready)

                until(is_ready, f"not ready: {folder / 'log'}", 200)
            if (workers := re.search(r"workers: (\d+)", configuration)) is not None:  # one of them has answered

                def all_are_ready() -> bool:
                    return (folder / "log").read_text().count('"event": "ready"') >= int(workers[1])

                until(all_are_ready, f"not all ready: {folder / 'log'}", 200)
            yield process
        finally:
            process.terminate()
            process.wait(60)


def answers(http: httpx.Client, url: str, status: int = 200) -> bool:
    """Whether the answer to a GET has this status."""
    try:
        return http.get(url).status_code == status
    except httpx.TransportError:
        return False
