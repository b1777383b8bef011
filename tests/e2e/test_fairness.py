"""One client with a long text beside others, at `guardproxy serve` with the embedded guard, over real sockets."""

import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.test_serve import GOOD, RECORDED, running
from tests.kit import Scripted, ScriptedUpstream, serve

WORDS = "The train to the coast leaves at noon, and many people like to walk along the river in spring. "


def post(url: str, client: str, text: str) -> tuple[httpx.Response, float]:
    """The answer to one user turn, and its seconds."""
    began = time.monotonic()
    headers = {"authorization": f"Bearer sk-{client}-0123456789abcdef"}
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=120)
    return answer, time.monotonic() - began


@pytest.mark.timeout(600)
def test_one_long_text_does_not_stop_other_clients(tmp_path: Path) -> None:
    """While 400 KB of harmless words are judged or refused, every short request of others passes, and soon.

    Soon: within ten seconds, or ten times as long as alone on a machine that is slower than that; to judge the long one
    takes far longer. It passes or is refused with 413; it is never a content block.
    """
    config = "version: 1\nguard: {threads: 1}\n"
    large: list[httpx.Response] = []
    with (
        serve(ScriptedUpstream([Scripted([RECORDED])])) as upstream,
        running(tmp_path, "--upstream", upstream, config=config, timeout_s=300.0) as url,
    ):
        alone = max(post(url, "warm", f"{GOOD} {number}")[1] for number in range(3))
        thread = threading.Thread(target=lambda: large.append(post(url, "large", WORDS * 4200)[0]))
        thread.start()
        time.sleep(0.3)
        beside = [post(url, f"other{number}", f"What is {number} times {number + 7}?") for number in range(12)]
        thread.join(120)
    assert [answer.status_code for answer, _ in beside] == [200] * 12
    assert {answer.headers["x-guardproxy-action"] for answer, _ in beside} <= {"pass", "flag"}
    assert max(seconds for _, seconds in beside) < max(10.0, 10 * alone)
    (answer,) = large
    assert (answer.status_code, answer.headers.get("x-guardproxy-action", "")) in {
        (200, "pass"),
        (200, "flag"),
        (413, ""),
    }
