"""Patterns as a guard: words, regular expressions, formats of credentials, hashed words. No model.

A hit of any pattern of a category is a finding of it, with the category's probability and the place of the first hit.
"""

import hashlib
from collections.abc import Iterable, Mapping
from itertools import chain

from guardproxy.errors import ConfigError
from guardproxy.families.patterns.expressions import Expression, Expressions
from guardproxy.families.patterns.phrases import Phrases
from guardproxy.families.patterns.secrets import FORMATS
from guardproxy.patterns import CategoryPatterns, Hit, Reach, findings_of, widest, without_escapes
from guardproxy.types import Category, Finding, Taxonomy, Verdict

FAMILY = "patterns"


class PatternFamily:
    """Finds what a configuration names; the label of a hit is the kind of pattern. Build it with `open_family`."""

    weight = 1

    def __init__(
        self,
        taxonomy: Taxonomy,
        probabilities: Mapping[str, float],
        expressions: Expressions,
        phrases: Phrases,
        reaches: Mapping[str, Reach],
    ) -> None:
        self.taxonomy = taxonomy
        self.reaches = reaches
        """By category, how far back from the end of a growing text a match of it may begin."""
        self._probabilities = probabilities
        self._expressions = expressions
        self._phrases = phrases
        self._nothing = tuple(Finding(category, 0.0) for category in probabilities)

    def load(self) -> None:
        """Do nothing: the patterns are compiled when the family is opened."""

    def hits(self, text: str, *, unfinished: bool = False) -> list[Hit]:
        """Every match, in the order of the text.

        In an `unfinished` text, what follows may change a match at the end of the text, so it does not count, unless it
        is longer than its pattern says that a match may be.

        A text may be JSON, as the arguments of tool calls are. So it is read with spaces for the escapes as well.
        """
        texts = dict.fromkeys((text, without_escapes(text)))
        found = chain.from_iterable(
            chain(self._expressions.find(one, unfinished), self._phrases.find(one, unfinished)) for one in texts
        )
        return [Hit(*hit, self._probabilities[hit[1]]) for hit in sorted(set(found))]

    def verdict(self, text: str, guard: str, *, unfinished: bool = False) -> Verdict:
        """The verdict on a text: every category, those without a hit with probability 0."""
        findings, unsafe, span = self._nothing, 0.0, None
        if hits := self.hits(text, unfinished=unfinished):
            findings = findings_of(hits, self._nothing)
            most = max(findings, key=lambda finding: finding.probability)
            unsafe, span = most.probability, most.span
        return Verdict(unsafe, findings, guard, f"{self.taxonomy.id}@{self.taxonomy.version}", span=span)


def open_family(
    *, taxonomy: Taxonomy | None = None, patterns: Mapping[str, CategoryPatterns] | None = None
) -> PatternFamily:
    """Open the patterns of each category. Raises ConfigError with every mistake, each as `patterns.ID.KEY: text`."""
    problems: list[str] = []
    if taxonomy is not None:
        problems.append("taxonomy: the categories are those of patterns")
    expressions: list[Expression] = []
    reaches: dict[str, Reach] = {}
    phrases = Phrases()
    for category, one in (patterns or {}).items():
        of_category: list[Expression] = []
        for key, opened in (
            *_regexes(one, category),
            *_secrets(one, category),
            *_words(one, category, phrases),
            *_hashes(one, category, phrases),
        ):
            if isinstance(opened, str):
                problems.append(f"patterns.{category}.{key}: {opened}")
            else:
                of_category.append(opened)
        expressions += of_category
        reaches[category] = widest([*(found.reach for found in of_category), phrases.reach(category)])
    if problems:
        raise ConfigError(problems)
    probabilities = {category: one.probability for category, one in (patterns or {}).items()}
    categories = tuple(Category(name, name.replace("_", " ").capitalize()) for name in probabilities)
    version = hashlib.sha256(repr(patterns).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    own = Taxonomy(FAMILY, categories, version)
    return PatternFamily(own, probabilities, Expressions(expressions), phrases, reaches)


# The key of a pattern below its category, with what was opened of it, or its mistake.
_Opened = Iterable[tuple[str, Expression | str]]


def _regexes(one: CategoryPatterns, category: str) -> _Opened:
    for index, text in enumerate(one.regexes):
        key = f"regexes[{index}]"
        try:
            yield key, Expression.of(text, category, key, most=one.max_length)
        except ConfigError as error:
            yield key, str(error)


def _secrets(one: CategoryPatterns, category: str) -> _Opened:
    names = tuple(FORMATS) if one.secrets == "all" else one.secrets
    for index, name in enumerate(names):
        if name not in FORMATS:
            known = ", ".join(FORMATS)
            yield f"secrets[{index}]", f"unknown format {name!r}; use all, or some of {known}"
        else:
            found = FORMATS[name]
            yield (
                f"secrets[{index}]",
                Expression.of(found.regex, category, f"secrets.{name}", most=found.most, unspaced=found.unspaced),
            )


def _listed(some: str | tuple[str, ...]) -> tuple[str, ...]:
    """The entries of a list; none of a file that was not read, which is a mistake of the configuration."""
    return () if isinstance(some, str) else some


def _words(one: CategoryPatterns, category: str, phrases: Phrases) -> _Opened:
    for index, phrase in enumerate(_listed(one.words)):
        key = f"words[{index}]"
        if Phrases.without_spaces(phrase):
            yield key, Expression.literal(phrase.strip(), category, "words")
        elif mistake := phrases.add(phrase, category):
            yield key, mistake


def _hashes(one: CategoryPatterns, category: str, phrases: Phrases) -> _Opened:
    for index, digest in enumerate(_listed(one.sha256)):
        if mistake := phrases.add_hash(digest, category, one.max_words):
            yield f"sha256[{index}]", mistake
