"""The clients of `day.py`: they hold the chats of a day with the proxy, as official clients and as plain HTTP."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import anthropic
import httpx
import openai

from bench.day_traffic import HOURS, Chat, Turn
from guardproxy.policy import BlockPolicy
from tests.conformance.speech import CHATS, PROTOCOLS, conversation, plain

REFUSAL = BlockPolicy().message
AT_ONCE = 8  # chats at the same time, in the busiest hour


@dataclass
class Day:
    """What the clients saw. `sent` are the names of the requests, `outcomes` counts their ends."""

    sent: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    stopped: bool = False


class Clients:
    """Hold chats with the proxy at `url`, and note in `day` what came back."""

    def __init__(self, url: str, day: Day) -> None:
        self._url, self._day = url, day
        self._http = httpx.AsyncClient(timeout=120)
        key = {"api_key": "unused", "timeout": 120, "max_retries": 0}
        self._openai = openai.AsyncOpenAI(base_url=f"{url}/v1", **key)
        self._anthropic = anthropic.AsyncAnthropic(base_url=url, **key)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
        await self._openai.close()
        await self._anthropic.close()

    async def hold(self, chat: Chat) -> None:
        """Send the turns of a chat one after the other, each with what was said before. An error ends the chat."""
        texts: list[str] = []
        for number, turn in enumerate(chat.turns):
            texts.append(turn.prompt.text)
            self._day.sent.append(chat.key(number))
            ask = self._by_sdk if chat.sdk else self._by_http
            try:
                answer = await ask(chat, number, turn, texts)
            except (openai.APIStatusError, anthropic.APIStatusError) as error:
                answer = None
                self._day.outcomes[f"status {error.status_code}"] += 1
            except (httpx.TransportError, openai.APIConnectionError, anthropic.APIConnectionError):
                answer = None
                self._day.outcomes["the answer broke off"] += 1
            if answer is None:
                return
            self._day.outcomes["refused" if REFUSAL in answer else "answered"] += 1
            texts.append(answer or "...")

    async def _by_http(self, chat: Chat, number: int, turn: Turn, texts: Sequence[str]) -> str | None:
        """What the assistant said, None if there is no answer to go on from."""
        path, body = _request(chat, texts)
        request = self._http.build_request(
            "POST", self._url + path, content=plain(body), headers=_headers(chat, number)
        )
        if turn.leaves == "waiting":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await self._http.send(request)
            self._day.outcomes["the client left"] += 1
            return None
        answer = await self._http.send(request, stream=True)
        try:
            if turn.leaves == "reading":
                await anext(answer.aiter_raw(), b"")
                self._day.outcomes["the client left"] += 1
                return None
            raw = await answer.aread()
        finally:
            await answer.aclose()
        if answer.status_code != 200:
            self._day.outcomes[f"status {answer.status_code}"] += 1
            return None
        if chat.protocol == "moderations":
            return ""
        if turn.breaks:
            self._day.outcomes["the answer broke off"] += 1
            return None
        return REFUSAL if REFUSAL.encode() in raw else turn.reply.text

    async def _by_sdk(self, chat: Chat, number: int, turn: Turn, texts: Sequence[str]) -> str | None:
        """The same with the official client; the answer is what its user reads."""
        _, body = _request(chat, texts)
        options: dict[str, Any] = {**body, "extra_headers": _headers(chat, number)}
        if chat.protocol == "chat":
            answer = await self._openai.chat.completions.create(**options)
            if not chat.streamed:
                return answer.choices[0].message.content or ""
            return "".join([piece.choices[0].delta.content or "" async for piece in answer])
        answer = await self._anthropic.messages.create(**options)
        if not chat.streamed:
            return "".join(block.text for block in answer.content)
        return "".join([event.delta.text async for event in answer if event.type == "content_block_delta"])


def _request(chat: Chat, texts: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Path and body of a request. The end user stands where the protocol has a place for it."""
    if chat.protocol == "moderations":
        return "/v1/moderations", {"model": chat.model, "input": texts[-1], "user": chat.user}
    protocol, name = PROTOCOLS[chat.protocol], chat.protocol.removesuffix("-array")
    path = protocol.target(chat.model, stream=chat.streamed)
    body = conversation(name, list(texts)) if name in CHATS else protocol.ask(texts[-1], chat.streamed)
    if name == "gemini":
        return path, body
    place = {
        "chat": {"user": chat.user},
        "completions": {"user": chat.user},
        "responses": {"safety_identifier": chat.user},
        "messages": {"metadata": {"user_id": chat.user}},
    }
    return path, {**body, "model": chat.model, "stream": chat.streamed, **place.get(name, {})}


def _headers(chat: Chat, number: int) -> dict[str, str]:
    own = {"x-user-id": chat.user} if chat.protocol.startswith(("gemini", "ollama")) else {}
    return {
        "authorization": f"Bearer sk-of-team-{chat.team}",
        "content-type": "application/json",
        "x-session-id": chat.session,
        "x-day": chat.key(number),
        **own,
    }


async def held(url: str, chats: Sequence[Chat], limit_s: float) -> Day:
    """Hold all chats, hour by hour, more at once in busy hours. After `limit_s` seconds no further chat begins."""
    day, started = Day(), time.monotonic()
    clients = Clients(url, day)
    for hour, of_hour in groupby(chats, key=lambda chat: chat.hour):
        queue = list(of_hour)[::-1]

        async def work(queue: list[Chat] = queue) -> None:
            while queue and time.monotonic() - started < limit_s:
                await clients.hold(queue.pop())

        await asyncio.gather(*(work() for _ in range(max(1, AT_ONCE * HOURS[hour] // max(HOURS)))))
        day.stopped |= bool(queue)
    day.seconds = time.monotonic() - started
    await clients.close()
    return day
