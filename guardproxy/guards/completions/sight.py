"""An image in the chat of a server: what the server shows of the answer's first two tokens, and whether it looked.

The server's own chat template places the image. A guard may write a blank line before its answer, so the answer is the
first token or, behind a blank line, the second. Where a bias leaves the shown probabilities as they are, it makes the
server write the blank line, so that both are seen.
"""

import asyncio
import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from guardproxy.engine.decoder.prompts import EncodedPrompt
from guardproxy.errors import ConfigError, GuardUnavailable
from guardproxy.guards.completions.api import CallRefused, CompletionsApi, NextToken
from guardproxy.guards.completions.probe import Abilities
from guardproxy.guards.completions.reader import Shares, Tokens, gathered, require_certain
from guardproxy.guards.completions.tokens import verdict_tokens
from guardproxy.images import InlineImage
from guardproxy.ports import Reading
from guardproxy.questions import ChatImageFamily, ImageQuestion
from guardproxy.types import Check, Conversation, Message, Part

_BLANK_LINE: Final = "\n\n"
# The sides of the probe's picture, in pixels: a server shows it to the model as its smallest image.
_SIDE: Final = 64
_SHORT: Final = "Hello."
_LONG: Final = "The picture is a plain grey square, and nothing else can be seen in it. " * 4
# A text at either end of which tokens may merge with those of the template.
_SEAMS: Final = 2


@dataclass(frozen=True, slots=True)
class Sight:
    """How a server is asked about images: the tokens of the answers, and what the probe has counted.

    `image` is the number of tokens of a small image. `whole` and `single` are those of a question about all categories,
    and about one, with such an image and without its texts.
    """

    safe: int
    unsafe: int
    blank: int
    image: int
    whole: int
    single: int


@dataclass(slots=True)
class ImageReader:
    """Reads the questions about one image. Those about categories are asked only if P(unsafe) is above `floor`.

    Raises as `PromptReader`; GuardUnavailable also if the server has read too few tokens for the texts and an image.
    """

    api: CompletionsApi
    abilities: Abilities
    sight: Sight
    open_calls: asyncio.Semaphore
    uncertainty: float
    floor: float
    tokens: Tokens = field(default_factory=Tokens)

    async def read(self, questions: Sequence[ImageQuestion], image: InlineImage) -> list[Reading]:
        """P(safe) and P(unsafe) for the first question, and for the others unless they are not asked."""
        first, *others = questions
        whole = await self._reading(first, image, self.sight.whole)
        if whole.probabilities[1] <= self.floor:
            return [whole]
        return [whole, *await gathered([self._reading(one, image, self.sight.single) for one in others])]

    async def _reading(self, question: ImageQuestion, image: InlineImage, beside: int) -> Reading:
        texts = self.abilities.naming.texts
        safe = [texts.without_control(text) for text in question.texts]
        forced = [self.sight.blank] if self.abilities.forcing == "shown" else []
        async with self.open_calls:
            shown = await self.api.first_tokens(_chat(safe, image, question.template), forced)
        self._require_seen(safe, shown[0].prompt_tokens, beside)
        self.tokens.calls += 1
        self.tokens.reused += shown[0].reused
        self.tokens.computed += shown[0].prompt_tokens - shown[0].reused
        shares = self._shares(shown)
        require_certain(shares, self.abilities.shown, self.uncertainty)
        unsafe = shares.of(1)
        return Reading((1.0 - unsafe, unsafe), shares.uncertainty, max(0.0, 1.0 - shares.seen))

    def _require_seen(self, asked: Sequence[str], read: int, beside: int) -> None:
        texts = self.abilities.naming.texts
        least = beside - self.sight.image // 2 + sum(texts.count(text.strip()) - _SEAMS for text in asked)
        if read < least:
            raise GuardUnavailable(
                f"the server has read {read} tokens where the texts with an image have more than {least}: it has left "
                "the image out, or cut the texts"
            )

    def _shares(self, shown: Sequence[NextToken]) -> Shares:
        """The probabilities of `safe` and `unsafe`: as the first token, and as that behind a blank line."""
        sight = self.sight
        *first, blank = [self._bounds(shown[0], token) for token in (sight.safe, sight.unsafe, sight.blank)]
        if len(shown) > 1 and shown[0].chosen == self._name(shown[0], sight.blank):
            second = [self._bounds(shown[1], token) for token in (sight.safe, sight.unsafe)]
        else:
            second = [(0.0, 1.0), (0.0, 1.0)]
        least = tuple(one[0] + blank[0] * two[0] for one, two in zip(first, second, strict=True))
        most = tuple(min(1.0, one[1] + blank[1] * two[1]) for one, two in zip(first, second, strict=True))
        return Shares(least, most, min(1.0, sum(least)))

    def _name(self, shown: NextToken, token: int) -> int | str:
        by_number = any(isinstance(name, int) for name in shown.shown)
        return token if by_number else self.abilities.naming.texts.text(token)

    def _bounds(self, shown: NextToken, token: int) -> tuple[float, float]:
        """The least and the most probability of a token."""
        share = shown.shown.get(self._name(shown, token))
        return (0.0, shown.most_unseen) if share is None else (share, share)


def _chat(texts: Sequence[str], image: InlineImage | None, template: Mapping[str, Any]) -> dict[str, Any]:
    """A chat with these texts, whose last turn shows the image, and further variables of the server's template.

    A turn has a text even if it is empty: Llama Guard's templates show only images that stand beside one.
    """
    contents: list[list[dict[str, Any]]] = [[{"type": "text", "text": text}] for text in texts]
    if image is not None:
        url = f"data:{image.media_type};base64,{image.data}"
        contents[-1].insert(0, {"type": "image_url", "image_url": {"url": url}})
    messages = [
        {"role": ("user", "assistant")[place % 2], "content": content} for place, content in enumerate(contents)
    ]
    return {"messages": messages, **({"chat_template_kwargs": dict(template)} if template else {})}


# --- the probe --------------------------------------------------------------------------------------------------------


async def probe_sight(
    api: CompletionsApi, family: ChatImageFamily, encoded: EncodedPrompt, abilities: Abilities
) -> Sight:
    """Find out by the tokens that the server reads whether its chat template shows the model what it is given.

    `encoded` is the family's prompt with a short text. Raises ConfigError if a text, an image or the choice of
    categories is not shown; ReplicaFailed, Overloaded.
    """
    texts = abilities.naming.texts
    safe, unsafe = verdict_tokens(encoded.answer)
    blank = texts.tokens(_BLANK_LINE)
    image = InlineImage("image/png", _grey_square())
    asked = {text: _questions(family, text) for text in (_SHORT, "", _LONG)}
    answers = [await _answer(api, asked[text][0], None) for text in (_SHORT, "", _LONG)]
    by_text = not all(isinstance(name, int) for name in answers[0].shown)
    if len(blank) != 1 or (by_text and any(texts.is_ambiguous(token) for token in (safe, unsafe, *blank))):
        raise ConfigError("the tokenizer has no token of its own for a blank line, safe or unsafe: it cannot be read")
    short, empty, long = [answer.prompt_tokens for answer in answers]
    if long - short < (texts.count(_LONG) - texts.count(_SHORT)) // 2 or short < len(encoded.ids) // 2:
        raise ConfigError(
            f"it reads {short} tokens of a short text and {long} of a long one, where the guard's prompt has "
            f"{len(encoded.ids)}: its chat template is not that of the guard's model, or is not shown the text (vLLM: "
            "--chat-template-content-format openai)"
        )
    seen, alone = [(await _answer(api, asked[text][0], image)).prompt_tokens for text in (_SHORT, "")]
    if min(seen - short, alone - empty) < 1:
        raise ConfigError(
            f"it reads {short} tokens of a text, and {seen} with an image; {empty} and {alone} if the text is empty: "
            "it leaves the image out"
        )
    single = (await _answer(api, asked[_SHORT][1], image)).prompt_tokens
    if asked[_SHORT][1].template != asked[_SHORT][0].template and single >= seen:
        raise ConfigError(
            f"it reads {seen} tokens whether the question has all categories or one: its chat template ignores "
            f"{', '.join(asked[_SHORT][1].template)}, so the categories of an image cannot be read"
        )
    own = texts.count(_SHORT)
    return Sight(safe, unsafe, blank[0], min(seen - short, alone - empty), seen - own, single - own)


def _questions(family: ChatImageFamily, text: str) -> tuple[ImageQuestion, ...]:
    turn = Message("user", (Part("probe", text),))
    return family.image_questions(Check(Conversation((turn,)), "user"), 0)


async def _answer(api: CompletionsApi, question: ImageQuestion, image: InlineImage | None) -> NextToken:
    """The first token of the answer to a question. Raises ConfigError if the server refuses it."""
    try:
        (first, *_) = await api.first_tokens(_chat(question.texts, image, question.template))
    except CallRefused as refused:
        what = "a chat with an image" if image else "a chat without an image"
        raise ConfigError(f"it refuses {what}: {refused}") from None
    return first


def _grey_square() -> str:
    from PIL import Image  # noqa: PLC0415 - an extra, needed only with such a guard

    file = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), "grey").save(file, "PNG")
    return b64encode(file.getvalue()).decode()
