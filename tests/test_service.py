"""A service built from its settings: its start, and changes of the configuration file."""

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from structlog.testing import capture_logs

from guardproxy.app import Service, read
from guardproxy.families.openai_moderation import OMNI
from tests.kit import Scripted, ScriptedUpstream, free_port, serve, until

CONFIG = """
version: 1
upstream: {url: "http://127.0.0.1:9"}
guard:
  family: openai_moderation
  service: {key: "${env:GUARD_KEY}", url: "%s", attempts: 1}
policies:
  default: {unsafe: {block: 0.5}}
audit: {store: none}
"""


class Judge:
    """A moderation service that finds "kill" unsafe; while `down`, it answers 503."""

    def __init__(self) -> None:
        self.down = False

    async def answer(self, request: Request) -> Response:
        """The scores of each text."""
        if self.down:
            return Response(status_code=503)
        texts: list[str] = (await request.json())["input"]
        results = [{"category_scores": dict.fromkeys(OMNI, 0.9 if "kill" in text else 0.1)} for text in texts]
        return JSONResponse({"results": results})


@pytest.fixture
def judge() -> Judge:
    """The moderation service behind the guard."""
    return Judge()


@pytest.fixture
def config(judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A configuration whose guard is the moderation service."""
    monkeypatch.setenv("GUARD_KEY", "a-key")
    with serve(Starlette(routes=[Route("/v1/moderations", judge.answer, methods=["POST"])])) as url:
        path = tmp_path / "guardproxy.yaml"
        path.write_text(CONFIG % url)
        yield path


# Seconds between two looks at the configuration file, where a test waits for them.
LOOK_S = 0.05


def is_ready(url: str) -> bool:
    """Whether /readyz answers 200."""
    return httpx.get(f"{url}/readyz").status_code == 200


def in_force(url: str) -> str:
    """The version of the policies in force."""
    version: str = httpx.get(f"{url}/healthz").json()["policy"]
    return version


def put(path: Path, text: str) -> None:
    """Give a file a new content at once: a look at it never finds half of it."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def changed(path: Path) -> str:
    """Change the threshold in the file; return the new version."""
    put(path, path.read_text().replace("block: 0.5", "block: 0.25"))
    return read(str(path), None).file.version


def test_a_guard_that_comes_back_makes_it_ready(judge: Judge, config: Path) -> None:
    """If the service is down at the start, the proxy becomes ready as soon as it comes back."""
    judge.down = True
    source = read(str(config), None)
    with serve(Service(source.file, source, canaries_s=0.1).app) as url:
        until(lambda: "cannot judge" in httpx.get(f"{url}/readyz").json()["status"])
        judge.down = False
        until(lambda: is_ready(url))


def test_a_store_that_cannot_be_opened_stops_the_start(config: Path, tmp_path: Path) -> None:
    """`serve` ends with status 1 and the reason; it does not serve without the audit that was asked for."""
    (tmp_path / "folder").mkdir()
    config.write_text(config.read_text().replace("store: none", f"store: 'sqlite:///{tmp_path}/folder'"))
    command = [sys.executable, "-m", "guardproxy", "serve", "--config", str(config), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 1
    assert "audit sink 'store' cannot be opened" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("allowed", [False, True])
def test_headers_of_the_upstream_that_the_file_allows(config: Path, allowed: bool) -> None:
    """A header with a text leaves with a judged reply only if `upstream.response_headers` names it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}
    headers = {"content-type": "application/json", "x-note": "some words of text"}
    upstream = ScriptedUpstream([Scripted([json.dumps({"choices": [choice]}).encode()], headers=headers)])
    with serve(upstream) as below:
        names = ", response_headers: [x-note]" if allowed else ""
        config.write_text(config.read_text().replace('"http://127.0.0.1:9"', f'"{below}"{names}'))
        source = read(str(config), None)
        with serve(Service(source.file, source, look_s=LOOK_S).app) as url:
            until(lambda: is_ready(url))
            chat = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
            answer = httpx.post(f"{url}/v1/chat/completions", json=chat)
    assert (answer.status_code, "x-note" in answer.headers) == (200, allowed)


def test_a_change_while_it_loads_is_taken_up(config: Path) -> None:
    """A change of the file during the start is applied after it."""
    source = read(str(config), None)
    new = changed(config)
    assert new != source.file.version
    with serve(Service(source.file, source, look_s=LOOK_S).app) as url:
        until(lambda: in_force(url) == new)


@pytest.mark.parametrize("mistake", ["lgo: 1", "routes: [{name: a, policy: b}]", "\x00"])
def test_a_mistake_while_it_loads_does_not_end_the_watching(config: Path, mistake: str) -> None:
    """A file with mistakes leaves the old policies in force; a later valid file is applied."""
    good = config.read_text()
    source = read(str(config), None)
    put(config, f"{good}\n{mistake}\n")
    with serve(Service(source.file, source, look_s=LOOK_S).app) as url:
        until(lambda: is_ready(url))
        until(lambda: not httpx.get(f"{url}/healthz").json()["reload"]["in_force"])
        assert in_force(url) == source.file.version
        put(config, good)
        new = changed(config)
        until(lambda: in_force(url) == new)


ROUTED = """routes:
  - {name: kids, policy: strict, when: {header: {x-team: kids}}}
"""


def test_a_calibration_is_reloaded_with_the_policies(config: Path) -> None:
    """A changed calibration acts without a restart; other changes of the guard still need one."""
    source = read(str(config), None)
    text = {"input": "kill it"}
    with serve(Service(source.file, source, look_s=LOOK_S).app) as url, capture_logs() as logs:
        until(lambda: is_ready(url))
        before = httpx.post(f"{url}/v1/moderations", json=text).json()["results"][0]
        assert before["category_scores"]["unsafe"] == 0.9
        calibration = "  calibration: {user: {unsafe: {slope: 1, shift: -3}}}\n"
        put(config, config.read_text().replace("guard:\n", f"guard:\n{calibration}"))
        until(lambda: in_force(url) == read(str(config), None).file.version)
        after = httpx.post(f"{url}/v1/moderations", json=text).json()["results"][0]
        assert after["category_scores"]["unsafe"] < 0.5
        put(config, config.read_text().replace("guard:\n", "guard:\n  timeout_s: 7\n"))
        until(lambda: any(line["event"] == "reload_refused" for line in logs))
        assert any(
            "changes of guard.timeout_s need a restart, and the policies of the file wait"
            in line.get("problems", [""])[0]
            for line in logs
        )


def test_policies_are_applied_and_the_rest_waits_for_a_restart(config: Path) -> None:
    """/healthz, the log and the metrics name the changed keys, until the file has the running values again."""
    before = config.read_text() + "server: {grace_s: 20}\nlog: {level: info}\n"
    put(config, before)
    source = read(str(config), None)
    with serve(Service(source.file, source, look_s=LOOK_S).app) as url, capture_logs() as logs:
        until(lambda: is_ready(url))
        changes = {"block: 0.5": "block: 0.25", ":9": ":8", "grace_s: 20": "grace_s: 7", "level: info": "level: debug"}
        after = before
        for old, new in changes.items():
            after = after.replace(old, new)
        put(config, after)
        until(lambda: in_force(url) == read(str(config), None).file.version)
        keys = ["server.grace_s", "upstream.url", "log.level"]
        assert httpx.get(f"{url}/healthz").json()["restart_needed"] == keys
        until(lambda: [list(line["keys"]) for line in logs if line["event"] == "restart_needed"] == [keys])
        metrics = httpx.get(f"{url}/metrics").text
        assert "guardproxy_config_restart_needed 3.0\n" in metrics
        assert 'guardproxy_config_restart_needed_info{key="upstream.url"} 1.0\n' in metrics
        put(config, before)
        until(lambda: in_force(url) == source.file.version)
        assert httpx.get(f"{url}/healthz").json()["restart_needed"] == []
        assert "guardproxy_config_restart_needed_info{" not in httpx.get(f"{url}/metrics").text


def test_a_refused_file_is_told_until_it_is_mended(config: Path) -> None:
    """/healthz has the file, the line and the column of the mistake, and the metrics count it."""
    source = read(str(config), None)
    before = config.read_text()
    with serve(Service(source.file, source, look_s=LOOK_S).app) as url:
        until(lambda: is_ready(url))
        put(config, before.replace("{block: 0.5}", "{blok: 0.5}"))
        until(lambda: not httpx.get(f"{url}/healthz").json()["reload"]["in_force"])
        problem = f"{config}:8:22: policies.default.unsafe.blok: unknown key; did you mean block?"
        assert httpx.get(f"{url}/healthz").json()["reload"]["problems"] == [problem]
        metrics = httpx.get(f"{url}/metrics").text
        assert 'guardproxy_config_reloads_total{result="refused"} 1.0\n' in metrics
        assert "guardproxy_config_last_reload_successful 0.0\n" in metrics
        put(config, before)
        until(lambda: httpx.get(f"{url}/healthz").json()["reload"]["in_force"])
        metrics = httpx.get(f"{url}/metrics").text
        assert "guardproxy_config_last_reload_successful 1.0\n" in metrics
        assert in_force(url) == source.file.version


def test_keys_are_reloaded_with_the_policies(config: Path) -> None:
    """Clients that come and keys that go take effect without a restart, also for moderations."""
    source = read(str(config), None)
    section = f"clients: {{red: {{keys: [{{sha256: {sha256(b'k').hexdigest()}}}]}}}}\n"
    text, key = {"input": "hello"}, {"authorization": "Bearer k"}
    with serve(Service(source.file, source, look_s=LOOK_S).app) as url:
        until(lambda: is_ready(url))
        assert httpx.post(f"{url}/v1/moderations", json=text).status_code == 200
        put(config, config.read_text() + section)
        until(lambda: httpx.post(f"{url}/v1/moderations", json=text).status_code == 401)
        assert httpx.post(f"{url}/v1/moderations", json=text, headers=key).status_code == 200
        put(config, config.read_text().replace(sha256(b"k").hexdigest(), sha256(b"new").hexdigest()))
        until(lambda: httpx.post(f"{url}/v1/moderations", json=text, headers=key).status_code == 401)


@pytest.mark.parametrize("rest", ["", "# nothing\n", "version: 1\n", "version: 1\npolicies:\n"])
def test_a_file_that_has_lost_its_policies_is_refused(config: Path, rest: str) -> None:
    """A file without its policies does not bring the built-in policy into force."""
    source = read(str(config), None)
    with serve(Service(source.file, source, look_s=LOOK_S).app) as url, capture_logs() as logs:
        until(lambda: is_ready(url))
        put(config, rest)
        until(lambda: any(line["event"] == "reload_refused" for line in logs))
        assert in_force(url) == source.file.version


def test_a_file_that_has_lost_its_routes_is_refused(config: Path) -> None:
    """Routes end by an empty list; a file in which they are missing may be half-written."""
    without = config.read_text()
    two = without.replace("default: {unsafe", "strict: {unsafe: {block: 0.1}}\n  default: {unsafe")
    put(config, two + ROUTED)
    source = read(str(config), None)
    with serve(Service(source.file, source, look_s=LOOK_S).app) as url, capture_logs() as logs:
        until(lambda: is_ready(url))
        put(config, without)
        until(lambda: any("routes: was in the file and is missing" in str(line.get("problems")) for line in logs))
        assert in_force(url) == source.file.version
        put(config, without + "routes: []\n")
        until(lambda: in_force(url) == read(str(config), None).file.version)


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_file_does_not_start(tmp_path: Path, text: str) -> None:
    """The command refuses an empty file; it does not serve with the built-in policy."""
    path = tmp_path / "guardproxy.yaml"
    path.write_text(text)
    command = [sys.executable, "-m", "guardproxy", "serve", "--port", "0", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode != 0
    assert "the file has no settings" in done.stderr


SERVER = """
paths: {allow: ["GET /v1/models"]}
server: {hosts: [guard.example], origins: ["https://app.example.com"]}
"""


def test_the_command_serves_without_trailers_and_foreign_pages(config: Path, tmp_path: Path) -> None:
    """`guardproxy serve` as a process: trailers are no headers; other hosts and origins are refused."""
    scripted = ScriptedUpstream([Scripted([b"{}"])])
    with serve(scripted) as upstream:
        text = config.read_text().replace("http://127.0.0.1:9", upstream)
        text = text.replace("default: {unsafe", "lax: {unsafe: {flag: 0.5}}\n  default: {unsafe")
        config.write_text(text + SERVER + ROUTED.replace("strict", "lax"))
        with started(config, tmp_path) as url, httpx.Client(trust_env=False, timeout=60) as http:
            body = b'{"model": "m", "messages": [{"role": "user", "content": "kill"}]}'
            request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n"
            request += b"connection: close\r\n\r\n%x\r\n%s\r\n0\r\nx-team: kids\r\n\r\n" % (len(body), body)
            assert b"x-guardproxy-action: block" in exchanged(url, request)
            passed = http.post(url + "/v1/chat/completions", content=body, headers={"x-team": "kids"})
            assert passed.headers["x-guardproxy-action"] == "flag"
            for headers, status in (
                ({"host": "evil.example"}, 421),
                ({"host": "guard.example"}, 200),
                ({"origin": "https://evil.example"}, 403),
                ({"origin": "https://app.example.com"}, 200),
            ):
                assert http.get(url + "/v1/models", headers=headers).status_code == status
    assert len(scripted.seen) == 3


def exchanged(url: str, request: bytes) -> bytes:
    """The answer to raw bytes."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


@contextmanager
def started(config: Path, folder: Path) -> Iterator[str]:
    """Run `guardproxy serve` with a configuration; yield its URL once it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "guardproxy", "serve", "--port", str(port), "--config", str(config)]
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            url = f"http://127.0.0.1:{port}"

            def ready() -> bool:
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    return is_ready(url)
                except httpx.TransportError:
                    return False

            until(ready, seconds=200)
            yield url
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.gguf", lambda data: data[:100_000], "model.gguf is damaged"),
        (
            "config.json",
            lambda data: data.replace(b'"num_hidden_layers": 6', b'"num_hidden_layers": null'),
            "TypeError",
        ),
    ],
)
def test_a_start_that_breaks_is_told(tmp_path: Path, name: str, damage: Callable[[bytes], bytes], message: str) -> None:
    """Damaged model files end the start with a message, whatever exception they cause."""
    folder = tmp_path / "model"
    shutil.copytree(str(files("guardproxy") / "weights" / "embedded" / "small"), folder)
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    path = tmp_path / "guardproxy.yaml"
    path.write_text(f'guard: {{model: "{folder}"}}\nupstream: {{url: "http://127.0.0.1:9"}}\naudit: {{store: none}}\n')
    source = read(str(path), None)
    failed = threading.Event()
    service = Service(source.file, source, failed.set)
    with serve(service.app) as url:
        assert failed.wait(100)
        assert "start failed" in httpx.get(f"{url}/readyz").json()["status"]
    assert message in str(service.failure)


def test_the_model_for_many_languages_is_looked_for_in_the_data_directory(tmp_path: Path) -> None:
    """Without its weights, the start fails, names the folder in `--data-dir` and says how to make them."""
    path = tmp_path / "guardproxy.yaml"
    path.write_text(
        'guard: {model: embedded-multilingual}\nupstream: {url: "http://127.0.0.1:9"}\naudit: {store: none}\n'
    )
    source = read(str(path), str(tmp_path / "data"))
    failed = threading.Event()
    service = Service(source.file, source, failed.set)
    with serve(service.app):
        assert failed.wait(100)
    assert f"model '{tmp_path / 'data' / 'embedded-multilingual'}'" in str(service.failure)
    assert "run `make train-multilingual`" in str(service.failure)


def test_the_apis_of_the_guard_that_the_file_names(config: Path) -> None:
    """The proxy serves these, `moderations` without the section, and refuses the paths of others."""
    check = {"messages": [{"role": "user", "parts": [{"text": "kill"}]}], "policy": "default"}
    apply = {"source": "INPUT", "content": [{"text": {"text": "kill"}}]}

    def statuses(text: str) -> list[int]:
        config.write_text(text)
        source = read(str(config), None)
        with serve(Service(source.file, source).app) as url:
            until(lambda: is_ready(url))
            paths = {
                "/v1/check": check,
                "/guardrail/g/version/1/apply": apply,
                "/guardrail/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Aguardrail%2Fg/version/DRAFT/apply": apply,
                "/v1/checks": {"messages": [{"role": "user", "content": "kill"}]},
                "/v1/moderations": {"input": "kill"},
            }
            return [httpx.post(f"{url}{path}", json=body, timeout=60).status_code for path, body in paths.items()]

    text = config.read_text()
    assert statuses(text) == [404, 404, 404, 404, 200]
    assert statuses(text + "apis: [check, bedrock, nemo]\n") == [200, 200, 200, 200, 404]
