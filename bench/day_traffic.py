"""The traffic of `day.py`: which chats are held, what the upstream answers, and what is true of each text."""

import asyncio
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.types import Receive, Scope, Send

from guardproxy.evaluation import datasets
from tests.conformance.speech import PROTOCOLS, SSE, plain

ROOT = Path(__file__).parents[1]
# fmt: off
NAMES = (
    "alice", "amir", "anna", "aziz", "bea", "ben", "bruno", "carla", "chen", "dana", "david", "diego", "elif",
    "emma", "erik", "fatima", "felix", "finn", "gita", "hana", "hugo", "ines", "ivan", "jana", "john", "juan",
    "kaya", "kim", "lars", "lea", "lin", "lucy", "luis", "mallory", "maria", "max", "mia", "nadia", "nils", "nora",
    "omar", "oscar", "paul", "pia", "rosa", "sam", "tara", "trudy", "yuki", "zoe",
)
# fmt: on
ABUSERS = ("mallory", "oscar", "trudy")
HOURS = (1, 1, 1, 1, 1, 2, 3, 5, 8, 10, 10, 9, 7, 9, 10, 10, 9, 8, 7, 6, 5, 4, 3, 2)  # the share of each hour

# Protocol, its share, and the share of its requests that are streamed.
SPOKEN = {
    "chat": (38, 0.6),
    "responses": (15, 0.5),
    "messages": (15, 0.6),
    "gemini": (10, 0.5),
    "gemini-array": (2, 1.0),
    "ollama-chat": (8, 0.7),
    "ollama-generate": (4, 0.5),
    "completions": (4, 0.3),
    "moderations": (4, 0.0),
}
WITHOUT_HISTORY = ("completions", "ollama-generate", "moderations")
MODELS = ("small-1",) * 5 + ("large-1",) * 3 + ("kids-1", "bulk-1")  # kids-* and bulk-* have routes of their own
SHORT_REPLIES = (
    "Yes, that works. Start with the smaller one and see how it goes.",
    "Here is a short version: write down the goal, list three steps, and do the first one today.",
    "It depends on the weather, but a light jacket and good shoes are usually enough.",
    "Use a list comprehension: it is shorter and easier to read than the loop.",
    "The main idea is that both sides change at the same time, so the difference stays the same.",
    "I am not sure. Could you tell me a little more about what you have tried so far?",
    "Mix the flour and the water, let the dough rest for an hour, and bake it until it is golden.",
    "The train leaves every half hour and the ride takes about forty minutes.",
    "Thank you for the details. The second paragraph reads well; the first could be shorter.",
    "There are three common ways to do it, and the simplest is to ask the person directly.",
)
DECLINED = "I can't help with that."


@dataclass(frozen=True)
class Said:
    """A text and whether it is unsafe, None if nobody has labelled it."""

    text: str
    unsafe: bool | None


@dataclass(frozen=True)
class Turn:
    """One request: what the user says, and what the upstream answers.

    `status` is that of the upstream; `breaks` says that its stream ends in the middle. `leaves` says when the client
    goes away: "" (it stays), "waiting" (before the answer) or "reading" (behind the first bytes of a stream).
    """

    prompt: Said
    reply: Said
    status: int = 200
    breaks: bool = False
    leaves: str = ""


@dataclass(frozen=True)
class Chat:
    """The turns of one session in order; `sdk`: whether the official client holds it. `hour` is when it begins."""

    session: str
    user: str
    protocol: str
    streamed: bool
    model: str
    sdk: bool
    hour: int
    turns: tuple[Turn, ...]

    @property
    def team(self) -> int:
        """The number of the user's team; each team has a key."""
        return NAMES.index(self.user) % 5

    def key(self, number: int) -> str:
        """The name of a request, as its header `x-day` has it."""
        return f"{self.session}/{number}"


class Texts:
    """What users say: labelled texts, short enough that a day of them does not take a day."""

    LONGEST = 400  # characters

    def __init__(self, data: Path, draw: random.Random) -> None:
        self._draw = draw
        own = [*self._said(ROOT / "training" / "everyday.jsonl"), *self._said(ROOT / "training" / "harmful.jsonl")]
        names = ("toxicchat_train_human", "xstest", "jailbreakbench", "openai_mod", "simple_safety_tests")
        public = [said for name in names for said in self._said(data / f"{name}.jsonl.gz")]
        self.unsafe = [said for said in [*own, *public] if said.unsafe]
        self._benign = [said for said in own if said.unsafe is False]
        self._public = [said for said in public if said.unsafe is False]
        self._foreign = list(self._said(data / "benign_multilingual.jsonl.gz"))
        rows = datasets.read(data / "beavertails_30k_test.jsonl.gz").rows
        self.pairs = [
            (Said(row.check.conversation.messages[-2].text, None), Said(row.check.turn.text, row.unsafe))
            for row in rows
            if row.check.turn.size <= self.LONGEST
        ]
        self.harm = [reply for _, reply in self.pairs if reply.unsafe]
        self.favourites = [draw.choice(self._benign) for _ in range(20)]

    def _said(self, path: Path) -> Iterator[Said]:
        for row in datasets.read(path).rows:
            if row.check.turn.size <= self.LONGEST and len(row.check.conversation.messages) == 1:
                yield Said(row.check.turn.text, row.unsafe)

    def benign(self) -> Said:
        """A harmless prompt: a favourite that many users ask, an everyday one, one of a public set, a foreign one."""
        chosen = self._draw.choices((self.favourites, self._benign, self._public, self._foreign), (15, 33, 50, 2))[0]
        return self._draw.choice(chosen)


def planned(count: int, seed: int, data: Path) -> list[Chat]:
    """Chats of `count` requests in the order in which they begin. Raises ConfigError if the data cannot be read."""
    draw = random.Random(seed)
    texts = Texts(data, draw)
    chats, left = [], count
    hours = sorted(draw.choices(range(len(HOURS)), HOURS, k=count))
    while left:
        chat = _chat(len(chats), texts, draw, left, hours[count - left])
        chats.append(chat)
        left -= len(chat.turns)
    return chats


def _chat(number: int, texts: Texts, draw: random.Random, most: int, hour: int) -> Chat:
    user = draw.choice(NAMES)
    protocol = draw.choices(list(SPOKEN), [share for share, _ in SPOKEN.values()])[0]
    streamed = draw.random() < SPOKEN[protocol][1]
    length = 1 if protocol in WITHOUT_HISTORY else min(most, draw.choices((1, 2, 3, 4, 6), (55, 20, 12, 8, 5))[0])
    turns = [_turn(user, texts, draw) for _ in range(length)]
    if protocol != "moderations":
        turns[-1] = _ending(turns[-1], streamed, draw)
    # An official client raises errors of its own HTTP library if an answer breaks off.
    sdk = protocol in ("chat", "messages") and draw.random() < 0.4 and not turns[-1].leaves and not turns[-1].breaks
    return Chat(f"session-{number:05}", user, protocol, streamed, draw.choice(MODELS), sdk, hour, tuple(turns))


def _turn(user: str, texts: Texts, draw: random.Random) -> Turn:
    if draw.random() < (0.6 if user in ABUSERS else 0.01):
        answer = draw.choice(
            [reply for _, reply in draw.sample(texts.pairs, 20) if reply.unsafe] or [Said(DECLINED, None)]
        )
        return Turn(draw.choice(texts.unsafe), answer if draw.random() < 0.3 else Said(DECLINED, False))
    if draw.random() < 0.05:
        return Turn(*draw.choice(texts.pairs))
    return Turn(texts.benign(), Said(draw.choice(SHORT_REPLIES), False))


def _ending(turn: Turn, streamed: bool, draw: random.Random) -> Turn:
    """The last turn of a chat, at which something may go wrong."""
    chance = draw.random()
    if chance < 0.02:
        return Turn(turn.prompt, Said("The model is not loaded.", False), status=draw.choice((400, 500)))
    if chance < 0.05:
        return Turn(turn.prompt, turn.reply, leaves="reading" if streamed and draw.random() < 0.6 else "waiting")
    return Turn(turn.prompt, turn.reply, breaks=streamed and chance < 0.06)


class DayUpstream:
    """Answers each request as its header `x-day` says. `asked` are the names of the requests that reached it."""

    def __init__(self, chats: Sequence[Chat]) -> None:
        self._turns = {chat.key(number): (chat, turn) for chat in chats for number, turn in enumerate(chat.turns)}
        self.asked: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body", False):
            pass
        name = dict(scope["headers"])[b"x-day"].decode()
        self.asked.append(name)
        chat, turn = self._turns[name]
        status, kind, frames = _answer(chat, turn)
        head = [(b"content-type", kind.encode())]
        await send({"type": "http.response.start", "status": status, "headers": head})
        for frame in frames[: len(frames) // 2] if turn.breaks else frames:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
            await asyncio.sleep(0.02 if turn.leaves == "reading" else 0)
        if not turn.breaks:
            await send({"type": "http.response.body"})


def _answer(chat: Chat, turn: Turn) -> tuple[int, str, list[bytes]]:
    """Status, content type and frames of the upstream's answer."""
    protocol = PROTOCOLS[chat.protocol]
    if turn.status != 200:
        error = {"message": turn.reply.text, "type": "server_error"}
        return turn.status, "application/json", [plain({"type": "error", "error": error})]
    if not chat.streamed:
        return 200, "application/json", [plain(protocol.whole(turn.reply.text))]
    pieces = re.findall(r"(?:\S+\s*){1,4}|\s+", turn.reply.text)
    kind = protocol.content_type if protocol.content_type != SSE else f"{SSE}; charset=utf-8"
    return 200, kind, protocol.streamed(pieces)
