"""Seals around the results of decodings."""

from guardproxy.views.seals import SEAL, Seals


def test_results_are_sealed_only_if_they_differ() -> None:
    """A result that is its input has no seal; without seals, every result stands as it is."""
    assert SEAL == "\ud800"
    seals = Seals("|", "#")
    assert (seals.around_character("a", "b"), seals.around_run("a", "b")) == ("|b|", "#b#")
    assert (seals.around_character("a", "a"), seals.around_run("a", "a")) == ("a", "a")
    assert (Seals().around_character("a", "b"), Seals().around_run("a", "b")) == ("b", "b")
