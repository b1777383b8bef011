"""The demo upstream, as an OpenAI client sees it, and its process."""

import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import openai
import pytest

from guardproxy.demo.process import start_demo
from guardproxy.demo.server import MODEL, demo_app
from guardproxy.errors import ConfigError, TooLarge
from tests.kit import serve


class Parrot:
    """A model that repeats the last message word by word, and raises TooLarge for more than six words."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[dict[str, str]], int, float | None, tuple[str, ...]]] = []

    def stream(
        self, messages: Sequence[dict[str, str]], max_tokens: int, temperature: float | None, stop: Sequence[str]
    ) -> "Spoken":
        self.asked.append((list(messages), max_tokens, temperature, tuple(stop)))
        words = messages[-1]["content"].split()
        if len(words) > 6:
            raise TooLarge("too many words")
        return Spoken(words[:max_tokens], "length" if len(words) > max_tokens else "stop")


class Spoken:
    """The parrot's answer."""

    def __init__(self, words: list[str], finish: str) -> None:
        self._words = words
        self.finish = finish
        self.prompt_tokens = 3
        self.completion_tokens = 0

    async def __aiter__(self) -> AsyncIterator[str]:
        for word in self._words:
            self.completion_tokens += 1
            yield f"{word} "


def test_sdk_talks_to_it() -> None:
    """The official SDK reads a chat completion, a stream, a completion and the model list."""
    parrot = Parrot()
    with serve(demo_app(parrot)) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        asked = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "one two three"}]
        whole = client.chat.completions.create(model="x", messages=asked, max_tokens=2, stop="!", temperature=0.5)  # type: ignore[arg-type]
        with client.chat.completions.stream(
            model="x",
            messages=[{"role": "user", "content": [{"type": "text", "text": "four five"}]}],
            stream_options={"include_usage": True},
        ) as stream:
            streamed = stream.get_final_completion()
        text = client.completions.create(model="x", prompt="six")
        models = [model.id for model in client.models.list()]
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("one two ", "length")
    assert parrot.asked[0] == (
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one two three"}],
        2,
        0.5,
        ("!",),
    )
    assert (streamed.choices[0].message.content, streamed.choices[0].finish_reason) == ("four five ", "stop")
    assert streamed.usage is not None
    assert streamed.usage.total_tokens == 5
    assert (text.choices[0].text, text.usage and text.usage.completion_tokens) == ("six ", 1)
    assert models == [MODEL]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ("nonsense", "not JSON"),
        ('{"messages": []}', "messages"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "messages[0].content"),
        ('{"messages": [{"role": "user", "content": "x"}], "n": 2}', "n:"),
        ('{"messages": [{"role": "user", "content": "x"}], "max_tokens": "y"}', "max_tokens"),
        ('{"messages": [{"role": "user", "content": "x"}], "temperature": "hot"}', "temperature"),
        ('{"messages": [{"role": "user", "content": "x"}], "stop": 5}', "stop"),
        ('{"messages": [{"role": "user", "content": "x"}], "stop": ["a", 5]}', "stop"),
        ('{"messages": [{"role": "user", "content": "a b c d e f g"}]}', "too many words"),
    ],
)
def test_bad_requests_are_told_why(body: str, place: str) -> None:
    """A request that the demo model cannot answer gets a 400 with the place of the mistake."""
    with serve(demo_app(Parrot())) as url:
        answer = httpx.post(f"{url}/v1/chat/completions", content=body, trust_env=False)
    assert answer.status_code == 400
    assert place in answer.json()["error"]["message"]


def test_process_lives_as_long_as_it_is_needed(tmp_path: Path) -> None:
    """The process writes its URL as its first line, and ends when its standard input is closed."""
    mark = tmp_path / "ended"
    program = f"import sys; print('http://h:1', flush=True); sys.stdin.read(); open({str(mark)!r}, 'w')"
    with start_demo([sys.executable, "-c", program]) as url:
        assert url == "http://h:1"
        assert not mark.exists()
    assert mark.exists()


def test_process_that_does_not_start() -> None:
    """A process that ends, reports a reason, or is silent until the timeout raises ConfigError and is stopped."""
    with pytest.raises(ConfigError, match="status 3"), start_demo([sys.executable, "-c", "raise SystemExit(3)"]):
        pass
    missing = [sys.executable, "-c", "print('run  pip install this')"]
    with pytest.raises(ConfigError, match="pip install this"), start_demo(missing):
        pass
    began = time.monotonic()
    silent = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with pytest.raises(ConfigError, match="not ready within"), start_demo(silent, timeout_s=1):
        pass
    assert time.monotonic() - began < 50
