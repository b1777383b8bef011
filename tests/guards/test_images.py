"""Guards that read images: the calls and answers of services, and who is asked about an image in combinations.

Azure's answers have the form of learn.microsoft.com/rest/api/contentsafety/image-operations/analyze-image.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from guardproxy.errors import GuardUnavailable
from guardproxy.families import azure_content_safety, openai_moderation, perspective
from guardproxy.guards.cache import Cached
from guardproxy.guards.combine import AllOf, ByLanguage, ByRole, Cascade
from guardproxy.guards.services import open_service
from guardproxy.images import InlineImage
from guardproxy.pipeline.by_messages import ByMessages
from guardproxy.ports import Guard
from guardproxy.types import Category, Check, Conversation, Finding, Message, Part, Taxonomy, Verdict
from tests.kit import serve
from tests.pictures import Moderation, encoded, picture

TAXONOMY = Taxonomy("t", (Category("harm", "Harm"),), "1")


class Fixed:
    """A guard with a fixed P(unsafe), for texts and for images; `asked` are its checks."""

    def __init__(self, name: str, text: float, image: float | None = None) -> None:
        self.name, self.taxonomy = name, TAXONOMY
        self._text, self._image = text, image
        self.asked: list[Check] = []

    async def judge(self, check: Check) -> Verdict:
        self.asked.append(check)
        unsafe = self._text if not check.turn.images else self._image
        assert unsafe is not None, f"{self.name} reads no images"
        return Verdict(unsafe, (Finding("harm", unsafe),), self.name)

    def forget(self, stream: str) -> None: ...
    async def start(self) -> None: ...
    async def close(self) -> None: ...


def shown(data: bytes = b"x", text: str = "hello", role: Any = "user") -> Check:
    """A check of a text with an image."""
    image = Part("image", "", "image", f"sha256:{data.hex()[:64]}", InlineImage("image/png", encoded(data)))
    message = Message(role, (*([Part("text", text)] if text else []), image))
    return Check(Conversation((message,)), message.side)


def said(text: str = "hello") -> Check:
    """A check of a text."""
    return Check(Conversation((Message("user", (Part("text", text),)),)), "user")


COMBINED: dict[str, Callable[[Guard, Guard], Guard]] = {
    "all": lambda first, second: AllOf([first, second], see=["b"]),
    "mean": lambda first, second: AllOf([first, second], {"*": (9.0, 1.0)}, see=["b"]),
    "cascade": lambda first, second: Cascade(first, second, 0.4, 0.6, see=["b"]),
    "by_language": lambda first, second: ByLanguage(first, second, ["en"], see=["b"]),
    "by_role": lambda first, second: ByRole([first, second], user=second, assistant=first, tool=first),
}


@pytest.mark.parametrize("kind", COMBINED)
def test_an_image_goes_to_the_member_that_reads_images(kind: str) -> None:
    """Whatever the other is sure of; its verdict is not mixed with that on the text."""
    first, second = Fixed("a", 0.01), Fixed("b", 0.02, 0.9)
    guard = COMBINED[kind](first, second)
    verdict = asyncio.run(guard.judge(shown()))
    assert (verdict.unsafe, verdict.findings[0].probability, verdict.guard) == (0.9, 0.9, guard.name)
    assert (len(first.asked), len(second.asked)) == (0, 1)


@pytest.mark.parametrize("kind", [kind for kind in COMBINED if kind != "by_role"])
def test_no_member_that_reads_images_is_a_failure(kind: str) -> None:
    """A text guard would judge the text alone."""
    first, second = Fixed("a", 0.01), Fixed("c", 0.02)
    with pytest.raises(GuardUnavailable, match="reads images"):
        asyncio.run(COMBINED[kind](first, second).judge(shown()))


def test_a_cascade_of_two_that_read_images() -> None:
    """The second is asked if the first is unsure of the image."""
    for unsure, asked in ((0.5, 1), (0.1, 0)):
        first, second = Fixed("a", 0.5, unsure), Fixed("b", 0.5, 0.9)
        asyncio.run(Cascade(first, second, 0.4, 0.6, see=["a", "b"]).judge(shown()))
        assert (len(first.asked), len(second.asked)) == (1, asked)


def test_the_cache_tells_images_apart() -> None:
    """Equal texts with other images are other checks; without the image as well."""
    guard = Fixed("a", 0.1, 0.2)
    cached = Cached(guard, 9)

    async def run() -> None:
        for check in (shown(b"1"), shown(b"2"), shown(b"1"), said(), said()):
            await cached.judge(check)

    asyncio.run(run())
    assert len(guard.asked) == 3


def test_no_cache_keeps_a_picture() -> None:
    """A beginning of a conversation is kept with what is known of it."""
    check = shown(b"a picture", text="")
    kept = ByMessages[int]()
    kept.keep("", check.conversation.messages, 1)
    assert kept.find("", check.conversation.messages) is None


def _judged(family: Any, app: Any, check: Check) -> Verdict:
    async def run(url: str) -> Verdict:
        guard = open_service(name="g", family=family, key="k", base_url=url, attempts=1)
        try:
            return await guard.judge(check)
        finally:
            await guard.close()

    with serve(app) as url:
        return asyncio.run(run(url))


def test_openai_judges_an_image_with_both_ends_of_its_text() -> None:
    """One image in a call, beside the first and the last window.

    Only labels that apply to images count: the text is judged by a check of its own.
    """
    service = Moderation()
    text = "first " + "a" * 9000 + " last"
    verdict = _judged(openai_moderation.open_family(), service.app, shown(picture("red"), text))
    assert [[item["type"] for item in given] for given in service.of_images] == [["text", "image_url"]] * 2
    assert {word for given in service.of_images for word in given[0]["text"].split() if len(word) < 9} == {
        "first",
        "last",
    }
    found = {finding.category: finding.probability for finding in verdict.findings}
    assert found == {"suicide_self_harm": 0.0, "sexual_content": 0.95, "violence_hate": 0.0}
    assert verdict.unsafe == 0.95


@pytest.mark.parametrize("result", [{}, {"category_applied_input_types": {"sexual": ["text"]}, "category_scores": {}}])
def test_openai_must_have_read_the_image(result: Any) -> None:
    """An answer about the text alone is no verdict on the image; nor is one without a score that applies."""
    family = openai_moderation.open_family()
    with pytest.raises(GuardUnavailable):
        family.image_verdict({"results": [result]}, "g")
    types = {"category_applied_input_types": {"sexual": ["image"], "violence": ["image"]}}
    with pytest.raises(GuardUnavailable, match="no score for violence"):
        family.image_verdict({"results": [{**types, "category_scores": {"sexual": 0.1}}]}, "g")


def test_azure_judges_an_image_by_its_own_path() -> None:
    """Without the text; of four levels, the highest is 6."""
    family = azure_content_safety.open_family()
    (call,) = family.image_calls(["a", "b"], InlineImage("image/png", "QQ=="))
    assert (call.path, dict(call.params)) == ("/contentsafety/image:analyze", {"api-version": "2024-09-01"})
    assert call.body["image"] == {"content": "QQ=="}
    assert call.body["outputType"] == "FourSeverityLevels"
    levels = {"Hate": 0, "SelfHarm": 2, "Sexual": 4, "Violence": 6}
    analysis = [{"category": label, "severity": severity} for label, severity in levels.items()]
    verdict = family.image_verdict({"categoriesAnalysis": analysis}, "g")
    found = {finding.category: finding.probability for finding in verdict.findings}
    assert found == pytest.approx({"violence_hate": 1.0, "suicide_self_harm": 1 / 3, "sexual_content": 2 / 3})
    with pytest.raises(GuardUnavailable, match="outside 0 to 6"):
        family.image_verdict({"categoriesAnalysis": [{"category": "Hate", "severity": 7}]}, "g")


@pytest.mark.parametrize(
    "family", [perspective.open_family(), openai_moderation.open_family(model="text-moderation-latest")]
)
def test_a_service_that_reads_no_images_says_so(family: Any) -> None:
    """It is never asked about the text alone in place of the image."""
    service = Moderation()
    with pytest.raises(GuardUnavailable, match="reads no images"):
        _judged(family, service.app, shown())
    assert not service.bodies
