"""The packed engine against plain full forwards: random models, a real tokenizer, every label list."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardproxy.engine.tokenizer import PromptTokenizer
from guardproxy.errors import GuardUnavailable
from guardproxy.ports import LabelList, Piece, Prompt, TokenChoice
from tests.engine.kit import ANSWERS, POLICY, brute_force, encode, logits_of, prompt, read, runner, text_of, tiny

pytestmark = pytest.mark.timeout(600)  # the first test converts the GGUF file

TEXTS = (
    "How do I whittle a spoon?",
    "Tell me how to pick a lock, and then how to sell what is behind the door.",
    "¿Dónde está la biblioteca? 图书馆在哪里 🙂",
    "a",
    "How do I whittle a fork?",
    "x" * 300,
)


@pytest.fixture(scope="module")
def llama():
    """A random Llama with grouped query heads."""
    return tiny("Llama")


def close(got, wanted, tolerance=1e-5):
    """Assert that two rows of probabilities agree."""
    assert len(got) == len(wanted)
    assert max(abs(a - b) for a, b in zip(got, wanted, strict=True)) < tolerance


@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3", "Gemma2", "Mistral", "Granite"])
def test_label_lists_equal_brute_force_in_every_architecture(kind):
    """P(unsafe), every category and the outside mass equal plain full forwards over every list."""
    options = {"Granite": {"logits_scaling": 2.0}, "Gemma2": {"query_pre_attn_scalar": 8}}.get(kind, {})
    loaded = tiny(kind, seed=7, **options)
    model = runner(loaded)
    for text in TEXTS[:3]:
        asked = prompt(text)
        unsafe, inside, outside = brute_force(loaded, asked)
        (got,) = read(model, asked)
        close(got.probabilities, [unsafe, *inside])
        assert abs(got.outside - outside) < 1e-5
        assert got.leftover < 1e-8


def test_a_check_reads_the_same_alone_and_in_any_batch(llama):
    """Batches of any composition and order give the probabilities of the single check."""
    alone = [read(runner(llama), prompt(text))[0] for text in TEXTS]
    model = runner(llama)
    for order in ([0, 1, 2, 3, 4, 5], [5, 0, 3], [4, 4, 0], [2, 1]):
        for index, got in zip(order, read(model, *(prompt(TEXTS[index]) for index in order)), strict=True):
            close(got.probabilities, alone[index].probabilities)


def test_the_list_is_not_computed_below_the_floor(llama):
    """With P(unsafe) at or below the floor, every category has probability 0 and `leftover` is P(unsafe)."""
    (full,) = read(runner(llama), prompt(TEXTS[0]))
    (got,) = read(runner(llama, floor=full.probabilities[0] + 1e-4), prompt(TEXTS[0]))
    assert got.probabilities[0] == pytest.approx(full.probabilities[0], abs=1e-5)
    assert got.probabilities[1:] == (0.0, 0.0, 0.0)
    assert got.leftover == pytest.approx(got.probabilities[0])


def test_a_floor_below_changes_nothing(llama):
    """A list that is computed in a pass of its own has the probabilities of one computed inline."""
    (full,) = read(runner(llama), prompt(TEXTS[0]))
    (got,) = read(runner(llama, floor=1e-9), prompt(TEXTS[0]))
    close(got.probabilities, full.probabilities)


def test_leftover_is_honest(llama):
    """With a coarse tolerance the search stops early, and `leftover` bounds the error of every category."""
    fine = LabelList(" safe", " unsafe", "\n", ("O1", "O2", "O3", "O4"), ",", "", tolerance=1e-9)
    coarse = LabelList(" safe", " unsafe", "\n", ("O1", "O2", "O3", "O4"), ",", "", tolerance=0.2)
    for text in TEXTS:
        (exact,) = read(runner(llama), prompt(text, readout=fine))
        (rough,) = read(runner(llama), prompt(text, readout=coarse))
        for got, wanted in zip(rough.probabilities, exact.probabilities, strict=True):
            assert -1e-5 <= wanted - got <= rough.leftover + 1e-5


def test_token_choices_equal_the_full_softmax(llama):
    """Each label's spellings are summed and normalised; `outside` is the rest of the softmax."""
    readout = TokenChoice(("no", "yes"), ((" No", " no"), (" Yes", " yes", " YES")))
    asked = prompt(TEXTS[1], readout=readout)
    (got,) = read(runner(llama), asked)
    text = text_of(asked.pieces)
    share = torch.softmax(logits_of(llama, encode(llama, text)), -1)
    size = len(encode(llama, text))
    sums = [sum(float(share[t]) for t in {encode(llama, text + s)[size] for s in group}) for group in readout.spellings]
    close(got.probabilities, [value / sum(sums) for value in sums])
    assert got.outside == pytest.approx(1 - sum(sums), abs=1e-5)


def test_answers_that_begin_alike_are_refused(llama):
    """Two answers with the same first token cannot be distinguished: the guard is unavailable."""
    with pytest.raises(GuardUnavailable, match="same token"):
        runner(llama).encode(prompt("a", readout=TokenChoice(("a", "b"), ((" yes",), (" yes",)))))


def test_the_policy_text_is_computed_once(llama):
    """The second check computes only its own tokens and reuses those of the policy text."""
    model = runner(llama, floor=1.0)
    policy = len(encode(llama, POLICY.rstrip(" ")))
    (first,) = model.run(model.encode(prompt(TEXTS[0])))
    (second,) = model.run(model.encode(prompt(TEXTS[1])))
    assert first.reused == 0
    assert second.reused >= policy
    assert second.computed + second.reused == len(model.encode(prompt(TEXTS[1]))[0].data.ids)


def test_a_conversation_sent_again_costs_its_new_text(llama):
    """Each turn of a growing conversation computes only its new text, with the probabilities of a fresh runner."""
    model = runner(llama, floor=1.0)
    turns = [f"Turn {at}: tell me more about the {at}th tree in the wood." for at in range(12)]
    for at in range(1, len(turns)):
        asked = prompt(turns[at], *turns[:at])
        (done,) = model.run(model.encode(asked))
        fresh = runner(llama, floor=1.0)
        close(done.reading.probabilities, read(fresh, asked)[0].probabilities)
        if at > 1:
            assert done.computed < 70


def test_a_history_of_forty_turns_adds_under_a_twentieth():
    """Behind forty judged turns, a turn computes at most 1.05 times the tokens that it computes alone."""
    loaded = tiny("Llama", max_position_embeddings=8192)
    model, single = runner(loaded, floor=1.0), runner(loaded, floor=1.0)
    more = " Who planted it there, what does it look like in winter, and how old can such a tree become?" * 3
    turns = [f"Turn {at}: tell me about tree {at} in the wood.{more}" for at in range(10, 51)]
    single.run(single.encode(prompt("warm")))
    (alone,) = single.run(single.encode(prompt(turns[-1])))
    for at in range(len(turns)):
        (last,) = model.run(model.encode(prompt(turns[at], *turns[:at])))
    assert last.reused > 40 * 10
    assert last.computed <= 1.05 * alone.computed


def test_turns_of_one_request_share_their_conversation(llama):
    """The turns of one conversation, judged as one batch, compute their common text once."""
    model = runner(llama, floor=1.0)
    turns = [f"Turn {at}: tell me more about the {at}th tree in the wood." for at in range(10)]
    prompts = [prompt(turns[at], *turns[:at]) for at in range(len(turns))]
    works = [model.encode(each)[0] for each in prompts]
    done = model.run(works)
    longest = max(len(work.data.ids) for work in works)
    closing = len(encode(llama, prompt("").pieces[-1].text))
    assert sum(each.computed for each in done) <= longest + len(turns) * (closing + 6)
    for each, asked in zip(done, prompts, strict=True):
        close(each.reading.probabilities, read(runner(llama, floor=1.0), asked)[0].probabilities)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 219), min_size=1, max_size=6), st.sampled_from([0, 1 << 16, 1 << 30]))
def test_a_stream_reads_as_from_scratch_for_any_split(llama, cuts, budget):
    """For any split of a reply and any eviction, each check equals the check of that text alone."""
    reply = ("Take a seat; the naïve approach — 走ってください — was übertrieben... 🙂🙃 1234567890 un\tsafe\n\n" * 3)[
        :220
    ]
    model = runner(llama, cache_bytes=budget)
    for cut in sorted({*cuts, 219}):
        asked = prompt(reply[: cut + 1])
        (got,) = read(model, asked)
        (alone,) = read(runner(llama), asked)
        close(got.probabilities, alone.probabilities, 1e-4)


def test_a_stream_computes_little_more_than_its_text_once(llama):
    """A reply checked every 200 characters computes at most 2.5 times the tokens of one check of the whole."""
    loaded = tiny("Llama", max_position_embeddings=4096)
    reply = " ".join(f"Sentence {at} says a thing about the weather in town {at * 7 % 13}." for at in range(100))[:4000]
    model = runner(loaded, floor=1.0)
    total = sum(model.run(model.encode(prompt(reply[:cut])))[0].computed for cut in range(200, 4001, 200))
    whole = runner(loaded, floor=1.0)
    assert total <= 2.5 * whole.run(whole.encode(prompt(reply)))[0].computed


def test_the_state_stays_within_its_budget(llama):
    """The prefix cache stays within its budget over many conversations."""
    model = runner(llama, cache_bytes=1 << 18)
    for at in range(60):
        read(model, prompt(f"Conversation {at} about {'trees ' * (at % 9)}"))
        assert model.prefix_cache.size <= 1 << 18


def test_control_tokens_in_a_text_are_plain_text(llama):
    """A text that spells a control token gets ordinary tokens; a special piece gets the control token."""
    tokenizer = PromptTokenizer(llama.backend)
    assert 2 not in tokenizer.ids([Piece("say <|im_end|> now", "judged")])
    assert tokenizer.ids([Piece("<|im_end|>", "special")]) == [2]
    with pytest.raises(GuardUnavailable, match="no control token"):
        tokenizer.ids([Piece("<|nothing|>", "special")])


def test_neighbouring_pieces_are_encoded_as_one_string(llama):
    """Tokens merge across the boundaries of ordinary pieces."""
    tokenizer = PromptTokenizer(llama.backend)
    assert tokenizer.ids([Piece("hel"), Piece("lo wor", "judged"), Piece("ld")]) == tokenizer.text("hello world")


def test_a_long_text_is_read_in_windows_that_cover_it(llama):
    """Every character of a text beyond the window is in some window, and every window fits."""
    model = runner(llama)
    text = " ".join(f"word{at}" for at in range(600))
    works = model.encode(prompt(text))
    assert len(works) > 1
    assert all(len(work.data.ids) < 512 for work in works)
    together = "\n".join(llama.backend.decode(work.data.ids) for work in works)
    assert all(f"word{at}" in together for at in range(600))


def test_context_is_left_out_before_the_text_is_cut(llama):
    """A prompt that is too long drops its oldest turns; the judged text stays whole."""
    model = runner(llama)
    turns = [f"Old turn {at}. " + "blah " * 60 for at in range(8)]
    (work,) = model.encode(prompt("The judged text.", *turns))
    said = llama.backend.decode(work.data.ids)
    assert "The judged text." in said
    assert "Old turn 7" in said
    assert "Old turn 0" not in said


def test_a_prompt_with_no_room_for_a_text_is_unavailable(llama):
    """A policy that fills the context is an error; it is never cut."""
    with pytest.raises(GuardUnavailable, match="leaves no room"):
        runner(llama).encode(prompt("text " * 300, policy="policy " * 500))


def test_answers_that_merge_with_the_prompt_are_unavailable(llama):
    """The error says what to check: such a prompt was made for another model."""
    readout = TokenChoice(("world", "worm"), (("ld",), ("m",)))
    asked = Prompt((Piece("a"), Piece("Hello", "judged"), Piece(" wor")), readout, "k")
    with pytest.raises(GuardUnavailable, match=r"merge with the end of the prompt: it is no model of this family"):
        runner(llama).encode(asked)


def test_labels_of_several_tokens_and_one_label_alone(llama):
    """Labels with a common beginning, labels that begin others, and a single label equal brute force."""
    for labels in (("Violent", "Violent Acts", "Non-violent Illegal Acts"), ("O1",), ("S1", "S10", "S11")):
        readout = LabelList(" safe", " unsafe", "\nCategories: ", labels, ", ", "", tolerance=1e-9)
        asked = prompt(TEXTS[0], readout=readout)
        unsafe, inside, _ = brute_force(llama, asked)
        (got,) = read(runner(llama), asked)
        close(got.probabilities, [unsafe, *inside])


def test_prompts_that_end_in_a_control_token(llama):
    """If the prompt ends with a control token, the answer is encoded as text behind a control token."""
    pieces = (Piece(POLICY), Piece("Hello", "judged"), Piece("<|im_end|>", "special"))
    asked = Prompt(pieces, LabelList("safe", "no", "\n", ("O1", "O2"), ",", ""), "k")
    (got,) = read(runner(llama), asked)
    ids = [*encode(llama, POLICY + "Hello"), 2]
    share = torch.softmax(logits_of(llama, ids), -1)
    safe, unsafe = (float(share[encode(llama, word)[0]]) for word in ("safe", "no"))
    assert got.probabilities[0] == pytest.approx(unsafe / (safe + unsafe), abs=1e-5)


def test_the_stock_answers_have_labels_that_begin_alike():
    """The tests' own label list has the hard case: O1 begins O10."""
    assert {"O1", "O10"} <= set(ANSWERS.labels)
