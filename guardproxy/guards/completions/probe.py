"""What a server can do, found by asking it: how it takes prompts, how it names tokens, and what it shows of them.

A server's name and version say little: the same program shows probabilities before or after a bias, by its options.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from guardproxy.engine.decoder.grammar import Grammar
from guardproxy.engine.decoder.prompts import EncodedPrompt
from guardproxy.errors import ConfigError
from guardproxy.guards.completions.api import CallRefused, CompletionsApi, NextToken
from guardproxy.guards.completions.tokens import Naming, TokenTexts, tokens_of, verdict_tokens
from guardproxy.guards.links import ReplicaFailed

Forcing = Literal["shown", "biased", "ignored"]
"""What a bias does. `shown`: the forced token is chosen and shown with the model's own probability. `biased`: the
probabilities are those behind the bias, so tokens with the same bias keep their ratio. `ignored`: nothing."""

# The greatest difference, as a factor, of one probability in two answers: batches compute with different rounding.
_SAME: Final = 1.5
# From here on a token is as good as certain, which its own probability in the probe never is.
_CERTAIN: Final = 0.9


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a server can do. `shown` is the number of most probable tokens that it shows."""

    naming: Naming
    forcing: Forcing
    shown: int

    def facts(self) -> dict[str, str | int]:
        """The same for people: in the log and in /healthz."""
        return {
            "prompts": "token ids" if self.naming.as_ids else "text",
            "tokens_named_by": "number" if self.naming.by_number else "text",
            "bias": self.forcing,
            "tokens_shown": self.shown,
        }


async def probe(api: CompletionsApi, prompts: Sequence[EncodedPrompt], texts: TokenTexts) -> Abilities:
    """What a server can do with the prompts of one check.

    Raises ReplicaFailed, Overloaded, and ConfigError if this server can never be read for such prompts.
    """
    prompt = prompts[0]
    first, *_ = verdict_tokens(prompt.answer)
    as_ids, takes_bias, answer = await _first(api, prompt, texts, first)
    if not answer.shown:
        raise ConfigError("it shows no token's probability behind the guard's prompt, so it cannot be read")
    by_number = isinstance(next(iter(answer.shown)), int)
    naming = Naming(texts, by_number, as_ids, adds=_adds(prompt, answer, as_ids=as_ids))
    if naming.adds:
        answer = await api.next_token(naming.prompt(prompt), [first])
    if not by_number:
        _require_names(texts, [token for one in prompts for token in tokens_of(one.answer)])
    forcing = await _forcing(api, prompt, naming, first, answer) if takes_bias else "ignored"
    if forcing != "ignored":
        await _require_ends(api, prompts, naming)
    return Abilities(naming, forcing, min(len(answer.shown), api.top))


async def _first(
    api: CompletionsApi, prompt: EncodedPrompt, texts: TokenTexts, token: int
) -> tuple[bool, bool, NextToken]:
    """Whether the server takes token ids, whether it takes a bias, and its first answer."""
    refusals: list[str] = []
    for forced in ([token], []):
        for as_ids in (True, False):
            naming = Naming(texts, by_number=False, as_ids=as_ids)
            try:
                return as_ids, bool(forced), await api.next_token(naming.prompt(prompt), forced)
            except CallRefused as refused:
                refusals.append(str(refused))
    raise ReplicaFailed("failed", "; ".join(dict.fromkeys(refusals)))


def _adds(prompt: EncodedPrompt, answer: NextToken, *, as_ids: bool) -> bool:
    """Whether the server puts a token before the prompt. Raises ConfigError if it then reads another prompt."""
    more = answer.prompt_tokens - len(prompt.ids)
    if more == 0:
        return False
    if more == 1 and not as_ids and prompt.pieces[0].kind == "special":
        return True
    raise ConfigError(
        f"it reads {answer.prompt_tokens} tokens where the prompt has {len(prompt.ids)}: the tokenizer is of another "
        "model (completions.tokenizer), or the server adds tokens to prompts or cuts them"
    )


def _require_names(texts: TokenTexts, tokens: Sequence[int]) -> None:
    unclear = [repr(texts.text(token)) for token in tokens if texts.is_ambiguous(token)]
    if unclear:
        raise ConfigError(f"it names tokens by their texts, and more than one has the text {', '.join(unclear)}")


async def _forcing(
    api: CompletionsApi, prompt: EncodedPrompt, naming: Naming, first: int, answer: NextToken
) -> Forcing:
    """What a bias does, by a token that is shown with a small probability: a bias on it makes it certain, or not."""
    known = {naming.name(token): token for token in _plain_tokens(naming)}
    others = {name: share for name, share in answer.shown.items() if name in known and name != naming.name(first)}
    if not others:
        return "ignored"
    name = min(others, key=lambda one: others[one])
    biased = await api.next_token(naming.prompt(prompt), [known[name]])
    if biased.chosen != name:
        return "ignored"
    if biased.shown[name] >= _CERTAIN > others[name]:
        return "biased"
    same = others[name] / _SAME <= biased.shown[name] <= others[name] * _SAME
    return "shown" if same else "ignored"


def _plain_tokens(naming: Naming) -> Sequence[int]:
    """The tokens with a name of their own."""
    every = range(naming.texts.size)
    return every if naming.by_number else [token for token in every if not naming.texts.is_ambiguous(token)]


async def _require_ends(api: CompletionsApi, prompts: Sequence[EncodedPrompt], naming: Naming) -> None:
    """Raise ConfigError if a label list is read, and its end is a token that the server does not show."""
    for prompt in prompts:
        answer = prompt.answer
        if not isinstance(answer, Grammar) or answer.labels == 1:
            continue
        for end in answer.ends:
            seen = await api.next_token(naming.prompt(prompt), [end])
            if seen.chosen != naming.name(end):
                raise ConfigError(
                    f"it does not show the token {naming.texts.text(end)!r}, which ends a list of categories, so no "
                    "list can be read: set the option scoring: one_vs_all where the family has it, or use a server "
                    "that names tokens by number"
                )
