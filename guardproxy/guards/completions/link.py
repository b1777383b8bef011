"""A server with OpenAI's completions API as a replica of a guard: renders, asks token by token, parses."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from guardproxy.asking import Asker
from guardproxy.engine.decoder.prompts import EncodedPrompt, PromptEncoder
from guardproxy.engine.tokenizer import PromptTokenizer
from guardproxy.engine.tokenizer_files import StoredTokenizer
from guardproxy.errors import ConfigError, GuardproxyError, GuardUnavailable, Overloaded
from guardproxy.guards.completions.api import CallRefused, CompletionsApi
from guardproxy.guards.completions.probe import Abilities, probe
from guardproxy.guards.completions.reader import PromptReader, Tokens, gathered
from guardproxy.guards.completions.sight import ImageReader, Sight, probe_sight
from guardproxy.guards.completions.tokens import TokenTexts
from guardproxy.guards.links import GuardIdentity, ReplicaFailed
from guardproxy.guards.local import PROBE, floor_of, parsed, within
from guardproxy.guards.services import windows
from guardproxy.images import InlineImage
from guardproxy.ports import Family, LabelList, Prompt
from guardproxy.questions import ChatImageFamily
from guardproxy.types import Check, Conversation, Message, Part, Usage, Verdict
from guardproxy.verdicts import worst, worst_reading

log = structlog.get_logger("guardproxy.guard")

# Texts of more characters are encoded on a thread, so that they do not block others.
_LONG_TEXT: Final = 10_000
# One in this many tokens of the model's context may be a character of the text beside an image, and one of earlier
# turns: a character has up to three tokens.
_CHARACTERS: Final = 6
# vLLM and SGLang say here how many tokens their model reads.
_CONTEXT: Final = "max_model_len"


@dataclass(frozen=True, slots=True)
class CompletionsOptions:
    """How a guard model is read on a server.

    A verdict of which a probability may be off by more than `uncertainty` counts as none. The model reads `context`
    tokens; None if the server says it. At most `calls` run at once. Label lists are read only if P(unsafe) is above
    `floor`. With `images`, the family is a `ChatImageFamily`, and images are shown in the server's chat.
    """

    uncertainty: float = 0.01
    context: int | None = None
    calls: int = 32
    floor: float = 0.0
    images: bool = False


class ModelTokenizer:
    """The tokenizer of a guard's model, loaded once by `load` for all its servers."""

    def __init__(self, load: Callable[[], StoredTokenizer]) -> None:
        self._load = load
        self._loading: asyncio.Task[tuple[StoredTokenizer, TokenTexts]] | None = None

    async def loaded(self) -> tuple[StoredTokenizer, TokenTexts]:
        """The tokenizer and its texts. Raises what `load` raises."""
        if self._loading is None:
            self._loading = asyncio.ensure_future(asyncio.to_thread(self._both))
        return await asyncio.shield(self._loading)

    def _both(self) -> tuple[StoredTokenizer, TokenTexts]:
        stored = self._load()
        return stored, TokenTexts(stored)


@dataclass(frozen=True, slots=True)
class _Probed:
    """What a server was found to be."""

    abilities: Abilities
    encoder: PromptEncoder
    texts: TokenTexts
    identity: GuardIdentity
    context: int
    sight: Sight | None

    def encode(self, prompt: Prompt) -> tuple[EncodedPrompt, ...]:
        """The windows of a prompt."""
        return self.encoder.encode(prompt if self.abilities.naming.as_ids else self.texts.defused(prompt))


class CompletionsLink:
    """Implements `ReplicaLink` with the API of a server. `url` is its address, `guard` the name of the guard."""

    def __init__(
        self,
        url: str,
        guard: str,
        family: Family,
        *,
        api: CompletionsApi,
        tokenizer: ModelTokenizer,
        options: CompletionsOptions = CompletionsOptions(),
    ) -> None:
        self.name = url
        self._guard = guard
        self._family = family
        self._api = api
        self._tokenizer = tokenizer
        self._options = replace(options, floor=floor_of(family, options.floor))
        lists = any(isinstance(prompt.readout, LabelList) for prompt in family.render(PROBE))
        # Categories that are asked one by one may be more probable than P(unsafe).
        self._image_floor = self._options.floor if lists else 0.0
        self._calls = asyncio.Semaphore(options.calls)
        self._judging = 0
        self._known: _Probed | None = None
        self._finding: asyncio.Task[_Probed] | None = None

    def facts(self) -> dict[str, str | int]:
        """What the server was found to be able to do; {} as long as it was not asked."""
        known = self._known
        if known is None:
            return {}
        seen: dict[str, str | int] = {"image_tokens": known.sight.image} if known.sight else {}
        return {**known.abilities.facts(), "context_tokens": known.context, **seen}

    async def identity(self) -> GuardIdentity:
        """What the guard is. Raises ReplicaFailed, and ConfigError if this server cannot be read for the guard."""
        known = self._known
        if known is None:
            return (await self._found()).identity
        # Some servers answer one call at a time: behind checks that run, this question would wait as long as they do.
        if not self._judging:
            await self._api.described()
        return known.identity

    async def judge(self, check: Check, asker: Asker) -> tuple[Verdict, str]:
        """The verdict. Raises as `ReplicaLink.judge`; a server has no clients of ours, so the asker is not told."""
        del asker
        began = time.perf_counter()
        self._judging += 1
        try:
            known = self._known or await self._found()
            return await self._judged(known, check, began), known.identity.version
        except ReplicaFailed as failure:
            if failure.ending in {"unsent", "unknown"}:
                self._known = None  # it may be started again with other options
            raise
        except CallRefused as refused:
            # The server's message may quote the prompt.
            what = "the image, which may be too large for it," if check.turn.images else "the prompt"
            raise GuardUnavailable(f"the server refuses {what} ({refused.status})") from None
        except GuardproxyError:
            raise
        except Exception as error:
            raise GuardUnavailable(f"the verdict cannot be read: {type(error).__name__}: {error}") from error
        finally:
            self._judging -= 1

    async def forget(self, stream: str) -> None:
        """Do nothing: the server's prefix cache forgets by itself."""

    async def close(self) -> None:
        """Close the connections."""
        if self._finding is not None:
            self._finding.cancel()
        await self._api.close()

    async def _judged(self, known: _Probed, check: Check, began: float) -> Verdict:
        images = [part.image for part in check.turn.images if part.image is not None]
        if images:
            return await self._seen(known, check, images, began)
        prompts = self._family.render(check)
        if len(check.turn.text) > _LONG_TEXT:
            encoded = await asyncio.to_thread(lambda: [known.encode(prompt) for prompt in prompts])
        else:
            encoded = [known.encode(prompt) for prompt in prompts]
        encoded_s = time.perf_counter()
        options = self._options
        reader = PromptReader(self._api, known.abilities, self._calls, options.uncertainty, options.floor)
        readings = await gathered([reader.read(window) for of_prompt in encoded for window in of_prompt])
        remaining = iter(readings)
        worst_of = [worst_reading([next(remaining) for _ in of_prompt]) for of_prompt in encoded]
        verdict = parsed(self._family, check, worst_of, self._guard)
        return replace(verdict, usage=_usage(began, encoded_s, reader.tokens, len(readings)))

    async def _seen(self, known: _Probed, check: Check, images: Sequence[InlineImage], began: float) -> Verdict:
        """The verdict on images beside the first and the last window of their text."""
        family, options, sight = self._family, self._options, known.sight
        if sight is None or not isinstance(family, ChatImageFamily):
            raise GuardUnavailable("the guard reads no images")
        characters = known.context // _CHARACTERS
        *context, turn = check.conversation.messages
        pieces = windows(turn.text, characters, in_bytes=False)
        beside = [
            replace(check, conversation=Conversation((*context, Message(turn.role, (Part("window", piece),)))))
            for piece in (pieces if len(pieces) < 2 else [pieces[0], pieces[-1]])
        ]
        asked_s = time.perf_counter()
        reader = ImageReader(self._api, known.abilities, sight, self._calls, options.uncertainty, self._image_floor)
        shown = [(one, image) for one in beside for image in images]
        read = await gathered([reader.read(family.image_questions(one, characters), image) for one, image in shown])
        verdicts = [
            within(family.image_verdict(one, readings, self._guard), self._guard)
            for (one, _), readings in zip(shown, read, strict=True)
        ]
        return replace(worst(verdicts), usage=_usage(began, asked_s, reader.tokens, len(beside)))

    # --- what the server is ---------------------------------------------------------------------------------------

    async def _found(self) -> _Probed:
        # A probe takes longer than the questions whether a server is there: one that is given up goes on.
        if self._finding is None or self._finding.done():
            self._finding = asyncio.ensure_future(self._find())
        return await asyncio.shield(self._finding)

    async def _find(self) -> _Probed:
        described = await self._api.described()
        stored, texts = await self._tokenizer.loaded()
        context = self._options.context or described.get(_CONTEXT)
        if not isinstance(context, int) or context < 1:
            raise ConfigError(
                f"the server {self.name} does not say how many tokens its model reads; set completions.context_tokens"
            )
        encoder = PromptEncoder(PromptTokenizer(stored.backend), context, stored.eos)
        try:
            prompts = [window for prompt in self._family.render(PROBE) for window in encoder.encode(prompt)]
            abilities = await probe(self._api, prompts, texts)
            sight = None
            if self._options.images and isinstance(self._family, ChatImageFamily):
                sight = await probe_sight(self._api, self._family, prompts[0], abilities)
        except Overloaded as error:
            raise ReplicaFailed("declined", str(error)) from None
        except (ConfigError, GuardUnavailable, CallRefused) as error:
            raise ConfigError(f"the server {self.name}: {error}") from error
        taxonomy = self._family.taxonomy
        version = hashlib.sha256(f"{self._guard}\n{stored.version}".encode()).hexdigest()[:12]
        identity = GuardIdentity(
            self._guard, f"{taxonomy.id}@{taxonomy.version}", f"{version} ({self._guard})", self._options.floor
        )
        self._known = _Probed(abilities, encoder, texts, identity, context, sight)
        log.info("completions_server", guard=self._guard, replica=self.name, **self.facts())
        return self._known


def _usage(began: float, asked: float, tokens: Tokens, windows: int) -> Usage:
    """The usage of a check that began, and asked the server, at these times."""
    return Usage(
        tokenize_s=asked - began,
        forward_s=time.perf_counter() - asked,
        tokens_computed=tokens.computed,
        tokens_reused=tokens.reused,
        batch=1,
        windows=windows,
    )
