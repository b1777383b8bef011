"""A server with chat completions, as a transport and as an application: it answers what a script says."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from guardproxy.families.gpt_oss_safeguard import open_family
from guardproxy.guards.completions.chat import ChatLink
from guardproxy.guards.http_calls import HttpCalls
from guardproxy.guards.replicas import AskOptions, ReplicaGuard
from guardproxy.questions import LabelFamily

POLICY = "# No bombs\nA text violates this policy if it asks for help with a bomb."
MODEL = "openai/gpt-oss-safeguard-20b"


def said(*categories: str, rationale: str = "It asks for a bomb.") -> str:
    """The final channel of an answer, as the guide of gpt-oss-safeguard has it."""
    return json.dumps({"violation": int(bool(categories)), "categories": categories, "rationale": rationale})


def completion(content: str | None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """An answer as vLLM gives it, with the reasoning beside the final channel."""
    own = {"role": "assistant", "content": content, "reasoning_content": "We need to check the policy.", **message}
    usage = {"prompt_tokens": 700, "completion_tokens": 90, "prompt_tokens_details": {"cached_tokens": 600}}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": finish, "message": own}],
        "usage": usage,
    }


def by_text(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a guard that finds bombs says of the text between the marks."""
    judged = body["messages"][1]["content"].split("\n<text ")[1]
    return completion(said("guns_illegal_weapons") if "bomb" in judged else said(rationale="It is about bread."))


@dataclass
class ChatServer:
    """A server. `answers` are given in order before any other; a number is a status, and a dict an answer."""

    answers: list[dict[str, Any] | int | str] = field(default_factory=list)
    model: str = MODEL
    asked: list[dict[str, Any]] = field(default_factory=list)
    authorization: list[str] = field(default_factory=list)

    def reply(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        """The status and the body of the next answer."""
        self.asked.append(dict(body))
        answer = self.answers.pop(0) if self.answers else by_text(body)
        if isinstance(answer, int):
            return answer, {"error": {"message": "no"}}
        return 200, answer

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer a request, as the network would."""
        if request.method == "GET":
            answer = httpx.Response(200, json={"object": "list", "data": [{"id": self.model}]})
        else:
            status, content = self.reply(json.loads(await request.aread()))
            text = content if isinstance(content, str) else json.dumps(content)
            answer = httpx.Response(status, content=text.encode())
        return httpx.Response(answer.status_code, headers=answer.headers, stream=httpx.ByteStream(answer.content))

    def app(self) -> Starlette:
        """The same as an application for a real port."""

        async def models(_: Request) -> JSONResponse:
            return JSONResponse({"object": "list", "data": [{"id": self.model}]})

        async def chat(request: Request) -> JSONResponse:
            self.authorization.append(request.headers.get("authorization", ""))
            status, content = self.reply(await request.json())
            return JSONResponse(content, status)

        return Starlette(routes=[Route("/v1/models", models), Route("/v1/chat/completions", chat, methods=["POST"])])


def guard_of(*servers: ChatServer, family: LabelFamily | None = None, asking: AskOptions | None = None) -> ReplicaGuard:
    """A guard whose model runs on these servers."""
    family = family or open_family(policy=POLICY)
    links = []
    for number, server in enumerate(servers):
        url = httpx.URL(f"http://server-{number}:8000")
        calls = HttpCalls(url, httpx.MockTransport(server), lambda error: isinstance(error, httpx.ConnectError))
        links.append(ChatLink(str(url), "reasoner", family, calls=calls, model=MODEL))
    asking = asking or AskOptions(timeout_s=20, attempts=2, check_every_s=60)
    return ReplicaGuard("reasoner", family.taxonomy, links, asking)


CONFIG = """\
version: 1
guards:
  reasoner:
    family: gpt_oss_safeguard
    options: {{policy: "file:policy.md"}}
    model: {model}
    runner: openai
    replicas: {{urls: ["{url}"], key: "${{env:GUARD_KEY}}", attempts: 1}}
audit: {{second_opinion: reasoner}}
policies: {{default: {{unsafe: {{block: 0.5}}}}}}
"""


def config_file(folder: Path, url: str) -> Path:
    """A configuration whose second opinions come from the server at `url`."""
    (folder / "policy.md").write_text(POLICY)
    file = folder / "guardproxy.yaml"
    file.write_text(CONFIG.format(url=url, model=MODEL))
    return file


def texts_of(bodies: Sequence[Mapping[str, Any]]) -> list[str]:
    """The user messages of calls."""
    return [body["messages"][1]["content"] for body in bodies]
