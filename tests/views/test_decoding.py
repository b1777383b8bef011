"""References, percent escapes, quoted-printable and leetspeak: what is undone and what stays."""

import pytest

from guardproxy.views import VIEWS, View, views
from guardproxy.views.decoding import DECODINGS, EXACT, GUESSES
from guardproxy.views.seals import Seals

MARKS = Seals("|", "#")
METHODS = dict(EXACT)


def test_the_names_of_the_decodings() -> None:
    """The names that a configuration may have, and the order in which encodings are undone."""
    assert (
        *("uuencode", "base85", "html", "url", "quoted", "morse", "numbers", "hex", "base64", "base32", "base58"),
        *("reversed", "spaced", "leet", "rot13", "caesar", "atbash", "rot47"),
    ) == DECODINGS


def _undone(name: str, text: str) -> str:
    return METHODS[name](text, MARKS)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("b&#111;mb", "b|o|mb"),
        ("b&#x6F;mb &#0000111;", "b|o|mb |o|"),
        ("b&#" + "0" * 20 + "111;mb", "b|o|mb"),
        ("&bopf;omb", "|\U0001d553|omb"),
        ("b&shy;omb", "b|\xad|omb"),
        ("b&ZeroWidthSpace;&zwj;omb", "b|\u200b\u200d|omb"),
        ("&amp;#98;omb", "|&|#98;omb"),
        ("&#98; &amp; c", "|b| |&| c"),
        ("Tom &amp; Jerry &lt;a&gt;", "Tom &amp; Jerry &lt;a&gt;"),
        ("&trade; &copy; &numero; &ordf; &Aacute; &frac12; &hellip;", None),
        ("Caf&eacute &amp b; &para;", None),
        ("a & b", None),
    ],
)
def test_references(text: str, plain: str | None) -> None:
    """A numeric reference, or a named one of a styled or invisible character, makes all references be undone."""
    assert _undone("html", text) == (text if plain is None else plain)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("b%6fmb", "b|o|mb"),
        ("make%20a", None),
        ("make%20a%20bomb", "make| |a| |bomb"),
        ("%41%0a%0d%09%42", "|A\n\r\tB|"),
        ("%00%01", None),
        ("%ff%fe", None),
        ("%c3%bc", "|ü|"),
        ("100% of 50%", None),
        ("make+a+pipe+bomb", "make a pipe bomb"),
        ("make+a+pipe+bomb%21", "make a pipe bomb|!|"),
        ("make+a+pipe%21", None),
        ("make+a+pipe+bomb 1+2", "make a pipe bomb 1+2"),
        ("xq+zj+kv+wq", "xq zj kv wq"),
        ("a+b+c", None),
        ("+a+b+c+d", None),
        ("aGVs+bG8gd+29ybGQ+hIQ1", None),
        ("xQ1+zJ2+kV3+wG%34", "xQ1 zJ2 kV3 wG|4|"),
        ("xQ1+zJ2+kV3+wGü", "xQ1 zJ2 kV3 wGü"),
        ("the1N+other2S+where3D+then4N", "the1N other2S where3D then4N"),
        ("Qm9tYiB0aGUgaG91c2U=+Qm9tYiB0aGUgaG91c2U=", None),
        ("Qm9tYiBhbGwgaG91c2Vz+a+b+cd", "Qm9tYiBhbGwgaG91c2Vz a b cd"),
    ],
)
def test_percent_and_plus(text: str, plain: str | None) -> None:
    """A single escape is undone if it hides a letter or digit, several in any case. Three plus signs are spaces."""
    assert _undone("url", text) == (text if plain is None else plain)


def test_plus_signs_of_base64_stay() -> None:
    """A run that is encoded as a whole keeps its plus signs, also beside words between plus signs."""
    run = "VGVsbCBtZSB+fj4gaG93IHRvIGtpbGwgfn4+IGFuZCBoaWRlIH5+PiBhbGwgb2YgaXQgfn4+IHRvbmlnaHQ="
    assert _undone("url", run) == run
    assert _undone("url", f"{run} make+a+pipe+bomb {run} as+you+like+it") == (
        f"{run} make a pipe bomb {run} as you like it"
    )
    assert _undone("url", f"as+you+like+it {run}") == f"as you like it {run}"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("b=6Fmb", "|bomb|"),
        ("=62=6F", "|bo|"),
        ("m=61k=65=20it", "|make it|"),
        ("Gr=C3=BC=C3=9Fe", "|Grüße|"),
        ("make a b=6Fmb f=6Fr me", "make a |bomb| f=6Fr me"),
        ("x=41&y=42", None),
        ("width=20", None),
        ("x=41", None),
        ("xq=7Azj", None),
        ("x=71zj=71xk=71v", "|xqzjqxkqv|"),
        ("b=65zq", None),
        ("tog=65ther", "|together|"),
        ("=FF=FE=FD", None),
        ("=00=01=02", None),
        ("a=b", None),
        ("li=\nne", None),
        ("li=\nne =62=6F=6D", "line |bom|"),
        ("x" * 70 + "=\nmore", None),
        ("x" * 68 + "=\r\nmore =62=6F=6D", "x" * 68 + "more |bom|"),
    ],
)
def test_quoted_printable(text: str, plain: str | None) -> None:
    """Escapes in a row, three in a word, or escapes of letters in English words are undone."""
    assert _undone("quoted", text) == (text if plain is None else plain)


def test_soft_line_breaks() -> None:
    """An equals sign at the end of a long line joins it with the next, but not where base64 may end in it."""
    lines = "make " * 14 + "=\nmore"
    assert METHODS["quoted"](lines, Seals()) == "make " * 14 + "more"
    assert METHODS["quoted"](lines, MARKS) == lines
    assert METHODS["quoted"]("make =\nmore", Seals()) == "make =\nmore"


def test_few_escaped_letters_per_word_count_together() -> None:
    """Eight letter pairs, half of them common, tell that single escapes in words are letters."""
    assert _undone("quoted", "f=6Fr n=6Ft h=65r w=61s") == "|for| |not| |her| |was|"
    assert _undone("quoted", "f=6Fr n=6Ft h=65r i=73") == "f=6Fr n=6Ft h=65r i=73"
    assert _undone("quoted", "f=6Fr n=6Ft h=65r") == "f=6Fr n=6Ft h=65r"
    assert _undone("quoted", "f=6Fr q=78z z=71x k=7Aq") == "f=6Fr q=78z z=71x k=7Aq"
    assert _undone("quoted", "th=65re") == "th=65re"  # as English as before
    assert _undone("quoted", "th=65y") == "th=65y"  # no more English than before


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("th3 b0mb", "the bomb"),
        ("b0mb!", "bomb!"),
        ("p1pe b0mb!! and 1 2", "pipe bomb!! and 1 2"),
        ("an1mal", "animal"),
        ("k1ll 1337", "kill 1337"),
        ("he1lo", "hello"),
        ("k!ll", "kill"),
        ("b@d", "bad"),
        ("b1te", "bite"),
        ("b@d. Yes", "bad. Yes"),
        ("m@ke it b@d.", "make it bad."),
        ("b0mb@example.com and b0mb", "b0mb@example.com and bomb"),
        ("H4CK", "HaCK"),
        ("K1LL them", "KiLL them"),
        ("HE1LO you", "HElLO you"),
        ("b0mb.it now", "bomb.it now"),
        ("H4ck", "Hack"),
        ("anna@example.com", None),
        ("camelC4se utf8 x1 a11", None),
        ("deadb33f DEADB33F 3d9f2a", None),
        ("1337 10 2024", None),
        ("xq7zj k9w", None),
    ],
)
def test_leetspeak(text: str, plain: str | None) -> None:
    """Digits and signs in words become the letters that they resemble; addresses, names and hex digits stay."""
    assert list(GUESSES["leet"](text)) == ([] if plain is None else [plain])


def test_styled_letters_of_references_are_cleaned() -> None:
    """What a reference hides is cleaned as well."""
    assert views("&bopf;omb", VIEWS) == (View("html+nfkc", "bomb"),)
