"""Second pass: whether the names exist, every rule can apply, and the options do not contradict each other.

The checks work on the tree and not on the document, so that a mistake of type does not hide the mistakes of meaning.
"""
