"""The hold-back buffer never releases unjudged text, and frames keep their order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.chunks import Chunk, Mark
from guardproxy.holdback import Ask, HoldBack
from guardproxy.policy import StreamPolicy


def text(choice: int, upto: int, **kind: int) -> Chunk:
    """Return a frame that takes a choice to `upto`."""
    return Chunk(f"{choice}:{upto};".encode(), (Mark(choice, upto, **kind),))  # type: ignore[arg-type]  # flags or a number


def raws(chunks: list[Chunk]) -> bytes:
    """Return the bytes of several frames."""
    return b"".join(chunk.raw for chunk in chunks)


def test_text_waits_for_its_verdict() -> None:
    """Text is released only after a check that covers it has passed."""
    hold = HoldBack(StreamPolicy("window", every=10))
    hold.add(text(0, 6))
    assert hold.ask() == []
    hold.add(text(0, 12))
    (ask,) = hold.ask()
    assert (ask, hold.ask(), hold.release()) == (Ask(0, 12, final=False), [], [])
    hold.add(text(0, 15))
    hold.passed(ask)
    assert raws(hold.release()) == b"0:6;0:12;"
    assert not hold.empty


def test_a_check_is_due_when_enough_text_is_new() -> None:
    """The distance to the next check is counted from the last verdict, and reached exactly at `every` characters."""
    hold = HoldBack(StreamPolicy("window", every=10))
    hold.add(text(0, 9))
    assert hold.ask() == []
    hold.add(text(0, 10))
    (first,) = hold.ask()
    hold.passed(first)
    hold.add(text(0, 19))
    assert hold.ask() == []
    hold.add(text(0, 20))
    assert hold.ask() == [Ask(0, 20, final=False)]


def test_marks_without_text() -> None:
    """A choice begins at no characters: an empty one is judged up to 0, and released only after the verdict."""
    hold = HoldBack(StreamPolicy("window", every=1))
    hold.add(text(0, 0))
    assert (hold.ask(), raws(hold.release())) == ([], b"0:0;")
    hold.add(text(0, 0, final=True))
    (ask,) = hold.ask()
    assert (ask, hold.release()) == (Ask(0, 0, final=True), [])
    hold.passed(ask)
    assert raws(hold.release()) == b"0:0;"
    assert hold.open == ()


def test_final_and_whole_frames_wait_for_the_whole_choice() -> None:
    """A tool call or a finish frame is released only after the verdict on the complete choice."""
    hold = HoldBack(StreamPolicy("window", every=5))
    hold.add(text(0, 5, whole=True))
    (first,) = hold.ask()
    hold.passed(first)
    assert hold.release() == []
    hold.add(text(0, 5, final=True))
    (last,) = hold.ask()
    assert last.final
    hold.passed(last)
    assert raws(hold.release()) == b"0:5;0:5;"


def test_opaque_parts_wait_for_a_check_that_was_asked_behind_them() -> None:
    """The running check may have begun without them. The text behind them may leave with the same check."""
    hold = HoldBack(StreamPolicy("window", every=5, exposure=3))
    hold.add(text(0, 5))
    (first,) = hold.ask()
    hold.add(text(0, 5, opaques=1))
    hold.add(text(0, 7))
    hold.passed(first)
    assert raws(hold.release()) == b"0:5;"
    hold.add(text(0, 10))
    (second,) = hold.ask()
    assert (first.opaques, second.opaques) == (0, 1)
    hold.add(text(0, 10, opaques=2))
    hold.passed(second)
    assert raws(hold.release()) == b"0:5;0:7;0:10;"
    hold.complete()
    hold.passed(hold.ask()[0])
    assert raws(hold.release()) == b"0:10;"


def positions(steps: list[tuple[int, int]], at_once: bool) -> list[int]:
    """Return where a stream of frames (where it takes the choice, where an answer begins) is judged."""
    hold, asked = HoldBack(StreamPolicy()), []
    for upto, begins in steps:
        hold.add(text(0, upto, begins=begins))
        while not at_once and (due := hold.ask()):
            asked += [ask.upto for ask in due]
            hold.passed(due[0])
    while due := hold.ask():
        asked += [ask.upto for ask in due]
        hold.passed(due[0])
    return asked


def test_the_grid_begins_anew_where_an_answer_begins() -> None:
    """Behind long reasoning the first check of the answer comes as soon as in an answer without any."""
    steps = [(upto, 5000 if upto == 5010 else 0) for upto in range(10, 7000, 10)]
    reasoning = [80, 160, 256, 409, 654, 1046, 1673, 2676, 4276]
    answer = [80, 160, 256, 409, 654, 1046, 1673]
    assert positions(steps, at_once=False) == [*reasoning, *(5000 + position for position in answer)]
    assert positions([(79, 0), (200, 79)], at_once=False) == [80, 160]


@given(st.lists(st.tuples(st.integers(1, 400), st.booleans()), max_size=40))
def test_the_positions_depend_on_the_text_alone(steps: list[tuple[int, bool]]) -> None:
    """Whether the frames come one by one or at once, and also if many answers begin."""
    size, frames = 0, []
    for characters, begins in steps:
        frames.append((size + characters, size if begins else 0))
        size += characters
    assert positions(frames, at_once=False) == positions(frames, at_once=True)


def test_a_frame_behind_the_end_needs_its_own_verdict() -> None:
    """A frame that ends a choice again waits for a check that was asked after it came."""
    hold = HoldBack(StreamPolicy("window", every=5))
    hold.add(text(0, 3, final=True))
    (first,) = hold.ask()
    hold.add(text(0, 3, final=True))
    hold.passed(first)
    assert hold.release() == []
    (second,) = hold.ask()
    hold.passed(second)
    assert raws(hold.release()) == b"0:3;0:3;"
    hold.add(text(0, 3, whole=True))
    assert (hold.ask(), raws(hold.release())) == ([], b"0:3;")
    hold.add(text(0, 3, final=True))
    assert hold.release() == []
    hold.settle(0)
    hold.add(text(0, 3, final=True))
    assert (hold.ask(), raws(hold.release())) == ([], b"0:3;0:3;")


def test_hold_all_asks_once() -> None:
    """`hold_all` checks nothing and releases nothing before the reply is complete."""
    hold = HoldBack(StreamPolicy("hold_all", every=1))
    hold.add(text(0, 500))
    assert (hold.ask(), hold.release()) == ([], [])
    hold.complete()
    (ask,) = hold.ask()
    hold.passed(ask)
    assert raws(hold.release()) == b"0:500;"


def test_hold_all_releases_nothing_that_an_exposure_would_allow() -> None:
    """An exposure is for `window`: with `hold_all` no text is released before the verdict on the whole reply."""
    hold = HoldBack(StreamPolicy("hold_all", exposure=100))
    hold.add(text(0, 0))
    hold.add(text(0, 5))
    assert hold.release() == []


def test_monitor_holds_nothing() -> None:
    """`monitor` releases everything at once, also final frames, and still asks for the last verdict."""
    hold = HoldBack(StreamPolicy("monitor"))
    hold.add(text(0, 500))
    hold.add(text(0, 500, final=True))
    assert raws(hold.release()) == b"0:500;0:500;"
    assert hold.ask() == [Ask(0, 500, final=True)]


def test_exposure_is_a_bound() -> None:
    """With `exposure: 8` a client sees at most eight characters without a verdict."""
    hold = HoldBack(StreamPolicy("window", every=10, exposure=8))
    for upto in (4, 8, 9):
        hold.add(text(0, upto))
    assert raws(hold.release()) == b"0:4;0:8;"


def test_deferred_choice_waits_for_its_end() -> None:
    """After a finding that needs the whole choice, nothing more of it is released and no further check runs."""
    hold = HoldBack(StreamPolicy("window", every=5, exposure=100))
    hold.add(text(0, 6))
    (ask,) = hold.ask()
    hold.defer(ask)
    hold.add(text(0, 60))
    assert (hold.ask(), hold.release()) == ([], [])
    hold.add(text(0, 60, final=True))
    assert hold.ask() == [Ask(0, 60, final=True)]


def test_a_settled_choice_holds_no_frame() -> None:
    """When the proxy ends a choice, the frames behind it can be released."""
    hold = HoldBack(StreamPolicy("window", every=5))
    hold.add(text(0, 9))
    hold.add(Chunk(b"ping", ()))
    hold.settle(0)
    assert raws(hold.release()) == b"0:9;ping"
    assert hold.open == ()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_nothing_unjudged_leaves_and_order_holds(data: st.DataObject) -> None:
    """For any order of frames and verdicts, released text is covered and released frames are a prefix of all frames."""
    exposure = data.draw(st.sampled_from([0, 0, 7]))
    hold = HoldBack(StreamPolicy("window", every=data.draw(st.integers(1, 30)), exposure=exposure))
    seen, judged, closed = {0: 0, 1: 0}, {0: 0, 1: 0}, set()
    opaques, judged_opaques, asked = {0: 0, 1: 0}, {0: 0, 1: 0}, {}
    queued, left, pending = [], [], []
    for _ in range(data.draw(st.integers(1, 40))):
        if pending and data.draw(st.booleans()):
            ask = pending.pop(data.draw(st.integers(0, len(pending) - 1)))
            judged[ask.choice] = ask.upto
            judged_opaques[ask.choice] = asked[ask]
            if ask.final:
                closed.add(ask.choice)
            hold.passed(ask)
        else:
            choice = data.draw(st.sampled_from([0, 1]))
            seen[choice] += data.draw(st.integers(0, 12))
            more = data.draw(st.sampled_from([0, 0, 1]))
            opaques[choice] += more
            chunk = text(choice, seen[choice], opaques=opaques[choice] if more else 0)
            queued.append(chunk)
            hold.add(chunk)
        due = hold.ask()
        asked |= {ask: opaques[ask.choice] for ask in due}
        pending += due
        for chunk in hold.release():
            (mark,) = chunk.marks
            assert mark.upto <= judged[mark.choice] + exposure or mark.choice in closed
            assert mark.opaques <= judged_opaques[mark.choice] or mark.choice in closed
            left.append(chunk)
    assert left == queued[: len(left)]
    hold.complete()
    while pending or (pending := hold.ask()):
        hold.passed(pending.pop())
        pending += hold.ask()
    left += hold.release()
    assert left == queued
    assert hold.held_bytes == 0
