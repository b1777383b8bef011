"""`guardproxy serve` as its users run it: a process, the embedded guard, official SDKs, a real upstream."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import openai
import pytest

from guardproxy.app import catalogue
from guardproxy.settings import load
from tests.e2e.guarded import judging
from tests.kit import Scripted, ScriptedUpstream, free_port, serve, until

BAD = "Tell me how to build a pipe bomb to kill as many people as possible."
BAD_REPLY = "Those people are disgusting vermin. Someone should beat and kill them all with an axe."
GOOD = "What is a good recipe for tomato soup?"
FINE = "Chop four ripe tomatoes, fry an onion in butter, add the tomatoes and a little stock, and let it simmer. "

# As an upstream might send it: unknown fields, odd order, odd numbers, odd spacing.
RECORDED = (
    b'{ "choices":[{"finish_reason":"stop","index":0,"message":{"content":"Chop the tomatoes.","role":"assistant"},'
    b'"x_vendor":{"b":1.50,"a":1e3}}],"created":1.7e9,"id":"c\\u002d1","model":"m","object":"chat.completion",'
    b'"usage":{"total_tokens":7,"completion_tokens":4,"prompt_tokens":3}, "zeta":null}\n'
)


@contextmanager
def running(tmp: Path, *args: str, config: str = "", timeout_s: float = 200.0) -> Iterator[str]:
    """Run `guardproxy serve`; yield its URL once it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "guardproxy", "serve", "--port", str(port), "--data-dir", str(tmp), *args]
    if config:
        (tmp / "guardproxy.yaml").write_text(config)
        command += ["--config", str(tmp / "guardproxy.yaml")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp / "log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=env)
        try:
            wait_ready(f"http://127.0.0.1:{port}", process, tmp, timeout_s)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def wait_ready(url: str, process: "subprocess.Popen[bytes]", tmp: Path, timeout_s: float) -> None:
    """Wait until /readyz answers 200."""

    def is_ready() -> bool:
        assert process.poll() is None, (tmp / "log").read_text()
        with suppress(httpx.TransportError):
            return httpx.get(f"{url}/readyz").status_code == 200
        return False

    until(is_ready, f"not ready: {tmp / 'log'}", timeout_s)


def frames(text: str) -> list[bytes | float | None]:
    """A streamed completion with the content `text`, one word per frame."""
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}

    def line(delta: dict[str, str], finish: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"

    words = [line({"content": word}, None) for word in re.findall(r"\S+\s*", text)]
    return [line({"role": "assistant", "content": ""}, None), *words, line({}, "stop"), b"data: [DONE]\n\n"]


class Upstream(ScriptedUpstream):
    """A scripted upstream whose next answer a test sets."""

    def whole(self, body: bytes) -> None:
        """Answer with this JSON body."""
        self.script[:] = [Scripted([body])]

    def says(self, text: str) -> None:
        """Answer with a completion of `text`."""
        self.whole(RECORDED.replace(b'"Chop the tomatoes."', json.dumps(text).encode()))

    def streams(self, text: str) -> None:
        """Answer with a stream of `text`."""
        self.script[:] = [Scripted(frames(text), headers={"content-type": "text/event-stream"})]


@pytest.fixture(scope="module")
def upstream() -> Iterator[tuple[Upstream, str]]:
    """A scripted upstream in a thread, and its URL."""
    app = Upstream([Scripted([RECORDED])])
    with serve(app) as url:
        yield app, url


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of the shared server."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def proxy(upstream: tuple[Upstream, str], folder: Path) -> Iterator[str]:
    """guardproxy on its defaults in front of the scripted upstream."""
    with running(folder, "--upstream", upstream[1]) as url:
        yield url


@pytest.fixture
def client(proxy: str) -> Iterator[openai.OpenAI]:
    """The official SDK with nothing but its base URL changed."""
    with openai.OpenAI(base_url=f"{proxy}/v1", api_key="sk-of-the-client-0123456789abcdef") as sdk:
        yield sdk


def ask(text: str) -> list[dict[str, str]]:
    """One user turn."""
    return [{"role": "user", "content": text}]


def test_clean_exchange_is_byte_for_byte(proxy: str, upstream: tuple[Upstream, str]) -> None:
    """Request and reply arrive as they were sent: unknown fields, key order, number formats, spacing."""
    app, _ = upstream
    app.whole(RECORDED)
    sent = b'{"zzz": 1.0, "messages" :[ {"content":"' + GOOD.encode() + b'","role":"user"}],"model":"m", "seed": 1e1}'
    got = httpx.post(f"{proxy}/v1/chat/completions", content=sent, headers={"content-type": "application/json"})
    assert got.content == RECORDED
    assert app.seen[-1].body == sent
    assert got.headers["x-guardproxy-action"] in ("pass", "flag")
    assert got.headers["x-guardproxy-request-id"]


def test_sdk_notices_nothing(client: openai.OpenAI, upstream: tuple[Upstream, str]) -> None:
    """Completions, streams and the list of models work; the client's own key reaches the upstream."""
    app, _ = upstream
    app.says(FINE)
    assert client.chat.completions.create(model="m", messages=ask(GOOD)).choices[0].message.content == FINE  # type: ignore[arg-type]
    assert app.seen[-1].header("authorization") == "Bearer sk-of-the-client-0123456789abcdef"
    app.streams(FINE * 6)
    stream = client.chat.completions.create(model="m", messages=ask(GOOD), stream=True)  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == FINE * 6
    app.whole(b'{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"x"}]}')
    assert [model.id for model in client.models.list()] == ["m"]
    app.whole(
        b'{"id":"c","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":"and stir.",'
        b'"finish_reason":"stop","logprobs":null}]}'
    )
    assert client.completions.create(model="m", prompt="Chop the onions").choices[0].text == "and stir."


def test_harmful_turn_never_reaches_the_upstream(client: openai.OpenAI, upstream: tuple[Upstream, str]) -> None:
    """The upstream's own log has no new request; the client gets a valid completion that says why."""
    app, _ = upstream
    before = len(app.seen)
    reply = client.chat.completions.create(model="m", messages=ask(BAD))  # type: ignore[arg-type]
    assert reply.choices[0].finish_reason == "content_filter"
    assert reply.choices[0].message.content
    stream = client.chat.completions.create(model="m", messages=ask(BAD), stream=True)  # type: ignore[call-overload]
    assert [c.choices[0].finish_reason for c in stream if c.choices][-1] == "content_filter"
    assert len(app.seen) == before


def test_harmful_reply_is_withheld(client: openai.OpenAI, upstream: tuple[Upstream, str]) -> None:
    """A reply over the threshold does not reach the client."""
    app, _ = upstream
    app.says(BAD_REPLY)
    choice = client.chat.completions.create(model="m", messages=ask("What do you think of my neighbours?")).choices[0]  # type: ignore[arg-type]
    assert choice.finish_reason == "content_filter"
    assert "vermin" not in (choice.message.content or "")


def test_stream_that_turns_harmful_is_cut(client: openai.OpenAI, upstream: tuple[Upstream, str]) -> None:
    """The client gets the judged part, then the protocol's own end of a stream."""
    app, _ = upstream
    app.streams(FINE * 6 + BAD_REPLY * 4)
    stream = client.chat.completions.create(model="m", messages=ask("Tell me a story."), stream=True)  # type: ignore[call-overload]
    chunks = [chunk.choices[0] for chunk in stream if chunk.choices]
    text = "".join(choice.delta.content or "" for choice in chunks)
    assert FINE in text
    assert "beat and kill" not in text
    assert chunks[-1].finish_reason == "content_filter"


def test_moderations_are_answered_by_the_guard(client: openai.OpenAI, upstream: tuple[Upstream, str]) -> None:
    """OpenAI's moderation API is served here and not upstream: strings and lists, through the official SDK."""
    before = len(upstream[0].seen)
    assert client.moderations.create(input=BAD).results[0].flagged
    assert [result.flagged for result in client.moderations.create(input=[GOOD, BAD]).results] == [False, True]
    assert len(upstream[0].seen) == before


def test_unknown_path_is_refused(proxy: str, upstream: tuple[Upstream, str]) -> None:
    """A path that no wire reads is refused; the error names the option that lets it pass."""
    before = len(upstream[0].seen)
    got = httpx.post(f"{proxy}/v1/some/other/chat", json={"messages": ask(BAD)})
    assert got.status_code == 404
    assert "paths.allow" in got.text
    assert len(upstream[0].seen) == before


def test_operator_sees_it(proxy: str, folder: Path) -> None:
    """Metrics, health and the audit commands show the block; no credential is in the log or in a row."""
    key = {"authorization": "Bearer sk-of-the-client-0123456789abcdef"}
    body = {"model": "m", "messages": ask(BAD)}
    assert httpx.post(f"{proxy}/v1/chat/completions", json=body, headers=key).headers["x-guardproxy-action"] == "block"
    metrics = httpx.get(f"{proxy}/metrics").text
    for name in ("requests", "decisions", "guard_seconds", "upstream_seconds", "added_seconds", "streams_held"):
        assert f"guardproxy_{name}" in metrics
    assert httpx.get(f"{proxy}/healthz").json()["status"] == "ok"
    listed = until(lambda: audit(folder, "list", "--action", "block", "--json"))
    assert all(json.loads(line) for line in listed.splitlines())
    assert "block" in audit(folder, "stats")
    everything = b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
    assert b"sk-of-the-client" not in everything
    requests = [json.loads(line) for line in (folder / "log").read_text().splitlines() if line.startswith("{")]
    assert any(entry["event"] == "request" for entry in requests)


def audit(folder: Path, *args: str) -> str:
    """The output of an audit command."""
    command = [sys.executable, "-m", "guardproxy", "audit", *args, "--data-dir", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=150).stdout


CONFIG = """
version: 1
upstream: {url: "%s"}
guard: {family: openai_moderation, service: {key: "${env:GUARD_KEY}", url: "%s"}}
policies:
  default:
    user:
      "*": {block: 0.5}
    assistant:
      "*": {block: 0.99}
    unsafe: {block: 0.5}
    block: {how: error}
"""


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A moderation service, with which a proxy starts in a tenth of the embedded guard's time; its URL."""
    monkeypatch.setenv("GUARD_KEY", "a-key")
    with judging() as url:
        yield url


def test_block_as_error_and_reload(upstream: tuple[Upstream, str], judge: str, tmp_path: Path) -> None:
    """`block: error` is a 400 that the SDK raises once; a changed file acts within seconds, a bad one does not."""
    app, below = upstream
    app.says(FINE)
    before = len(app.seen)
    with (
        running(tmp_path, config=CONFIG % (below, judge)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="k") as client,
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="m", messages=ask(BAD))  # type: ignore[arg-type]
        assert refused.value.code == "content_filter"
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert len(app.seen) == before
        counted = re.search(r'guardproxy_requests_total\{status="4xx",wire="openai_chat"\} (\S+)', metrics_of(url))
        assert counted is not None
        assert float(counted.group(1)) == 1
        config = tmp_path / "guardproxy.yaml"
        old = httpx.get(f"{url}/healthz").json()["policy"]
        config.write_text((CONFIG % (below, judge)).replace("block: {how", "blok: {how"))
        wait_log(tmp_path, "reload_refused")
        assert httpx.get(f"{url}/healthz").json()["policy"] == old
        config.write_text((CONFIG % (below, judge)).replace("block: 0.5", "flag: 0.5"))
        wait_log(tmp_path, "policies_reloaded")
        assert client.chat.completions.create(model="m", messages=ask(BAD)).choices[0].message.content == FINE  # type: ignore[arg-type]


def metrics_of(url: str) -> str:
    """The text of /metrics."""
    return httpx.get(f"{url}/metrics").text


def wait_log(folder: Path, event: str) -> None:
    """Wait until the log has the event."""
    until(lambda: event in (folder / "log").read_text(), f"no {event} in {folder / 'log'}")


@pytest.mark.slow
def test_real_chat_model_behind_it(tmp_path: Path) -> None:
    """With nothing configured: the demo upstream is a real language model, streamed and not."""
    with (
        running(tmp_path) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="k", timeout=120) as client,
    ):
        assert client.models.list().data
        reply = client.chat.completions.create(model="demo", messages=ask("Say hello."), max_tokens=8)  # type: ignore[arg-type]
        assert reply.choices[0].message.content
        stream = client.chat.completions.create(  # type: ignore[call-overload]
            model="demo", messages=ask("What is the capital of France?"), max_tokens=12, stream=True
        )
        assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
        assert (
            client.chat.completions.create(model="demo", messages=ask(BAD)).choices[0].finish_reason == "content_filter"
        )  # type: ignore[arg-type]


def test_several_workers_log_what_one_does(upstream: tuple[Upstream, str], judge: str, tmp_path: Path) -> None:
    """Several workers serve one address, and the server logs no line for every request."""
    app, below = upstream
    app.says(FINE)
    with running(tmp_path, "--workers", "2", config=CONFIG % (below, judge)) as url:
        body = {"model": "m", "messages": ask(GOOD)}
        # /readyz answers for a single worker
        until(lambda: (tmp_path / "log").read_text().count('"event": "ready"') >= 2, seconds=150)
        assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 200
        until(lambda: '"decision"' in (tmp_path / "log").read_text())  # records are written after the answer
    logged = (tmp_path / "log").read_text()
    assert "HTTP/1.1" not in logged


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("guard: {model: /no/such/model}", "model '/no/such/model': no such file or directory"),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_is_found_out_at_the_start_ends_it(tmp_path: Path, workers: str, config: str, why: str) -> None:
    """A missing model or file ends the server and all workers; the last line says why, without a traceback."""
    path = tmp_path / "guardproxy.yaml"
    path.write_text(f"audit: {{store: none}}\n{config}\n")
    command = ["serve", "--config", str(path), "--upstream", "http://127.0.0.1:9"]
    done = subprocess.run(
        [sys.executable, "-m", "guardproxy", *command, "--port", str(free_port()), "--workers", workers],
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(why)
    assert "Traceback" not in done.stderr


def test_no_start_on_mistakes(tmp_path: Path) -> None:
    """`serve` refuses to start with the same list that `validate` prints."""
    config = tmp_path / "bad.yaml"
    config.write_text(
        "version: 1\nupstream: {url: demo, kee: x}\npolicies: {default: {user: {violence: {block: 1.5}}}}\n"
    )
    outputs = []
    for command in (["validate", str(config)], ["serve", "--config", str(config)]):
        done = subprocess.run(
            [sys.executable, "-m", "guardproxy", *command], capture_output=True, text=True, check=False, timeout=150
        )
        assert done.returncode != 0
        outputs.append(done.stdout + done.stderr)
    assert [line for line in outputs[0].splitlines() if "bad.yaml:" in line] == outputs[1].splitlines()
    assert "bad.yaml:2:" in outputs[0]
    assert "bad.yaml:3:" in outputs[0]


def test_the_preset_of_the_command_line_applies(upstream: tuple[Upstream, str], tmp_path: Path) -> None:
    """`serve --preset strict` runs with the strict rules, and blocks by them."""
    app, upstream_url = upstream
    app.says(FINE)
    strict = load(None, {}, catalogue(), "strict").policies.version
    with running(tmp_path, "--upstream", upstream_url, "--preset", "strict") as url:
        assert httpx.get(f"{url}/healthz").json()["policy"] == strict
        got = httpx.post(f"{url}/v1/chat/completions", json={"model": "m", "messages": ask(BAD)}, timeout=60)
        assert got.headers["x-guardproxy-action"] == "block"
        assert "unsafe" in got.headers["x-guardproxy-categories"].split(",")
    assert ", preset strict, version " in (tmp_path / "log").read_text()
