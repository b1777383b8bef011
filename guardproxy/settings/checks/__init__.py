"""Second pass: whether the names exist, every rule can apply, and the options do not contradict each other.

The checks work on the tree and not on the document, so that a value of the wrong type does not hide other mistakes.
"""
