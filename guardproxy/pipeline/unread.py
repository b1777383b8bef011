"""Languages of a text that the guard does not read. Pure."""

from collections.abc import Iterable

from guardproxy.languages.detect import languages_in
from guardproxy.views import View


def unread_languages(text: str, views: Iterable[View], reads: frozenset[str]) -> tuple[str, ...]:
    """Return the languages of a text and of its views that are not among `reads`, each once."""
    own = languages_in(text)
    # Russian with look-alikes from the Latin alphabet is in no language of that alphabet.
    others = [view.text for view in views if not (own and view.name == "confusables")]
    found = (*own, *(language for other in others for language in languages_in(other)))
    return tuple(dict.fromkeys(language for language in found if language not in reads))
