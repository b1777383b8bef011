"""`guardproxy serve` with a guard that reads images: every protocol with its client, the guard's APIs, the audit."""

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import anthropic
import httpx
import ollama
import openai
import pytest
from google import genai
from PIL.PngImagePlugin import PngInfo
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from guardproxy.cli import main
from tests.e2e.guarded import serving
from tests.kit import free_port, serve, until
from tests.pictures import Moderation, animation, data_url, encoded, picture

KEY = {"GUARD_KEY": "a-key"}
CONFIG = """
version: 1
server: {port: %d}
upstream: {url: "%s", retries: {attempts: 1}}
apis: [check, moderations, litellm, bedrock]
limits: {images: 3, image_bytes: 100000, image_pixels: 250000}
guard:
  family: openai_moderation
  reads: [text, image]
  service: {key: "${env:GUARD_KEY}", url: "%s", attempts: 1}
policies:
  default: {unsafe: {block: 0.5}}
"""
RED, GREEN = picture("red"), picture()
MESSAGE = {"role": "assistant", "content": "A field."}
ANSWERS: dict[str, Any] = {
    "/v1/chat/completions": {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
    },
    "/v1/responses": {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": "completed",
        "output": [
            {
                "id": "o",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "A field.", "annotations": []}],
            }
        ],
    },
    "/v1/messages": {
        "id": "a",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "A field."}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
    "/v1beta/models/m:generateContent": {
        "candidates": [
            {"index": 0, "content": {"role": "model", "parts": [{"text": "A field."}]}, "finishReason": "STOP"}
        ]
    },
    "/api/chat": {"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": MESSAGE, "done": True},
}


class Proxy:
    """The running proxy, the bodies that its upstream got, and the moderation service."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, ""
        self.moderation = Moderation()
        self.forwarded: list[Any] = []
        self.answers = dict(ANSWERS)

    async def upstream(self, request: Request) -> Response:
        """The upstream's answer."""
        self.forwarded.append(await request.json())
        return JSONResponse(self.answers[request.url.path.replace("/v1/models/", "/v1beta/models/")])

    def post(self, path: str, body: Any) -> httpx.Response:
        """An answer with any status."""
        return httpx.post(self.url + path, json=body, timeout=60, trust_env=False)

    def records(self, text: str) -> list[dict[str, Any]]:
        """The records of turns with this text, as they are exported; one at least."""

        def found() -> list[dict[str, Any]]:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                assert main(["audit", "export", "--data-dir", str(self.folder)]) == 0
            lines = map(json.loads, printed.getvalue().splitlines())
            return [record for record in lines if record["text"] == text]

        return cast("list[dict[str, Any]]", until(found, "no record"))

    def chat(self, *urls: str, before: Sequence[Any] = (), text: str = "hi") -> httpx.Response:
        """The answer to a user turn with images, behind earlier messages."""
        images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        turn = {"role": "user", "content": [{"type": "text", "text": text}, *images]}
        return self.post("/v1/chat/completions", {"model": "m", "messages": [*before, turn]})


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """The running proxy."""
    port = free_port()
    running = Proxy(tmp_path_factory.mktemp("images"))
    running.url = f"http://127.0.0.1:{port}"
    app = Starlette(routes=[Route("/{path:path}", running.upstream, methods=["POST"])])
    with (
        serve(app) as upstream,
        serve(running.moderation.app) as judge,
        serving(running.folder, CONFIG % (port, upstream, judge), f"{running.url}/readyz", environment=KEY),
    ):
        yield running


# --- the protocols, each with its own client: what the client reads of a picture beside a text -----------------------


def _chat(url: str, image: bytes) -> str:
    content: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": data_url(image)}},
    ]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", timeout=60, max_retries=0) as client:
        answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": content}])
        return f"{answer.choices[0].finish_reason}: {answer.choices[0].message.content}"


def _responses(url: str, image: bytes) -> str:
    content: Any = [{"type": "input_image", "image_url": data_url(image), "detail": "auto"}]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", timeout=60, max_retries=0) as client:
        answer = client.responses.create(model="m", input=[{"role": "user", "content": content}])
        return answer.output_text or str(answer.output)


def _anthropic(url: str, image: bytes) -> str:
    source: Any = {"type": "base64", "media_type": "image/png", "data": encoded(image)}
    content: Any = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
    with anthropic.Anthropic(base_url=url, api_key="k", timeout=60, max_retries=0) as client:
        answer = client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": content}])
        return f"{answer.stop_reason}: {answer.content}"


def _tool_result(url: str, image: bytes) -> str:
    source: Any = {"type": "base64", "media_type": "image/png", "data": encoded(image)}
    result: Any = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": source}]}
    call: Any = {"type": "tool_use", "id": "t", "name": "screenshot", "input": {}}
    messages: Any = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    with anthropic.Anthropic(base_url=url, api_key="k", timeout=60, max_retries=0) as client:
        return str(client.messages.create(model="m", max_tokens=9, messages=messages).content)


def _gemini(url: str, image: bytes) -> str:
    client = genai.Client(api_key="k", http_options=genai.types.HttpOptions(base_url=url, timeout=60_000))
    part = genai.types.Part.from_bytes(data=image, mime_type="image/png")
    answer = client.models.generate_content(model="m", contents=[part, "What is this?"])
    return answer.text or str(answer)


def _ollama(url: str, image: bytes) -> str:
    client = ollama.Client(host=url, timeout=60)
    message = ollama.Message(role="user", content="What is this?", images=[ollama.Image(value=image)])
    return client.chat(model="m", messages=[message]).message.content or ""


_COMMENT = PngInfo()
_COMMENT.add_text("about", "\u00fb" * 9)
CLIENTS = pytest.mark.parametrize("ask", [_chat, _responses, _anthropic, _tool_result, _gemini, _ollama])


@CLIENTS
def test_a_harmless_picture_passes_with_its_text(proxy: Proxy, ask: Callable[[str, bytes], str]) -> None:
    """The upstream gets it, and the guard has seen it, one in a call, beside the text of its turn."""
    # Another one for each client: verdicts are cached. Google's client writes it in the alphabet for URLs.
    green = picture(f"#00{sum(map(ord, ask.__name__)) % 256:02x}00", pnginfo=_COMMENT)
    assert "+" in encoded(green)
    proxy.moderation.bodies.clear()
    assert "A field." in ask(proxy.url, green)
    (shown,) = proxy.moderation.of_images
    *texts, image = shown
    assert image["image_url"]["url"] == data_url(green)
    assert [one["text"] for one in texts] == ([] if ask in (_responses, _tool_result) else ["What is this?"])


@CLIENTS
def test_a_harmful_picture_is_refused(proxy: Proxy, ask: Callable[[str, bytes], str]) -> None:
    """In the protocol's own form; the upstream gets nothing."""
    proxy.forwarded.clear()
    said = ask(proxy.url, RED)
    assert "A field." not in said
    assert not proxy.forwarded


# --- what is not read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("urls", "why"),
    [
        ([data_url(picture(f"#0000{n:02x}")) for n in range(4)], "4 images are more than the 3 of limits.images"),
        (
            [data_url(os.urandom(100_001))],
            "messages[0].content[1].image_url.url: the image has more than the 100000 bytes",
        ),
        (
            [data_url(picture("red", size=(501, 500)))],
            "the image has more than the 250000 pixels of limits.image_pixels",
        ),
    ],
)
def test_limits_refuse_the_request(proxy: Proxy, urls: list[str], why: str) -> None:
    """With 413, the place and the limit; nothing is forwarded."""
    proxy.forwarded.clear()
    answer = proxy.chat(*urls)
    assert (answer.status_code, proxy.forwarded) == (413, [])
    assert why in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:9/secret.png", "image"),
        (data_url(picture("red", "GIF")[:-20], "image/gif"), "cannot be decoded"),
        (data_url(animation(), "image/gif"), "it is animated"),
        (data_url(animation("WEBP"), "image/webp"), "it is animated"),
        (data_url(animation("PNG")), "it is animated"),
        (data_url(RED[:-30]), "cannot be decoded"),
        (data_url(RED, "image/jpeg"), "another type than its own, image/png"),
        (data_url(b"<svg/>", "image/svg+xml"), "cannot be decoded"),
        (data_url(picture("red", "BMP"), "image/bmp"), "cannot be decoded"),
        ("data:image/png;base64,!!!", "no valid base64"),
    ],
)
def test_what_is_no_whole_still_image_is_opaque(proxy: Proxy, url: str, why: str) -> None:
    """`on_opaque` decides, here that it passes with a mark; the record says why it was not judged."""
    proxy.moderation.bodies.clear()
    text = f"picture {crc32(url.encode()) % 1000}"
    answer = proxy.chat(url, text=text)
    assert (answer.status_code, answer.headers["x-guardproxy-action"]) == (200, "flag")
    assert answer.headers["x-guardproxy-coverage"] == "partial"
    assert not proxy.moderation.of_images
    (record,) = proxy.records(text)
    (image,) = [part for part in record["coverage"] if part["kind"] == "opaque"]
    assert not image["judged"]
    assert why in image["why"]


# --- turns, and what is kept of them ----------------------------------------------------------------------------------


def test_images_of_earlier_turns_are_judged(proxy: Proxy) -> None:
    """As earlier texts are: the turn is left out, and the current one is answered."""
    image = {"type": "image_url", "image_url": {"url": data_url(picture("red", size=(70, 70)))}}
    before = [{"role": "user", "content": [image]}, MESSAGE]
    proxy.forwarded.clear()
    assert proxy.chat(before=before, text="and now?").json()["choices"][0]["message"]["content"] == "A field."
    assert "base64" not in json.dumps(proxy.forwarded[-1])


def test_a_picture_of_a_reply_is_judged(proxy: Proxy) -> None:
    """Here Gemini's inline data, in a whole reply."""
    path = "/v1beta/models/m:generateContent"
    body = {"contents": [{"role": "user", "parts": [{"text": "Draw a field."}]}]}
    for image, refused in ((GREEN, False), (RED, True)):
        part = {"inlineData": {"mimeType": "image/png", "data": encoded(image)}}
        content = {"role": "model", "parts": [{"text": "Here it is."}, part]}
        proxy.answers[path] = {"candidates": [{"index": 0, "content": content, "finishReason": "STOP"}]}
        answer = proxy.post(path, body).json()
        assert (encoded(image) not in json.dumps(answer)) == refused
    proxy.answers[path] = ANSWERS[path]


def test_the_record_has_the_hash_and_not_the_picture(proxy: Proxy, capsys: pytest.CaptureFixture[str]) -> None:
    """With type, size and dimensions; `audit show` says that the image was judged and found. The log has neither."""
    image = picture("red", size=(100, 80))
    answer = proxy.chat(data_url(image), text="a picture of its own")
    assert answer.json()["choices"][0]["finish_reason"] == "content_filter"
    (record,) = proxy.records("a picture of its own")
    note = f"image/png 100x80 {len(image)} bytes sha256:{sha256(image).hexdigest()}"
    (part,) = [part for part in record["coverage"] if part["kind"] == "image"]
    assert (part["judged"], part["note"], record["verdict"]["view"]) == (True, note, "image")
    capsys.readouterr()
    assert main(["audit", "show", record["id"], "--data-dir", str(proxy.folder)]) == 0
    shown = capsys.readouterr().out
    assert f"judged: messages[0].content[1].image_url.url (user, image, {note})" in shown
    assert "sexual_content 0.9500  in the image view" in shown
    for path in (file for file in proxy.folder.rglob("*") if file.is_file()):
        assert encoded(image)[:60].encode() not in path.read_bytes()


# --- the guard's own APIs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("image", "flagged"), [(RED, True), (GREEN, False)])
def test_moderations_take_images(proxy: Proxy, image: bytes, flagged: bool) -> None:
    """With the official client; a score says whether it was found in the image."""
    parts: Any = [{"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": data_url(image)}}]
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="k", timeout=60, max_retries=0) as client:
        (result,) = client.moderations.create(input=parts).results
        assert result.flagged == flagged
        if flagged:
            assert result.category_applied_input_types.sexual == ["text", "image"]
        with pytest.raises(openai.BadRequestError, match=r"input\[1\].*animated"):
            client.moderations.create(input=[parts[0], {**parts[1], "image_url": {"url": data_url(animation("PNG"))}}])


@pytest.mark.parametrize("policy", ["", "default"])
def test_checks_take_images(proxy: Proxy, policy: str) -> None:
    """With and without a policy; an image without a text as well."""
    for image, unsafe in ((RED, 0.95), (GREEN, 0.001)):
        part = {"kind": "image", "image": {"data": encoded(image)}}
        for parts in ([part], [{"text": "hello"}, part]):
            body = {"messages": [{"role": "user", "parts": parts}], **({"policy": policy} if policy else {})}
            answer = proxy.post("/v1/check", body).json()
            assert (answer["unsafe"], answer["coverage"]) == (pytest.approx(unsafe, abs=0.001), "full")


@pytest.mark.parametrize("side", ["request", "response"])
def test_litellm_sends_images(proxy: Proxy, side: str) -> None:
    """Beside the texts, and in the messages that they were taken from."""
    for image, action in ((RED, "BLOCKED"), (GREEN, "NONE")):
        url = data_url(image)
        content = [{"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": url}}]
        body = {"input_type": side, "litellm_call_id": "1", "request_data": {}, "texts": ["hello"], "images": [url]}
        for more in ({}, {"structured_messages": [{"role": "user", "content": content}]}):
            answer = proxy.post("/beta/litellm_basic_guardrail_api", {**body, **more}).json()
            assert answer["action"] == action


def test_bedrock_s_clients_send_images(proxy: Proxy) -> None:
    """As bytes in base64, beside the texts that come back."""
    for image, action in ((RED, "GUARDRAIL_INTERVENED"), (GREEN, "NONE")):
        content = [{"text": {"text": "hello"}}, {"image": {"format": "png", "source": {"bytes": encoded(image)}}}]
        body = {"source": "INPUT", "outputScope": "FULL", "content": content}
        answer = proxy.post("/guardrail/g/version/1/apply", body).json()
        assert (answer["action"], len(answer["outputs"])) == (action, 1)
        assert answer["guardrailCoverage"]["images"] == {"guarded": 1, "total": 1}


REMOTE = """
version: 1
server: {port: %d}
upstream: {url: "%s", retries: {attempts: 1}}
guard: {family: openai_moderation, reads: [text, image], runner: http, replicas: {urls: ["%s"]}}
policies: {default: {unsafe: {block: 0.5}}}
"""


def test_a_proxy_has_its_images_judged_by_another_process(proxy: Proxy, tmp_path: Path) -> None:
    """Over the check API, with `runner: http`: here by the proxy itself, behind which stands the service."""
    port = free_port()
    second = Proxy(tmp_path)
    second.url = f"http://127.0.0.1:{port}"
    app = Starlette(routes=[Route("/{path:path}", second.upstream, methods=["POST"])])
    with (
        serve(app) as upstream,
        serving(tmp_path, REMOTE % (port, upstream, proxy.url), f"{second.url}/readyz", environment=KEY),
    ):
        assert second.chat(data_url(RED)).json()["choices"][0]["finish_reason"] == "content_filter"
        assert second.chat(data_url(GREEN)).json()["choices"][0]["message"]["content"] == "A field."
        proxy.moderation.blind = True
        try:
            assert second.chat(data_url(picture("red", size=(91, 91)))).status_code == 503
        finally:
            proxy.moderation.blind = False


def test_a_service_that_has_not_read_the_image_has_failed(proxy: Proxy) -> None:
    """A server with the same API may read the text alone."""
    proxy.moderation.blind = True
    try:
        assert proxy.chat(data_url(picture("red", size=(90, 90)))).status_code == 503
    finally:
        proxy.moderation.blind = False
