"""The order of arrival: where a text stands among the parts of its choice decides whether texts alternate."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from guardproxy.wires.shared.arrival import Arrivals

PATHS = [f"content[{number}].text" for number in range(40)]


@given(
    st.lists(st.sampled_from(PATHS), min_size=1, max_size=40, unique=True),
    st.lists(st.integers(0, 39), min_size=1, max_size=60),
    st.integers(1, 60),
)
def test_a_frame_with_many_texts_is_as_many_frames(parts: list[str], order: list[int], split: int) -> None:
    """The places of texts are the same, whether a frame brings one text or many of them."""
    said = [(parts[number % len(parts)], "text", f"{count} ") for count, number in enumerate(order)]
    known = dict.fromkeys(parts)
    one, many = Arrivals(), Arrivals()
    for piece in said:
        one.add(0, [piece], known)
    for start in range(0, len(said), split):
        many.add(0, said[start : start + split], known)
    assert many.fed() == one.fed()
    places = [parts.index(path) for path, _, _ in said]
    assert bool(one.fed()) == any(
        later < earlier or (later != earlier and later in places[: at + 1])
        for at, (earlier, later) in enumerate(pairwise(places))
    )
