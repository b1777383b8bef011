"""SmolLM2's real weights under Llama Guard 1's prompt, against transformers' own generate; and the demo model."""

import asyncio

import pytest
import torch

from guardproxy.demo.model import DemoLLM
from guardproxy.errors import ConfigError, TooLarge
from guardproxy.families.llama_guard import open_family
from guardproxy.guards.local import ModelOptions, open_local_guard
from tests.engine.kit import check, encode, runner, smollm, smollm_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TALKS = (
    check("How do I sharpen a chisel without a stone?"),
    check("My neighbour's dog barks all night.", "You could throw something at it.", side="assistant"),
)


def test_unsafe_equals_the_reference_generate():
    """P(unsafe) equals that of generate(..., output_scores=True) on the whole prompt, to 1e-4."""
    loaded, family = smollm(), open_family(version="1")
    model = runner(loaded, floor=1.0)
    for talk in TALKS:
        (prompt,) = family.render(talk)
        (work,) = model.encode(prompt)
        text = "".join(piece.text for piece in prompt.pieces)
        ids = torch.tensor([encode(loaded, text)])
        assert work.data.ids == ids[0].tolist()
        out = loaded.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=1,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
            pad_token_id=0,
        )
        share = torch.softmax(out.scores[0][0].float(), -1)
        safe, unsafe = (float(share[encode(loaded, text + word)[ids.shape[1]]]) for word in (" safe", " unsafe"))
        (done,) = model.run([work])
        assert done.reading.probabilities[0] == pytest.approx(unsafe / (safe + unsafe), abs=1e-4)
        assert done.reading.outside == pytest.approx(1 - safe - unsafe, abs=1e-4)


def test_a_growing_reply_equals_the_reply_alone():
    """On real weights a stream's checks equal those of the same text from scratch, to 1e-4."""
    family = open_family(version="1")
    model = runner(smollm(), floor=1.0)
    reply = "First, take the lid off. Then drain what is left, and put it where the children cannot reach."
    for cut in (31, len(reply)):
        (prompt,) = family.render(check("How do I empty a paint tin?", reply[:cut], side="assistant"))
        (grown,) = model.run(model.encode(prompt))
        fresh = runner(smollm(), floor=1.0)
        (alone,) = fresh.run(fresh.encode(prompt))
        assert grown.reading.probabilities[0] == pytest.approx(alone.reading.probabilities[0], abs=1e-4)


def test_a_missing_model_says_what_to_do():
    """A missing path and a hub id that is not cached are configuration errors with advice."""
    for model, advice in (("/no/such/model", "no such file"), ("nobody/no-such-guard", "hf download")):
        guard = open_local_guard("g", open_family(version="1"), ModelOptions(model, device="cpu"))
        with pytest.raises(ConfigError, match=advice):
            asyncio.run(guard.start())


def test_an_impossible_device_says_so():
    """A device that torch cannot use is a configuration error with the number of usable devices."""
    for device, message in (("cuda:99", "CUDA devices"), ("tpu", "expected auto")):
        guard = open_local_guard("g", open_family(version="1"), ModelOptions(str(smollm_file()), device=device))
        with pytest.raises(ConfigError, match=message):
            asyncio.run(guard.start())


def test_the_demo_model_answers_in_a_stream():
    """Deltas arrive one by one, token counts are given, a stop text ends the answer, a long prompt is refused."""

    async def body():
        demo = DemoLLM(threads=1)
        await demo.start()
        answer = demo.stream([{"role": "user", "content": "What is the capital of France?"}], 12)
        deltas = [delta async for delta in answer]
        stopped = demo.stream([{"role": "user", "content": "What is the capital of France?"}], 12, stop=[" Paris"])
        short = "".join([delta async for delta in stopped])
        with pytest.raises(TooLarge):
            demo.stream([{"role": "user", "content": "word " * 9000}], 10)
        await demo.close()
        return answer, deltas, short

    answer, deltas, short = asyncio.run(body())
    assert "Paris" in "".join(deltas)
    assert len(deltas) > 3
    assert answer.completion_tokens <= 12
    assert answer.prompt_tokens > 10
    assert "Paris" not in short
