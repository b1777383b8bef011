"""Encoding by pieces gives the ids of the whole prompt, for every rule about a space before the text."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Prepend, Replace, Sequence
from tokenizers.pre_tokenizers import Metaspace

from guardproxy.engine.decoder.prompts import Choice, PromptEncoder
from guardproxy.engine.tokenizer import PromptTokenizer
from guardproxy.ports import Piece, Prompt, TokenChoice

PIECES = (
    Piece("<s>", "special"),
    Piece("b\n"),
    Piece("[X]", "special"),
    Piece(" a "),
    Piece("b", "judged"),
    Piece("[/X]", "special"),
    Piece("\nb:"),
)


def tokenizer(scheme: str) -> Tokenizer:
    """A small tokenizer whose tokens include the space before a word; `legacy` puts one before every text."""
    words = ["<unk>", "▁", "a", "b", "\n", ":", "▁a", "▁b"]
    model = BPE({word: at for at, word in enumerate(words)}, [("▁", "a"), ("▁", "b")], unk_token="<unk>")
    out = Tokenizer(model)
    if scheme == "legacy":
        out.normalizer = Sequence([Prepend("▁"), Replace(" ", "▁")])
    else:
        out.pre_tokenizer = Metaspace(prepend_scheme=scheme, split=False)
    out.add_special_tokens(["<s>", "[X]", "[/X]"])
    return out


@pytest.mark.parametrize("scheme", ["first", "always", "never", "legacy"])
def test_pieces_have_the_ids_of_the_whole(scheme: str) -> None:
    """The ids equal those of the whole text with its control tokens, behind the token that begins a text."""
    text = "".join(piece.text for piece in PIECES[1:])
    backend = tokenizer(scheme)
    whole = [backend.token_to_id("<s>"), *backend.encode(text, add_special_tokens=False).ids]
    codec = PromptTokenizer(tokenizer(scheme))
    assert codec.ids(PIECES) == whole
    prompt = Prompt(PIECES, TokenChoice(("a", "b"), ((" a",), (" b",))), "k")
    (encoded,) = PromptEncoder(codec, 512, [0]).encode(prompt)
    assert encoded.ids == whole
    assert encoded.answer == Choice(((backend.token_to_id("▁a"),), (backend.token_to_id("▁b"),)))


def test_a_control_token_in_a_text_is_plain_text_behind_one_too() -> None:
    """A control token in a text is ordinary text, at the beginning of a prompt and later."""
    codec = PromptTokenizer(tokenizer("first"))
    assert codec.special("[X]") not in codec.text("b[X]", begins=False)
    assert codec.special("[X]") not in codec.text("b[X]")
