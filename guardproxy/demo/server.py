"""The demo upstream: a small chat model behind OpenAI's chat completions and completions API.

Run it with `python -m guardproxy.demo.server --port N`. With it the proxy can be tried without any other upstream.
"""

import argparse
import asyncio
import json
import socket
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from guardproxy.demo.model import DemoLLM
from guardproxy.errors import ConfigError, TooLarge, Unreadable
from guardproxy.wires.openai_chat import wire as chat_wire

log = structlog.get_logger("guardproxy.demo")

MODEL = "smollm2-135m-instruct"
_MAX_TOKENS = 256


class Completion(Protocol):
    """An answer that is being generated: iterate for its text. Counts and `finish` are final when iteration ends."""

    prompt_tokens: int
    completion_tokens: int
    finish: Any

    def __aiter__(self) -> AsyncIterator[str]: ...


class ChatModel(Protocol):
    """A model that answers chats."""

    def stream(
        self, messages: Sequence[dict[str, str]], max_tokens: int, temperature: float | None, stop: Sequence[str]
    ) -> Completion:
        """Generate the answer to a chat. Raises TooLarge."""
        ...


class _ChatRequest:
    """The body of a chat completion or completion request. Raises Unreadable with the JSON path of a mistake."""

    def __init__(self, body: bytes, *, chat: bool) -> None:
        try:
            fields = json.loads(body)
        except ValueError as error:
            raise Unreadable(f"not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise Unreadable("must be an object")
        self.chat = chat
        self.messages = _messages(fields) if chat else [{"role": "user", "content": _text(fields, "prompt")}]
        self.stream = bool(fields.get("stream"))
        options = fields.get("stream_options")
        self.usage = isinstance(options, dict) and bool(options.get("include_usage"))
        self.temperature = fields.get("temperature")
        if self.temperature is not None and not 0 <= _number(self.temperature) <= 2:
            raise Unreadable("must be a number from 0 to 2", "temperature")
        stop = fields.get("stop") or []
        texts = [stop] if isinstance(stop, str) else stop
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise Unreadable("must be a string or a list of strings", "stop")
        self.stop = tuple(texts)
        self.max_tokens = fields.get("max_completion_tokens") or fields.get("max_tokens") or _MAX_TOKENS
        if type(self.max_tokens) is not int or self.max_tokens < 1:
            raise Unreadable("must be a positive whole number", "max_tokens")
        if fields.get("n") not in (None, 1):
            raise Unreadable("the demo model returns one choice only", "n")


def _number(value: object) -> float:
    """The value if it is a number, -1 for any other value."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else -1


def _messages(fields: Mapping[str, Any]) -> list[dict[str, str]]:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Unreadable("must be a list of messages", "messages")
    roles = {"developer": "system", "tool": "user"}
    out = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Unreadable("must be an object with a role", f"messages[{index}]")
        content = _text(message, "content", f"messages[{index}].")
        role: str = message["role"]
        out.append({"role": roles.get(role, role), "content": content})
    return out


def _text(holder: Mapping[str, Any], key: str, prefix: str = "") -> str:
    value = holder.get(key)
    if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        return "\n".join(str(part.get("text", "")) for part in value)
    if not isinstance(value, str):
        raise Unreadable("the demo model reads text only", f"{prefix}{key}")
    return value


class _AnswerFormat:
    """Writes one answer in the format of its endpoint."""

    def __init__(self, request: _ChatRequest) -> None:
        self._chat = request.chat
        prefix, kind = ("chatcmpl", "chat.completion") if request.chat else ("cmpl", "text_completion")
        self._kind = kind
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": MODEL}

    def whole(self, text: str, completion: Completion) -> bytes:
        content = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": completion.finish}
        body = {"object": self._kind, **self._head, "choices": [choice], "usage": _usage(completion)}
        return json.dumps(body).encode()

    def frame(self, text: str, finish: str | None = None, *, first: bool = False) -> bytes:
        delta = {**({"role": "assistant"} if first else {}), **({"content": text} if text or first else {})}
        content: dict[str, Any] = {"delta": delta} if self._chat else {"text": text}
        return self._event([{"index": 0, **content, "logprobs": None, "finish_reason": finish}])

    def usage(self, completion: Completion) -> bytes:
        return self._event([], usage=_usage(completion))

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        kind = "chat.completion.chunk" if self._chat else self._kind
        return b"data: " + json.dumps({"object": kind, **self._head, "choices": choices, **more}).encode() + b"\n\n"


def _usage(completion: Completion) -> dict[str, int]:
    prompt, generated = completion.prompt_tokens, completion.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


async def _events(request: _ChatRequest, completion: Completion) -> AsyncIterator[bytes]:
    answer_format = _AnswerFormat(request)
    yield answer_format.frame("", first=True)
    async for text in completion:
        yield answer_format.frame(text)
    yield answer_format.frame("", completion.finish)
    if request.usage:
        yield answer_format.usage(completion)
    yield b"data: [DONE]\n\n"


class _Endpoints:
    def __init__(self, model: ChatModel) -> None:
        self._model = model

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, chat=True)

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, chat=False)

    async def models(self, request: Request) -> Response:
        card = {"id": MODEL, "object": "model", "created": 0, "owned_by": "guardproxy-demo"}
        return _json({"object": "list", "data": [card]})

    async def _answer(self, request: Request, *, chat: bool) -> Response:
        try:
            wanted = _ChatRequest(await request.body(), chat=chat)
            completion = self._model.stream(wanted.messages, wanted.max_tokens, wanted.temperature, wanted.stop)
        except (Unreadable, TooLarge) as error:
            answer = chat_wire.error(400, error.code, str(error))
            return Response(answer.body, answer.status, media_type=answer.content_type)
        log.info(
            "demo_request",
            path=request.url.path,
            messages=len(wanted.messages),
            characters=sum(len(message["content"]) for message in wanted.messages),
            stream=wanted.stream,
        )
        if wanted.stream:
            return StreamingResponse(_events(wanted, completion), media_type="text/event-stream")
        text = "".join([piece async for piece in completion])
        return Response(_AnswerFormat(wanted).whole(text, completion), media_type="application/json")


def _json(body: Any) -> Response:
    return Response(json.dumps(body).encode(), media_type="application/json")


def demo_app(model: ChatModel) -> Starlette:
    """The demo upstream's application, for a model that has been started."""
    endpoints = _Endpoints(model)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", endpoints.chat, methods=["POST"]),
            Route("/v1/completions", endpoints.completions, methods=["POST"]),
            Route("/v1/models", endpoints.models),
        ]
    )


class _Server(uvicorn.Server):
    """Writes its URL to standard output when it accepts requests."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            sys.stdout.write(f"http://{host}:{port}\n")
            sys.stdout.flush()


async def run(host: str, port: int, *, until_stdin_closes: bool) -> None:
    """Load the model and serve it. Raises ConfigError if the extra is not installed, OSError if the port is in use."""
    with socket.create_server((host, port)) as listening:
        model = DemoLLM()
        await model.start()
        server = _Server(uvicorn.Config(demo_app(model), log_config=None, access_log=False))
        if until_stdin_closes:
            threading.Thread(target=_wait_for_end, args=(server,), daemon=True).start()
        await server.serve(sockets=[listening])
    await model.close()


def _wait_for_end(server: uvicorn.Server) -> None:
    """End the server when standard input closes, which happens however the parent process ends."""
    sys.stdin.buffer.read()
    server.should_exit = True


def main() -> None:
    """The command line of the demo upstream."""
    parser = argparse.ArgumentParser(prog="python -m guardproxy.demo.server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8081, help="0 chooses a free port")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when standard input ends")
    args = parser.parse_args()
    try:
        asyncio.run(run(args.host, args.port, until_stdin_closes=args.until_stdin_closes))
    except (ConfigError, OSError) as error:
        sys.stdout.write(f"{error}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
