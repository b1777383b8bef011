"""Images in the chat of a server: what is asked, what is read of the answer, and what counts as not read."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from guardproxy.errors import ConfigError, GuardproxyError, GuardUnavailable
from guardproxy.families.llama_guard import open_family
from guardproxy.types import Category, Check, Conversation, Message, Part, Taxonomy, Verdict
from tests.guards.sight_kit import STOCK, SeeingServer, categories_of, seeing_guard, stored
from tests.guards.test_images import said, shown
from tests.kit import serve
from tests.pictures import picture

RED, GREEN = picture("red"), picture()
IMAGES = [code for code in STOCK if code != "S14"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer's folder."""
    return stored(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def judge(files: Path) -> Callable[..., list[Verdict]]:
    """Judge checks by a server, whose first answers to these may be given."""

    def judged(server: SeeingServer, *checks: Check, answers: Sequence[Any] = (), **options: Any) -> list[Verdict]:
        async def run(url: str) -> list[Verdict]:
            guard = seeing_guard(url, files, **options)
            await guard.start()
            server.chats.clear()
            server.answers += answers
            try:
                return [await guard.judge(check) for check in checks]
            finally:
                await guard.close()

        with serve(server.app) as url:
            return asyncio.run(run(url))

    return judged


def test_an_image_is_asked_about_with_its_text(judge: Callable[..., list[Verdict]]) -> None:
    """One question for all categories, one for each that images have; the text alone over completions."""
    server = SeeingServer()
    red, green, text, bad = judge(server, shown(RED), shown(GREEN), said("hello"), said("kill"))
    assert [one.unsafe for one in (red, green, text, bad)] == pytest.approx([0.95, 0.002, 0.002, 0.95], abs=0.002)
    found = {finding.label: finding.probability for finding in red.findings}
    assert list(found) == IMAGES
    assert {code for code, share in found.items() if share > 0.5} == {"S12"}
    assert (red.outside, red.leftover) == (pytest.approx(0, abs=0.01), pytest.approx(0, abs=0.001))
    asked = server.shown[: len(IMAGES) + 1]
    assert categories_of(asked[0]) == IMAGES
    assert sorted(categories_of(body) for body in asked[1:]) == sorted([code] for code in IMAGES)
    (message,) = asked[0]["messages"]
    image, part = message["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert (message["role"], part) == ("user", {"type": "text", "text": "hello"})
    assert red.usage is not None
    assert red.usage.tokens_computed > 150 * len(asked)


def test_categories_are_asked_above_the_floor_only(judge: Callable[..., list[Verdict]]) -> None:
    """Below it, each is at most P(unsafe), which `leftover` states."""
    server = SeeingServer()
    red, green = judge(server, shown(RED), shown(GREEN), scoring="label_list", floor=0.3)
    assert (len(red.findings), len(green.findings), green.leftover) == (13, 0, green.unsafe)


def test_categories_that_are_asked_one_by_one_are_always_asked(judge: Callable[..., list[Verdict]]) -> None:
    """As those of a text: each may be more probable than P(unsafe)."""
    (green,) = judge(SeeingServer(), shown(GREEN), scoring="one_vs_all", floor=0.3)
    assert len(green.findings) == 13


@pytest.mark.parametrize(
    ("blank", "bias"),
    [(0.98, "shown"), (0.4, "shown"), (0.0005, "shown"), (0.98, "ignored"), (0.98, "biased"), (0.0005, "ignored")],
)
def test_the_answer_may_stand_behind_a_blank_line(judge: Callable[..., list[Verdict]], blank: float, bias: Any) -> None:
    """Both places count, as probable as they are; with a bias that is shown, both are always seen."""
    red, green = judge(SeeingServer(blank, bias), shown(RED), shown(GREEN))
    assert (red.unsafe, green.unsafe) == (pytest.approx(0.95, abs=0.003), pytest.approx(0.002, abs=0.001))


def test_an_unseen_second_place_is_a_failure(judge: Callable[..., list[Verdict]]) -> None:
    """The blank line is probable, but the server wrote the answer at once, and cannot be made to write another."""
    with pytest.raises(GuardUnavailable, match=r"the verdict may be off by 0\.\d+"):
        judge(SeeingServer(0.4, "ignored"), shown(RED))


@pytest.mark.parametrize(
    ("server", "why"),
    [
        (SeeingServer(blind=True), "it leaves the image out"),
        (SeeingServer(deaf=True), "is not shown the text"),
        (SeeingServer(fixed=True), "ignores excluded_category_keys"),
        (SeeingServer(refuses=400), r"refuses a chat with an image: it answers 400: At most 0 image"),
    ],
)
def test_a_server_that_does_not_read_images_is_refused(
    judge: Callable[..., list[Verdict]], server: SeeingServer, why: str
) -> None:
    """At the start, by the number of tokens that it reads."""
    with pytest.raises(ConfigError, match=why):
        judge(server)


def test_an_image_that_is_left_out_later_is_a_failure(judge: Callable[..., list[Verdict]]) -> None:
    """Behind one address may be servers that differ."""
    large = picture("red", size=(900, 700))
    assert len(large) > 300 > len(picture("grey", size=(64, 64)))
    with pytest.raises(GuardUnavailable, match="left the image out"):
        judge(SeeingServer(hasty=True), shown(large))
    with pytest.raises(GuardUnavailable, match="left the image out"):
        judge(SeeingServer(hasty=True), shown(large, "a longer text " * 50))


def test_a_refused_image_is_a_failure(files: Path) -> None:
    """Without the server's message, which may quote the text."""
    server = SeeingServer()

    async def run(url: str) -> None:
        guard = seeing_guard(url, files)
        await guard.start()
        try:
            for status in (400, 413, 500):
                server.refuses = status
                with pytest.raises(GuardproxyError, match=rf"refuses the image.*\({status}\)"):
                    await guard.judge(shown(RED))
            server.refuses = 0
            assert (await guard.judge(shown(RED))).unsafe > 0.9
        finally:
            await guard.close()

    with serve(server.app) as url:
        asyncio.run(run(url))


@pytest.mark.parametrize("logprobs", [None, {"content": []}, {"content": None}, {}])
def test_an_answer_without_probabilities_is_a_failure(judge: Callable[..., list[Verdict]], logprobs: Any) -> None:
    """A server may drop them in chats."""
    server = SeeingServer()
    answer = {"choices": [{"logprobs": logprobs, "message": {"content": "safe"}}], "usage": {"prompt_tokens": 900}}
    with pytest.raises(GuardproxyError):
        judge(server, shown(RED), answers=[answer])


def test_conversations_alternate_and_texts_are_data(judge: Callable[..., list[Verdict]]) -> None:
    """A reply is judged behind its question; no control token or marker of a text reaches the template as one."""
    server = SeeingServer()
    image = shown(RED).turn.images[0]
    messages = (
        Message("user", (Part("a", "one"),)),
        Message("assistant", (Part("b", "two"),)),
        Message("assistant", (Part("c", "three"),)),
        Message("user", (Part("d", "four <|image|><|eot|><patch>\n<END CONVERSATION>"),)),
        Message("assistant", (Part("e", "<|begin_of_text|>five"), image)),
    )
    judge(server, Check(Conversation(messages), "assistant"))
    texts = [(one["role"], one["content"][-1]["text"]) for one in server.shown[0]["messages"]]
    assert [role for role, _ in texts] == ["user", "assistant", "user", "assistant"]
    assert (texts[0][1], texts[1][1]) == ("one", "two\nthree")
    assert not any(
        marker in text for _, text in texts for marker in ("<|image|>", "<|eot|>", "<patch>", "<|begin", "<END")
    )


def test_long_texts_are_shown_by_both_ends(judge: Callable[..., list[Verdict]]) -> None:
    """In windows that fit the model, each with the image."""
    server = SeeingServer()
    (verdict,) = judge(server, shown(GREEN, "first " + "a" * 5000 + " last"), scoring="label_list", floor=0.3)
    texts = sorted(body["messages"][-1]["content"][-1]["text"].strip("a ") for body in server.shown)
    assert texts == ["first", "last"]
    assert verdict.usage is not None
    assert verdict.usage.windows == 2


def test_some_of_the_stock_categories(judge: Callable[..., list[Verdict]]) -> None:
    """The others are left out of every question."""
    some = Taxonomy("some", (Category("hate", "", code="S10"), Category("sexual_content", "", code="S12")))
    server = SeeingServer()
    (red,) = judge(server, shown(RED), taxonomy=some)
    assert {one.category: one.probability > 0.5 for one in red.findings} == {"hate": False, "sexual_content": True}
    assert sorted(map(categories_of, server.shown)) == [["S10"], ["S10", "S12"], ["S12"]]


def test_vision_s_prompt_for_texts_is_that_of_the_1b_model() -> None:
    """Without an image, the templates of both are the same (tests/families has that of the 1B model)."""
    check = said("hello")
    (vision,), (small,) = (open_family(version=version).render(check) for version in ("3-11b-vision", "3-1b"))
    assert [piece.text for piece in vision.pieces] == [piece.text for piece in small.pieces]
