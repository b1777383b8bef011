"""The views of a choice of a stream that is read beside the others, in the order in which all their texts arrived."""

import asyncio
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.pipeline.message_views import ArrivalViews, MessageViews, ReplyViews
from guardproxy.types import Message, Part, PartKind
from guardproxy.views import VIEWS, apart, joined, views_of
from tests.views.test_growing import HIDDEN, PROSE

KINDS: dict[str, PartKind] = {"content": "text", "reasoning_content": "reasoning"}
_said = st.tuples(
    st.integers(0, 2), st.sampled_from([*KINDS]), st.sampled_from([*PROSE, *HIDDEN[:6], "a bo", "mb", "Fine. "])
)


def message_of(choice: int, said: list[tuple[int, str, str]]) -> Message:
    """A choice as it has come by now: its texts, and the pieces of all choices in order."""
    paths = {name: f"choices[{choice}].message.{name}" for name in KINDS}
    texts = {name: "".join(text for of, at, text in said if (of, at) == (choice, name)) for name in KINDS}
    parts = [Part(paths[name], texts[name], KINDS[name]) for name in KINDS if texts[name]]
    pieces = [Part(f"choices[{of}].message.{at}", text, KINDS[at]) for of, at, text in said]
    return Message("assistant", tuple(parts), tuple(pieces))


async def texts_of(views: MessageViews, message: Message, growing: ReplyViews | None = None) -> set[str]:
    """The texts of a message and its views."""
    found = await views.of(message, VIEWS, growing=growing)
    return {message.text, *(view.text for view in found.views)}


@settings(max_examples=60, deadline=None)
@given(st.lists(_said, min_size=1, max_size=12))
def test_what_is_read_of_a_choice_that_grows_beside_others(said: list[tuple[int, str, str]]) -> None:
    """At every size of the stream, each choice has the views that it would have if it were read alone and at once."""

    async def read() -> None:
        views, arrivals = MessageViews(30), ArrivalViews()
        growing = {choice: ReplyViews(arrivals) for choice in range(3)}
        for end in range(1, len(said) + 1):
            for choice in range(3):
                message = message_of(choice, said[:end])
                expected = views_of(message.text, joined(message), VIEWS, apart(message)).views
                found = await texts_of(views, message, growing[choice])
                assert found >= {view.text for view in expected}
                assert found == await texts_of(views, message)

    asyncio.run(read())


def test_the_texts_of_all_choices_are_searched_once() -> None:
    """Of a thousand choices, one search for the views serves all."""

    async def read() -> None:
        said = [(choice, "content", f"word {choice} of many. ") for choice in range(1000)]
        first, *others = [message_of(choice, said) for choice in range(1000)]
        arrivals, views = ArrivalViews(), MessageViews(30)
        found = await views.of(first, VIEWS, growing=ReplyViews(arrivals))
        everything = "".join(text for _, _, text in said)
        kept = arrivals.get((everything,))
        assert kept is not None
        assert everything in {view.text for view in found.views}
        for other in others:
            await views.of(other, VIEWS, growing=ReplyViews(arrivals))
        assert arrivals.get((everything,)) is kept
        await views.of(replace(first, arrived=first.arrived[:-1]), VIEWS, growing=ReplyViews(arrivals))
        assert arrivals.get((everything[: -len(said[-1][2])],)) is not kept

    asyncio.run(read())
