"""Images in the pipeline: which become readable, whom they are shown to, and what a rewrite or an exclusion leaves."""

import asyncio
import io
from base64 import b64decode
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from prometheus_client import CollectorRegistry

from guardproxy.actions import REGISTRY as ACTIONS
from guardproxy.errors import GuardUnavailable, TooLarge
from guardproxy.images import ImageBounds, InlineImage
from guardproxy.observe import Metrics, Observers
from guardproxy.observe.masking import text_hash
from guardproxy.pipeline import Exclusions
from guardproxy.pipeline.images import Images
from guardproxy.pipeline.judging import Judging
from guardproxy.pipeline.traits import GuardTraits, ImageReading
from guardproxy.pipeline.turns import joined_turns, texts_after
from guardproxy.policy import JudgeScope, Policy, Rule, SideRules
from guardproxy.registry import load
from guardproxy.reviews import Exclusion
from guardproxy.types import Category, Check, Finding, Message, Part, Refuse, Replace, Taxonomy, Verdict
from tests.pictures import animation, encoded, is_red, picture

READING = ImageReading(frozenset({"user", "assistant"}), ImageBounds(1_000_000), 3, 1_000_000, 1_000_000)
RULES = SideRules({"weapons": (Rule("block", 0.5),), "hate": (Rule("rewrite", 0.5, "redact"),)})
POLICY = Policy("default", "v1", user=RULES, assistant=RULES)


class Eyes:
    """A guard that finds weapons in red pictures and hate in `rude` texts; `asked` are its checks."""

    name = "eyes"
    taxonomy = Taxonomy("t", (Category("weapons", "W"), Category("hate", "H")), "1")

    def __init__(self) -> None:
        self.asked: list[Check] = []

    async def judge(self, check: Check) -> Verdict:
        self.asked.append(check)
        assert len(check.turn.images) < 2
        assert not any(message.images for message in check.conversation.messages[:-1])
        red = any(is_red(b64decode(part.image.data)) for part in check.turn.images if part.image)
        weapons, hate = 0.9 * red, 0.9 * ("rude" in check.turn.text)
        return Verdict(max(weapons, hate), (Finding("weapons", weapons), Finding("hate", hate)), self.name)

    def forget(self, stream: str) -> None: ...
    async def start(self) -> None: ...
    async def close(self) -> None: ...


def judging(guard: Any, traits: GuardTraits | None = None, **more: Any) -> Judging:
    """A judging with every action."""
    metrics = Metrics(CollectorRegistry())
    actions = {name: load(name, ACTIONS, "action") for name in ACTIONS}
    traits = traits or GuardTraits(images=READING)
    return Judging(guard, Observers({}, metrics=metrics, text="full"), metrics, actions, traits=traits, **more)


def sent(*images: bytes, text: str = "hello", role: Any = "user", of_tool: bool = False) -> Message:
    """A message as a wire reads it."""
    pictures = [
        Part(f"image[{n}]", "", "opaque", "image", InlineImage("", encoded(data), of_tool))
        for n, data in enumerate(images)
    ]
    return Message(role, (*([Part("text", text)] if text else []), *pictures))


def read(message: Message, policy: Policy = POLICY, reading: ImageReading = READING) -> Message:
    """The message with its images."""
    return asyncio.run(Images(reading).of_request([message], policy))[0]


RED, GREEN = picture("red"), picture()


def test_each_image_is_judged_with_the_text() -> None:
    """Beside the text by itself; the worst is the turn's, and the finding names the image."""
    guard = Eyes()
    judged = asyncio.run(judging(guard).judgement((sent(RED),), read(sent(GREEN, RED, text="look")), POLICY))
    assert judged.verdict is not None
    assert (judged.verdict.unsafe, judged.verdict.view, judged.decision.action) == (0.9, "image 2", "block")
    asked = [(check.turn.text, len(check.turn.images)) for check in guard.asked]
    assert asked == [("look", 0), ("look", 1), ("look", 1)]


def test_an_image_without_a_text_is_judged_alone() -> None:
    """No guard is asked about an empty text."""
    guard = Eyes()
    judged = asyncio.run(judging(guard).judgement((), read(sent(RED, text="")), POLICY))
    assert (judged.decision.action, len(guard.asked)) == ("block", 1)


def test_a_guard_that_reads_text_only_sees_what_it_saw() -> None:
    """The image stays opaque."""
    messages = [sent(RED)]
    assert asyncio.run(Images(None).of_request(messages, POLICY)) is messages
    guard = Eyes()
    judged = asyncio.run(judging(guard, GuardTraits()).judgement((), messages[0], POLICY))
    assert (judged.decision.action, judged.decision.cause) == ("flag", "opaque")
    assert guard.asked[0].turn is messages[0]


def test_an_image_that_nobody_is_asked_about_is_a_failure() -> None:
    """Were the traits not those of the guard, it would pass unseen."""
    blind = GuardTraits(images=replace(READING, places=frozenset()))
    judged = asyncio.run(judging(Eyes(), blind).judgement((), read(sent(RED)), POLICY))
    assert isinstance(judged.failure, GuardUnavailable)


@pytest.mark.parametrize(
    ("places", "as_user", "views"),
    [
        ({"user", "tool"}, True, ["image", "tool+image"]),
        ({"user"}, True, ["image"]),
        ({"tool"}, True, ["tool+image"]),
        ({"tool", "user"}, False, ["tool+image"]),
        ({"user"}, False, []),
    ],
)
@pytest.mark.parametrize("message", [sent(RED, role="tool"), sent(RED, of_tool=True)], ids=["role", "part"])
def test_images_of_tools(message: Message, places: Any, as_user: bool, views: list[str]) -> None:
    """They are shown as the user's and as the tool's to the guards of these that read images; to none, it is opaque."""
    reading = replace(READING, places=frozenset(places))
    policy = replace(POLICY, judge=replace(POLICY.judge, tool_as_user=as_user))
    found = read(message, policy, reading)
    assert bool(found.images) == bool(views)
    guard = judging(Eyes(), GuardTraits(images=reading, reads_tools=True))
    judged = asyncio.run(guard.judgement((), found, policy))
    assert judged.scores is not None
    assert [name for name, _ in judged.scores.by_view if "image" in name] == views


def test_joined_turns_show_the_images_of_users_only() -> None:
    """A tool's are judged with their own message: a turn grows with each of its results."""
    messages = [read(sent(GREEN, text="look")), read(sent(GREEN, role="tool", text="done")), sent(text="what is it?")]
    (turn,) = joined_turns(messages, JudgeScope(), {})
    assert (turn.message.text, len(turn.message.images)) == ("look\ndone\nwhat is it?", 1)


@pytest.mark.parametrize(("image", "outcome"), [(RED, Refuse), (GREEN, Replace)])
@pytest.mark.parametrize("how", ["redact", "replace"])
def test_a_rewrite_leaves_no_harmful_image(image: bytes, outcome: type, how: str) -> None:
    """A rewrite changes texts, so an image that is harmful by itself refuses the turn; another one stays."""
    rules = SideRules({"weapons": (Rule("rewrite", 0.5, how),), "hate": (Rule("rewrite", 0.5, how),)})
    policy = replace(POLICY, user=rules)
    guard = judging(Eyes())

    async def run() -> Any:
        message = (await Images(READING).of_request([sent(image, text="You are rude. Hello.")], policy))[0]
        judged = await guard.judgement((), message, policy)
        return message, await guard.act((), message, judged.decision, policy)

    message, made = asyncio.run(run())
    assert isinstance(made, outcome)
    if isinstance(made, Replace):
        assert list(texts_after(message, made)) == ["text"]


def test_an_exclusion_of_a_text_covers_no_image() -> None:
    """The text beside the picture is known to be harmless, and the picture is not."""
    exclusions = Exclusions()
    exclusions.use("file", [Exclusion("1", text_hash("hello"), "*", "a song", "ann", float("inf"))])
    for image, action in ((RED, "block"), (GREEN, "pass")):
        judged = asyncio.run(judging(Eyes(), exclusions=exclusions).judgement((), read(sent(image)), POLICY))
        assert judged.decision.action == action


def test_limits_refuse_a_request_and_leave_a_reply_opaque() -> None:
    """Both say which limit it is."""
    cases = [
        (sent(GREEN, GREEN, GREEN, RED), READING, "limits.images"),
        (sent(RED), replace(READING, most_bytes=len(RED) - 1), "limits.image_bytes"),
        (sent(RED), replace(READING, most_pixels=64 * 48 - 1), "limits.image_pixels"),
    ]
    for message, reading, limit in cases:
        with pytest.raises(TooLarge, match=limit):
            read(message, reading=reading)
        reply = replace(message, role="assistant")
        (found,) = asyncio.run(Images(reading).of_reply([reply], POLICY))
        (part,) = found.opaque
        assert limit in part.note
        assert len(found.images) == len(message.opaque) - 1


def test_the_bounds_of_the_guard_are_opaque() -> None:
    """The client cannot know them."""
    for bounds in (ImageBounds(10), ImageBounds(10**6, least=50), ImageBounds(10**6, most=60)):
        (part,) = read(sent(RED), reading=replace(READING, bounds=bounds)).opaque
        assert "the guard reads images" in part.note


def test_base64_has_one_meaning() -> None:
    """Other characters, which some decoders skip and others do not, leave the image opaque. Padding may be missing."""
    data = next(file for n in range(99) if "=" in (text := encoded(file := picture(f"#{n:02x}1234"))) and "+" in text)
    texts = {text: False, text.rstrip("="): False}
    texts |= {text.replace("+", "-"): True, f"{text[:8]}----{text[8:]}": True, f"{text[:8]}\n{text[8:]}": True}
    texts |= {f"{text[:8]}=={text[8:]}": True}
    for written, is_opaque in texts.items():
        message = Message("user", (Part("p", "", "opaque", "image", InlineImage("image/png", written)),))
        (part,) = read(message).parts
        assert (part.kind == "opaque") == is_opaque
        assert is_opaque or (part.image is not None and b64decode(part.image.data) == data)


def test_a_phone_s_jpeg_with_a_second_picture_is_read() -> None:
    """As JPEG, by its first picture."""
    file = io.BytesIO()
    first, second = (Image.new("RGB", (64, 48), colour) for colour in ("green", "blue"))
    first.save(file, "MPO", save_all=True, append_images=[second])
    image = InlineImage("image/jpg", encoded(file.getvalue()))
    (part,) = read(Message("user", (Part("p", "", "opaque", "image", image),))).images
    assert part.note.startswith("image/jpeg 64x48")


@given(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP"]), st.data())
@settings(max_examples=60, deadline=None)
def test_no_bytes_break_the_decoder(kind: str, data: Any) -> None:
    """A damaged or random file is an image or opaque, and nothing else."""
    file = bytearray(picture("red", kind) if data.draw(st.booleans()) else animation())
    for _ in range(data.draw(st.integers(0, 6))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(file[: data.draw(st.integers(0, len(file)))])
    reading = replace(READING, most_pixels=10**9)
    (part,) = read(sent(cut or b"x", text=""), reading=reading).parts
    assert part.kind in ("image", "opaque")
