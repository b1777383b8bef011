"""A server with the completions API, as a transport: a made-up model, shown as one server or another shows it."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from guardproxy.engine.tokenizer_files import StoredTokenizer
from guardproxy.families.llama_guard import open_family
from guardproxy.guards.completions.api import CompletionsApi
from guardproxy.guards.completions.link import CompletionsLink, CompletionsOptions, ModelTokenizer
from guardproxy.guards.http_calls import HttpCalls
from guardproxy.guards.replicas import AskOptions, ReplicaGuard
from guardproxy.ports import Family
from guardproxy.types import Category, Taxonomy

END, BEGIN = "<|end|>", "<|begin|>"
TWO = Taxonomy("two", (Category("hate", "Hate", code="O1"), Category("fraud", "Fraud", code="O2")))


def _made() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=[BEGIN, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["a safe", "an unsafe", " safe unsafe User Agent conversation"] * 9, trainer)
    return tokenizer


TOKENIZER = _made()
STORED = StoredTokenizer(TOKENIZER, (TOKENIZER.token_to_id(END),), "v1")


def spell(text: str) -> list[int]:
    """The tokens of a text, control tokens included."""
    reader = Tokenizer.from_str(TOKENIZER.to_str())
    reader.encode_special_tokens = False
    return list(reader.encode(text, add_special_tokens=False).ids)


def a_guard(text: str) -> dict[str, float]:
    """A guard that finds `bomb` unsafe, and lists O1 or both categories."""
    if text.endswith("[/INST]"):
        return {" unsafe": 0.9, " safe": 0.05} if "bomb" in text else {" unsafe": 0.02, " safe": 0.9}
    if text.endswith("O"):
        return {"1": 0.7, "2": 0.2}
    if text.endswith(("O1", "O2")):
        return {",": 0.25, END: 0.7}
    return {}


@dataclass
class Server:
    """A server whose model's next token depends on the text, with a peak for what its grammar allows.

    `likely` has for a text's end the probabilities of texts that follow; all other tokens share the rest. `answers`
    are given in order before any other. `bias` and `named` are as in `Abilities`, `top` the most tokens shown.
    """

    takes_ids: bool = True
    named: Literal["numbers", "entries", "texts"] = "numbers"
    bias: Literal["shown", "biased", "ignored", "refused"] = "shown"
    top: int = 20
    begins: bool = False
    hides_end: bool = False
    context: int | None = 4096
    model: str = "guard"
    likely: Callable[[str], Mapping[str, float]] = a_guard
    answers: list[Callable[[], Any]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer a request, as the network would: with a body that is not read yet."""
        answer = await self._answer(request)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=httpx.ByteStream(answer.content))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            about = {"id": self.model, "object": "model", **({"max_model_len": self.context} if self.context else {})}
            return httpx.Response(200, json={"object": "list", "data": [about]})
        body = json.loads(await request.aread())
        self.asked.append(body)
        if self.answers:
            answer = self.answers.pop(0)()
            answer = await answer if hasattr(answer, "__await__") else answer
            if answer is not None:
                return answer
        return self._completion(body)

    def _completion(self, body: Mapping[str, Any]) -> httpx.Response:
        if isinstance(body["prompt"], list) and not self.takes_ids:
            return httpx.Response(500, json={"error": {"message": "Input should be a valid string"}})
        if self.bias == "refused" and "logit_bias" in body:
            return httpx.Response(400, json={"error": {"message": "logit_bias is not supported"}})
        ids = body["prompt"] if isinstance(body["prompt"], list) else spell(body["prompt"])
        if self.begins and isinstance(body["prompt"], str):
            ids = [TOKENIZER.token_to_id(BEGIN), *ids]
        shares = self.shares(ids)
        forced = [int(token) for token in body.get("logit_bias", {})] if self.bias in {"shown", "biased"} else []
        ranked = {token: share * (1e40 if token in forced else 1) for token, share in shares.items()}
        total = sum(ranked.values())
        shown = {token: share / total for token, share in ranked.items()} if self.bias == "biased" else shares
        chosen = max(shares, key=lambda token: (token in forced, shares[token]))
        first = sorted(shown, key=lambda token: -shown[token])[: min(self.top, body["logprobs"])]
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 7}}
        return httpx.Response(200, json={"choices": [self._choice(chosen, first, shown)], "usage": usage})

    def _choice(self, chosen: int, first: Sequence[int], shown: Mapping[int, float]) -> dict[str, Any]:
        end = STORED.eos[0]
        if self.hides_end and chosen == end:
            empty: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": []}
            return {"text": "", "logprobs": empty, "finish_reason": "stop"}
        logs = {token: math.log(shown[token]) if shown[token] else -9999.0 for token in [*first, chosen]}
        if self.named == "entries":
            entries = [{"id": token, "token": "?", "logprob": value} for token, value in logs.items()]
            own = next(entry for entry in entries if entry["id"] == chosen)
            return {"text": "?", "logprobs": {"content": [{**own, "top_logprobs": entries[: len(first)]}]}}
        names = {token: f"token_id:{token}" if self.named == "numbers" else self._text(token) for token in logs}
        logprobs = {
            "tokens": [names[chosen]],
            "token_logprobs": [logs[chosen]],
            "top_logprobs": [{names[token]: value for token, value in logs.items()}],
        }
        return {"text": "?", "logprobs": logprobs}

    def _text(self, token: int) -> str:
        if self.hides_end and token in {STORED.eos[0], TOKENIZER.token_to_id(BEGIN)}:
            return ""
        return str(TOKENIZER.decode([token], skip_special_tokens=False))

    def shares(self, ids: Sequence[int]) -> dict[int, float]:
        """The model's own probabilities of all next tokens."""
        text = TOKENIZER.decode(list(ids), skip_special_tokens=False)
        named = {spell(word)[0]: share for word, share in self.likely(text).items()}
        size = TOKENIZER.get_vocab_size()
        noise = {token: 1 + _hash(text, token) for token in range(size) if token not in named}
        scale = (1 - sum(named.values())) / sum(noise.values())
        return {**{token: share * scale for token, share in noise.items()}, **named}


def _hash(text: str, token: int) -> float:
    return hashlib.sha256(f"{text}{token}".encode()).digest()[0] / 256


def guard_of(
    *servers: Server,
    family: Family | None = None,
    uncertainty: float = 0.01,
    floor: float = 0.0,
    top: int = 20,
    context: int | None = None,
    asking: AskOptions | None = None,
) -> ReplicaGuard:
    """A guard whose model runs on these servers."""
    family = family or open_family(taxonomy=TWO)
    tokenizer = ModelTokenizer(lambda: STORED)
    options = CompletionsOptions(uncertainty=uncertainty, context=context, floor=floor)
    links = []
    for number, server in enumerate(servers):
        url = f"http://server-{number}:8000"
        calls = HttpCalls(
            httpx.URL(url), httpx.MockTransport(server), lambda error: isinstance(error, httpx.ConnectError)
        )
        api = CompletionsApi(calls, server.model, top=top)
        links.append(CompletionsLink(url, "guard", family, api=api, tokenizer=tokenizer, options=options))
    asking = asking or AskOptions(timeout_s=20, attempts=1, check_every_s=60)
    return ReplicaGuard("guard", family.taxonomy, links, asking, floor=floor)
