"""A route with `overlap` calls the upstream while the request is judged; the reply waits, a block cancels the call."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from guardproxy.errors import GuardUnavailable
from guardproxy.policy import PolicySet, Route
from guardproxy.types import Check, Verdict
from tests.kit import WORDS, Scripted, ScriptedUpstream, WordGuard
from tests.web.kit import chat, completion, events, policy, standing

CHAT = "/v1/chat/completions"


class GatedGuard(WordGuard):
    """A guard that judges user turns only after `open` is set."""

    def __init__(self) -> None:
        super().__init__(WORDS)
        self.began, self.open = threading.Event(), threading.Event()

    async def judge(self, check: Check) -> Verdict:
        """The verdict of the WordGuard."""
        self.began.set()
        if check.side == "user":
            await asyncio.to_thread(self.open.wait, 30)
        if "BROKEN" in check.turn.text:
            raise GuardUnavailable("told to fail")
        return await super().judge(check)


@contextmanager
def overlapping(answer: Scripted, *, overlap: bool = True) -> Iterator[tuple[str, ScriptedUpstream, GatedGuard]]:
    """A proxy with such a route."""
    policies = PolicySet({"default": policy()}, (Route("fast", "default", overlap=overlap),))
    guard = GatedGuard()
    with standing(answer, policies=policies, guard=guard) as (url, upstream):
        yield url, upstream, guard


def ask(url: str, text: str, **more: Any) -> tuple[threading.Thread, list[httpx.Response]]:
    """Send a request beside the test; the list gets its answer."""
    answers: list[httpx.Response] = []
    body = chat(text, **more)
    thread = threading.Thread(target=lambda: answers.append(httpx.post(url + CHAT, content=body, timeout=60)))
    thread.start()
    return thread, answers


def wait(condition: Any) -> None:
    """Wait until a condition holds, at most 30 seconds."""
    done = threading.Event()
    for _ in range(3000):
        if condition():
            return
        done.wait(0.01)
    raise AssertionError("it did not happen")


@pytest.mark.parametrize("streamed", [False, True])
def test_the_upstream_is_called_before_the_verdict(streamed: bool) -> None:
    """Once, with the request as it came; nothing of the reply leaves before the verdict; the saved time is named."""
    with overlapping(events("fine") if streamed else completion("fine")) as (url, upstream, guard):
        thread, answers = ask(url, "hello", stream=streamed)
        wait(lambda: upstream.seen)
        assert answers == []
        guard.open.set()
        thread.join(30)
        (answer,) = answers
        assert "fine" in answer.text
        assert answer.headers["x-guardproxy-action"] == "pass"
        assert [seen.body for seen in upstream.seen] == [chat("hello", stream=streamed)]
        assert _times(answer)["overlap"] > 0


@pytest.mark.parametrize("streamed", [False, True])
def test_a_block_cancels_the_call(streamed: bool) -> None:
    """The connection to the upstream is closed, and the client gets the refusal."""
    slow = Scripted([b"data: {", *[0.2] * 300, b"}"], headers={"content-type": "text/event-stream"})
    with overlapping(slow) as (url, upstream, guard):
        thread, answers = ask(url, "poison", stream=streamed)
        wait(lambda: upstream.seen)
        guard.open.set()
        thread.join(30)
        (answer,) = answers
        assert answer.headers["x-guardproxy-action"] == "block"
        assert "withheld" in answer.text
        assert "overlap" not in _times(answer)
        wait(upstream.left.is_set)
        assert len(upstream.seen) == 1


def test_a_block_while_the_upstream_has_not_answered() -> None:
    """An upstream that has the request and says nothing yet is left as well."""
    with overlapping(Scripted([60.0])) as (url, upstream, guard):
        thread, answers = ask(url, "poison")
        wait(lambda: upstream.seen)
        guard.open.set()
        thread.join(30)
        assert answers[0].headers["x-guardproxy-action"] == "block"
        wait(upstream.left.is_set)


def test_a_rewritten_request_is_sent_again() -> None:
    """The early call had the text as it came; its answer is dropped, and the new text gets an answer of its own."""
    with overlapping(completion("fine")) as (url, upstream, guard):
        thread, answers = ask(url, "a secret")
        wait(lambda: upstream.seen)
        guard.open.set()
        thread.join(30)
        assert answers[0].headers["x-guardproxy-action"] == "rewrite"
        assert ["secret" in seen.body.decode() for seen in upstream.seen] == [True, False]
        assert "overlap" not in _times(answers[0])


def test_a_guard_that_fails_lets_nothing_out() -> None:
    """Also if the reply is there already."""
    with overlapping(completion("the answer")) as (url, upstream, guard):
        thread, answers = ask(url, "BROKEN")
        wait(lambda: upstream.seen)
        guard.open.set()
        thread.join(30)
        assert "the answer" not in answers[0].text


def test_an_early_failure_of_the_upstream_is_told_after_the_verdict() -> None:
    """With the usual error if the request passes, not at all if it is refused."""
    broken = Scripted([b'{"error": {"message": "no such model"}}'], status=404)
    with overlapping(broken) as (url, _, guard):
        guard.open.set()
        for text, status in (("hello", 404), ("poison", 200)):
            thread, answers = ask(url, text)
            thread.join(30)
            assert answers[0].status_code == status


def test_it_is_off_by_default() -> None:
    """Without `overlap` the upstream hears nothing before the verdict."""
    with overlapping(completion("fine"), overlap=False) as (url, upstream, guard):
        thread, answers = ask(url, "poison")
        wait(guard.began.is_set)
        assert upstream.seen == []
        guard.open.set()
        thread.join(30)
        assert answers[0].headers["x-guardproxy-action"] == "block"
        assert upstream.seen == []
        thread, answers = ask(url, "hello")
        thread.join(30)
        assert "overlap" not in _times(answers[0])


def test_the_official_client_streams() -> None:
    """The openai SDK reads an overlapped stream to its end."""
    with overlapping(events("one ", "two")) as (url, _, guard):
        guard.open.set()
        with openai.OpenAI(base_url=f"{url}/v1", api_key="k") as sdk:
            stream = sdk.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hello"}], stream=True
            )
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "one two"


def _times(answer: httpx.Response) -> dict[str, float]:
    """The milliseconds in `Server-Timing`, by name."""
    items = (item.strip().partition(";dur=") for item in answer.headers["server-timing"].split(","))
    return {name: float(value) for name, _, value in items}
