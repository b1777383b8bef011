"""Languages: which languages a text is in, so that the proxy can say which texts its guard does not read. Pure.

`detect.languages_of` is the function, `detect.languages_in` the same with a cache. The script decides for most
alphabets (`scripts`). For the Latin alphabet, a small model over n-grams of characters decides (`latin`). Another
language than English is named only on clear evidence, because slang, code and names must not count as another language.
"""

from guardproxy.languages.codes import CODES, OTHER

__all__ = ["CODES", "OTHER"]
