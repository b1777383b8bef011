"""The engine on CUDA: bfloat16 and float32 against the CPU, out of memory, and devices."""

import pytest
import torch

from guardproxy.engine.decoder.grammar import Grammar, compile_grammar
from guardproxy.engine.decoder.prompts import EncodedPrompt
from guardproxy.engine.decoder.runner import GenerativeRunner
from guardproxy.engine.load import LoadedModel, choose_device, choose_dtype
from guardproxy.engine.runner import WorkItem
from guardproxy.ports import LabelList

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device on this machine"),
]
HEAD = list(range(10, 210))


def letters(text):
    """One token for each character: a tokenizer that needs no files."""
    return [ord(letter) for letter in text]


def grammar() -> Grammar:
    """Two verdict letters and three labels."""
    readout = LabelList("s", "u", "\n", ("a", "b", "c"), ",", "", tolerance=1e-6)
    return compile_grammar(readout, letters, lambda _: None, [2])


def works(count):
    """Checks of unequal lengths behind one policy text."""
    read = grammar()
    texts = [[300 + (at * 7 + step * 13) % 600 for step in range(20 + at * 17 % 90)] for at in range(count)]
    return [
        WorkItem(len(t) + 5, EncodedPrompt([*HEAD, *t, 5, 6, 7, 8, 9], len(HEAD), len(HEAD) + len(t), "k", read))
        for t in texts
    ]


def model(device, dtype):
    """The same random Llama on any device, with a tokenizer that is not used."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        initializer_range=0.05,
        max_position_embeddings=1024,
        eos_token_id=2,
    )
    made = transformers.LlamaForCausalLM(config).to(device, dtype).eval().requires_grad_(False)
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))
    ends = type("Ends", (), {"eos_token_id": 2})()
    return LoadedModel(made, backend, ends, None)


def readings(device, dtype, count=24, **options):
    """Probabilities of every check, in one batch."""
    runner = GenerativeRunner(model(device, dtype), torch.device(device), **options)
    return [done.reading.probabilities for done in runner.run(works(count))]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-3), (torch.bfloat16, 0.03)])
def test_probabilities_equal_those_of_the_cpu(dtype, bound):
    """Float32 agrees closely, bfloat16 within its stated bound."""
    wanted = readings("cpu", torch.float32)
    got = readings("cuda", dtype)
    for row, reference in zip(got, wanted, strict=True):
        assert max(abs(a - b) for a, b in zip(row, reference, strict=True)) < bound


def test_a_check_reads_the_same_alone_and_in_a_batch():
    """In bfloat16 the batch changes a probability by less than the stated bound."""
    runner = GenerativeRunner(model("cuda", torch.bfloat16), torch.device("cuda"))
    together = runner.run(works(24))
    for work, got in zip(works(24), together, strict=True):
        (alone,) = runner.run([work])
        assert alone.reading.probabilities[0] == pytest.approx(got.reading.probabilities[0], abs=0.02)


def test_out_of_memory_splits_the_batch_and_goes_on():
    """With the device's memory nearly full, every check of a batch that does not fit still gets its reading."""
    runner = GenerativeRunner(model("cuda", torch.bfloat16), torch.device("cuda"))
    wanted = [done.reading.probabilities[0] for done in runner.run(works(48))]
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(max(0, free - (48 << 20)), dtype=torch.uint8, device="cuda")
    got = [done.reading.probabilities[0] for done in runner.run(works(48))]
    del hog
    assert got == pytest.approx(wanted, abs=0.02)


def test_devices_and_dtypes_are_chosen():
    """auto takes the first CUDA device and bfloat16; an index is kept."""
    assert choose_device("auto") == torch.device("cuda:0")
    assert choose_device(f"cuda:{torch.cuda.device_count() - 1}").index == torch.cuda.device_count() - 1
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
