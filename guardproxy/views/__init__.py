"""Views: other forms of a text (joined, cleaned, displayed, decoded) that the guard judges as well. Pure.

*Joined* are the texts that readers make of a message's parts; a *part* is one of them by itself, or a text in a call.
*Cleaning* undoes disguises that a reader does not notice: look-alikes from other alphabets, styled letters, invisible
characters, text hidden in tag characters. All chosen cleanings together make one view. The *displayed* view has the
characters in the order in which a right-to-left override shows them. *Decoding* undoes encodings in place: all exact
ones in one view, as often as they are nested, and then leetspeak and ciphers, whose undoing is a guess, in views of
their own. A decoding counts only if its result is more like words than its input, so ordinary prose and code have no
views.

Bounds: MAX_VIEWS views of a message beside its joined texts, and as many of each part; DEPTH exact decodings in a row,
GUESSES_IN_A_ROW guesses; MAX_REPEATED characters that are searched again after a decoding. If anything that looks
encoded is left, the views are not `complete`: decoys cannot use up the bounds unnoticed.
"""

from guardproxy.views.cleaning import compile_patterns, says_something
from guardproxy.views.growing import GrowingViews
from guardproxy.views.joining import apart, interleaved, joined, may_have_apart, without_ends
from guardproxy.views.search import DEPTH, DISPLAYED, MAX_VIEWS, PART, VIEWS, View, Views, ends_alike, views, views_of

__all__ = [
    "DEPTH",
    "DISPLAYED",
    "MAX_VIEWS",
    "PART",
    "VIEWS",
    "GrowingViews",
    "View",
    "Views",
    "apart",
    "compile_patterns",
    "ends_alike",
    "interleaved",
    "joined",
    "may_have_apart",
    "says_something",
    "views",
    "views_of",
    "without_ends",
]
