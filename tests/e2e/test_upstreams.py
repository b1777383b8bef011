"""`guardproxy serve` in front of two providers of which one dies, with an official SDK."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import openai
import pytest

from guardproxy.cli import main
from tests.e2e.guarded import guarded
from tests.kit import ScriptedUpstream, free_port, serve
from tests.web.kit import completion

UPSTREAMS = """
upstreams:
  first: {url: "%s", key: "${env:GUARD_KEY}", eject: {failures: 2}}
  second: {url: "%s/v1", client_key: false, models: {"*": small}}
upstream_groups: {default: {members: [first, second]}}
"""


def test_a_provider_dies_under_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every request is answered; /healthz, /metrics, the log and the records say by whom."""
    monkeypatch.setenv("GUARD_KEY", "a-key")
    first, second = ScriptedUpstream([completion("of the first")]), ScriptedUpstream([completion("of the second")])
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def ask(number: int) -> str:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="client", timeout=60) as client:
            message = {"role": "user", "content": f"hello {number}"}
            reply = client.chat.completions.create(model="large", messages=[message])  # type: ignore[list-item]
        return reply.choices[0].message.content or ""

    with ExitStack() as stack, serve(second) as at_second:
        alive = ExitStack()
        at_first = alive.enter_context(serve(first))
        sections = UPSTREAMS % (at_first, at_second)
        stack.enter_context(guarded(tmp_path, "", f"server: {{port: {port}}}\n", f"{url}/readyz", upstreams=sections))
        pool = stack.enter_context(ThreadPoolExecutor(4))
        before = Counter(pool.map(ask, range(20)))
        running = [pool.submit(ask, number) for number in range(20, 48)]
        alive.close()
        during = Counter(future.result() for future in running)
        after = Counter(pool.map(ask, range(48, 60)))
        health = httpx.get(f"{url}/healthz", trust_env=False).json()
        metrics = httpx.get(f"{url}/metrics", trust_env=False).text
    assert set(before) == {"of the first", "of the second"}
    assert (during.total(), during["of the second"] > 0) == (28, True)
    assert after == {"of the second": 12}
    assert health["upstreams"] == {"first": "down", "second": "up"}
    assert 'guardproxy_upstream_up{upstream="first"} 0.0' in metrics
    assert 'guardproxy_upstream_calls_total{result="unsent",upstream="first"}' in metrics
    assert {seen.header("authorization") for seen in first.seen} == {"Bearer a-key"}
    assert {seen.header("authorization") for seen in second.seen} == {None}
    assert {json.loads(seen.body)["model"] for seen in second.seen} == {"small"}
    log = (tmp_path / "log").read_text()
    assert "upstream_ejected" in log
    assert main(["audit", "list", "--data-dir", str(tmp_path), "--side", "assistant", "--limit", "99", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    answered = Counter(record["origin"]["upstream"] for record in records)
    told = before + during + after
    assert answered == {at_first: told["of the first"], f"{at_second}/v1": told["of the second"]}
