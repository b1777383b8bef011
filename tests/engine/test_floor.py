"""Label lists are read above the floor that the policies set, and always if a floor could hide a category."""

import asyncio

import pytest

from guardproxy import app
from guardproxy.app.guards import members
from guardproxy.families.llama_guard import open_family
from guardproxy.guards.local import ModelOptions, open_local_guard
from guardproxy.ports import LabelList
from guardproxy.settings.load import load_text
from guardproxy.types import Category, Finding, Taxonomy, Verdict
from tests.engine.kit import check, prompt, tiny

pytestmark = pytest.mark.timeout(600)  # the first test converts the GGUF file

# P(unsafe) of a random model is far under it.
FLOOR = 0.9999


class TwoLists:
    """A family with two prompts, each with its own unsafe word and label list."""

    taxonomy = Taxonomy("t", (Category("a", "A"), Category("b", "B")))

    def render(self, asked):
        words = (" unsafe", " bad")
        readouts = [LabelList(" safe", word, "\n", ("O1", "O2"), ",", "") for word in words]
        return tuple(prompt(asked.turn.text, readout=readout) for readout in readouts)

    def parse(self, asked, readings, guard):
        found = zip(self.taxonomy.categories, readings[0].probabilities[1:], strict=True)
        return Verdict(readings[0].probabilities[0], tuple(Finding(c.id, p) for c, p in found), guard)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama with its tokenizer, in a directory."""
    path = tmp_path_factory.mktemp("tiny")
    loaded = tiny("Llama", max_position_embeddings=2048)
    loaded.model.save_pretrained(path)
    loaded.tokenizer.save_pretrained(path)
    return str(path)


def judged(guard):
    """The verdict on a text."""

    async def story():
        await guard.start()
        try:
            return await guard.judge(check("How do I whittle a spoon?"))
        finally:
            await guard.close()

    return asyncio.run(story())


def test_below_the_floor_nothing_is_said_of_categories(folder):
    """A list that no threshold needs is not read, and no finding has its categories."""
    family = open_family(version="2")
    low, high = (
        judged(open_local_guard("g", family, ModelOptions(folder, device="cpu", floor=floor))) for floor in (FLOOR, 0.0)
    )
    assert low.unsafe == pytest.approx(high.unsafe, abs=1e-5)
    assert (low.findings, low.leftover) == ((), low.unsafe)
    assert [finding.category for finding in high.findings] == [one.id for one in family.taxonomy.categories]


def test_several_lists_are_read_whatever_the_floor(folder):
    """Two lists below the floor can be above it together, so a family with two lists has no floor."""
    verdict = judged(open_local_guard("g", TwoLists(), ModelOptions(folder, device="cpu", floor=FLOOR)))
    assert verdict.unsafe < FLOOR
    assert sum(finding.probability for finding in verdict.findings) > 0.5 * verdict.unsafe


@pytest.mark.parametrize("mean", ["", '\n  mean: {"*": [1, 1]}'])
def test_a_mean_is_of_what_every_guard_says(folder, mean):
    """A mean can be above a threshold although one of its guards is below it, so every guard reads its lists."""
    one = f'{{family: llama_guard, model: {folder}, options: {{version: "2"}}}}'
    text = f"version: 1\nguard:\n  all: [a, b]{mean}\nguards:\n  a: {one}\n  b: {one}\n"
    policy = f"policies:\n  default:\n    unsafe: {{block: {FLOOR}}}\n"
    settings = load_text(text + policy, "test.yaml", {}, app.catalogue())
    for guard in members(settings, floor=FLOOR):
        assert bool(judged(guard).findings) is bool(mean)
