"""Python files of this repository, as tests read them."""

import ast
import gc
from pathlib import Path


def syntax_tree(path: Path) -> ast.Module:
    """The syntax tree of a file.

    The collector waits meanwhile: Python before 3.11.9 and 3.12.3 raises SystemError if it runs within `ast.parse`
    (https://github.com/python/cpython/issues/106905).
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        if collects:
            gc.enable()
