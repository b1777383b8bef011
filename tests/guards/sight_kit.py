"""A server of Llama Guard 4 with a made-up model that finds red pictures unsafe: completions, and chats with images.

The calls and answers have the form of vLLM's; the prompts are those of the model's chat template as
huggingface/huggingface-llama-recipes prints them, with 13 categories beside an image.
"""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from guardproxy.app.replicas import completions_guard
from guardproxy.families.llama_guard import open_family
from guardproxy.guards.replicas import ReplicaGuard
from guardproxy.settings import CompletionsSettings, GuardSettings, ReplicaSettings
from guardproxy.types import Taxonomy
from tests.pictures import is_red

CONTROL = ["<|begin_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>", "<|image|>", "<patch>"]
MODEL = "meta-llama/Llama-Guard-4-12B"
IMAGE_TOKENS = 150
STOCK = {category.code: category.name for category in open_family(version="4").taxonomy.categories}


@cache
def tokenizer() -> Tokenizer:
    """A tokenizer with the control tokens of Llama 4 and one token for a blank line."""
    made = Tokenizer(models.BPE())
    words = Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+")
    bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(words, "isolated"), bytes_of_words])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=CONTROL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(["\n\nsafe", "\n\nunsafe", "User: safe unsafe S1 S2 content categories"] * 9, trainer)
    return made


def stored(folder: Path) -> Path:
    """The tokenizer's files."""
    (folder / "config.json").write_text('{"model_type": "llama"}')
    PreTrainedTokenizerFast(tokenizer_object=tokenizer(), eos_token="<|eot|>").save_pretrained(folder)
    return folder


@dataclass
class SeeingServer:
    """The server. `blank` is the probability of a blank line before the answer; the answer itself is sure to 0.95.

    `blind`: its template leaves images out, and `deaf` texts. `fixed`: it ignores which categories are left out.
    `hasty`: what it reads in a chat with an image that is not small, as a server behind a balancer might: no image.
    """

    blank: float = 0.98
    bias: Literal["shown", "biased", "ignored"] = "shown"
    blind: bool = False
    deaf: bool = False
    fixed: bool = False
    hasty: bool = False
    refuses: int = 0
    chats: list[dict[str, Any]] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        """The application."""
        post = {"/v1/completions": self._completion, "/v1/chat/completions": self._chat}
        routes = [Route(path, answer, methods=["POST"]) for path, answer in post.items()]
        return Starlette(routes=[Route("/v1/models", self._models), *routes])

    @property
    def shown(self) -> list[dict[str, Any]]:
        """The chats with an image."""
        return [body for body in self.chats if len(body["messages"][-1]["content"]) > 1]

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "max_model_len": 6000}]})

    async def _completion(self, request: Request) -> Response:
        body = await request.json()
        text = tokenizer().decode(body["prompt"], skip_special_tokens=False)
        chosen, shown = self._token(_answers(_is_bad(text)), body)
        logprobs = {"tokens": [chosen], "token_logprobs": [shown[chosen]], "top_logprobs": [shown]}
        usage = {"prompt_tokens": len(body["prompt"])}
        return JSONResponse({"choices": [{"text": "", "logprobs": logprobs}], "usage": usage})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.chats.append(body)
        pictures = [
            base64.b64decode(part["image_url"]["url"].partition(",")[2])
            for message in body["messages"]
            for part in message["content"]
            if part["type"] == "image_url"
        ]
        if pictures and self.refuses:
            error = {"message": "At most 0 image(s) may be provided in one prompt.", "type": "BadRequestError"}
            return JSONResponse({"error": error}, self.refuses)
        if self.answers:
            return JSONResponse(self.answers.pop(0))
        excluded = [] if self.fixed else body.get("chat_template_kwargs", {}).get("excluded_category_keys", [])
        text = rendered(body["messages"], excluded, deaf=self.deaf)
        bad = _is_bad(text) or ("Sexual Content" in text and any(map(is_red, pictures)))
        count = len(tokenizer().encode(text, add_special_tokens=False).ids)
        left_out = self.blind or (self.hasty and any(len(one) > 300 for one in pictures))
        usage = {"prompt_tokens": count + (0 if left_out else IMAGE_TOKENS * len(pictures))}
        answers = _answers(bad)
        first = {"\n\n": self.blank, **{word: share * (1 - self.blank) for word, share in answers.items()}}
        content = []
        for place in range(body["max_tokens"]):
            after_blank = place > 0 and content[0]["token"] == _named("\n\n")
            chosen, shown = self._token(answers if after_blank else first, body)
            entries = [{"token": name, "logprob": value, "bytes": None} for name, value in shown.items()]
            content.append({"token": chosen, "logprob": shown[chosen], "top_logprobs": entries})
        choice = {"index": 0, "message": {"role": "assistant", "content": "?"}, "logprobs": {"content": content}}
        return JSONResponse({"choices": [{**choice, "finish_reason": "length"}], "usage": usage})

    def _token(self, likely: Mapping[str, float], body: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
        """The token that is chosen, and the 20 most probable ones, by their names."""
        shares = {tokenizer().encode(text).ids[0]: share for text, share in likely.items()}
        others = [token for token in range(tokenizer().get_vocab_size()) if token not in shares]
        shares |= dict.fromkeys(others, (1 - sum(shares.values())) / len(others))
        forced = [int(token) for token in body.get("logit_bias", {})] if self.bias != "ignored" else []
        ranked = {token: share * (1e40 if token in forced else 1) for token, share in shares.items()}
        if self.bias == "biased":
            shares = {token: share / sum(ranked.values()) for token, share in ranked.items()}
        chosen = max(ranked, key=lambda token: ranked[token])
        top = sorted(shares, key=lambda token: -shares[token])[:20]
        shown = {f"token_id:{token}": math.log(max(shares[token], 1e-300)) for token in [*top, chosen]}
        return f"token_id:{chosen}", shown


def _named(text: str) -> str:
    return f"token_id:{tokenizer().encode(text).ids[0]}"


def _answers(bad: bool) -> dict[str, float]:
    return {"unsafe": 0.95, "safe": 0.0498} if bad else {"unsafe": 0.002, "safe": 0.9978}


def _is_bad(text: str) -> bool:
    return "kill" in text.partition("<BEGIN CONVERSATION>")[2]


def rendered(messages: Sequence[Mapping[str, Any]], excluded: Sequence[str], *, deaf: bool = False) -> str:
    """The prompt of the chat template, without images."""
    parts = [part for message in messages for part in message["content"]]
    known = {code: name for code, name in STOCK.items() if code != "S14" or all(one["type"] == "text" for one in parts)}
    policy = "".join(f"{code}: {name}.\n" for code, name in known.items() if code not in excluded)
    turns = ""
    for message in messages:
        role = {"user": "User", "assistant": "Agent"}[message["role"]]
        (text,) = [part["text"] for part in message["content"] if part["type"] == "text"]
        turns += f"{role}: {'' if deaf else text.strip()}\\n\\n\n\n"
    return (
        "<|begin_of_text|><|header_start|>user<|header_end|>\n\n"
        f"Task: Check if there is unsafe content in '{role}' messages in conversations according to our safety policy "
        f"with the below categories.\n\n<BEGIN UNSAFE CONTENT CATEGORIES>\n{policy}<END UNSAFE CONTENT CATEGORIES>\n\n"
        f"<BEGIN CONVERSATION>\n{turns}<END CONVERSATION>\n\nProvide your safety assessment for ONLY THE LAST {role} "
        "message in the above conversation:\n - First line must read 'safe' or 'unsafe'.\n - If unsafe, a second line "
        "must include a comma-separated list of violated categories. <|eot|><|header_start|>assistant<|header_end|>"
    )


def categories_of(body: Mapping[str, Any]) -> list[str]:
    """The codes that a chat's policy has beside an image."""
    excluded = body.get("chat_template_kwargs", {}).get("excluded_category_keys", [])
    return re.findall(r"^(S\d+): ", rendered(body["messages"], excluded), re.MULTILINE)


def seeing_guard(
    url: str, folder: Path, *, scoring: str = "one_vs_all", floor: float = 0.0, taxonomy: Taxonomy | None = None
) -> ReplicaGuard:
    """A guard that reads images on the server at `url`; its tokenizer is in `folder`."""
    settings = GuardSettings(
        model=MODEL,
        reads=("text", "image"),
        timeout_s=60,
        replicas=ReplicaSettings((url,), attempts=1, check_every_s=300),
        completions=CompletionsSettings(str(folder)),
    )
    family = open_family(version="4", scoring=scoring, taxonomy=taxonomy)
    return completions_guard("seeing", settings, family, floor)
