"""One client with a long text beside others, at `guardproxy serve` with the embedded guard, over real sockets."""

import threading
from pathlib import Path

import httpx
import pytest

from tests.e2e.test_serve import GOOD, RECORDED, running
from tests.kit import Scripted, ScriptedUpstream, serve

WORDS = "The train to the coast leaves at noon, and many people like to walk along the river in spring. "


def post(url: str, client: str, text: str) -> httpx.Response:
    """The answer to one user turn."""
    headers = {"authorization": f"Bearer sk-{client}-0123456789abcdef"}
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=240)


@pytest.mark.timeout(600)
def test_one_long_text_does_not_stop_other_clients(tmp_path: Path) -> None:
    """While 400 KB of harmless words are judged or refused, every short request of others passes.

    The long one passes or is refused with 413; it is never a content block. Who waits for whom, and how long, is asked
    of the guard itself: `tests/guards/test_fairness.py`.
    """
    config = "version: 1\nguard: {model: embedded-small, threads: 1}\n"
    large: list[httpx.Response] = []
    with (
        serve(ScriptedUpstream([Scripted([RECORDED])])) as upstream,
        running(tmp_path, "--upstream", upstream, config=config) as url,
    ):
        assert post(url, "warm", GOOD).status_code == 200
        thread = threading.Thread(target=lambda: large.append(post(url, "large", WORDS * 4200)))
        thread.start()
        beside = [post(url, f"other{number}", f"What is {number} times {number + 7}?") for number in range(12)]
        thread.join(240)
    assert [answer.status_code for answer in beside] == [200] * 12
    assert {answer.headers["x-guardproxy-action"] for answer in beside} <= {"pass", "flag"}
    (answer,) = large
    assert (answer.status_code, answer.headers.get("x-guardproxy-action", "")) in {
        (200, "pass"),
        (200, "flag"),
        (413, ""),
    }
