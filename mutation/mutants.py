"""Finds the mutants of a module: small changes of its source, each by the position of the syntax node it replaces.

Left alone: annotations, decorators, imports, docstrings, the texts of raised errors (people read them, code does not),
and type aliases.
"""

import ast
import re
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: (r"<", ("<=", ">=")),
    ast.LtE: (r"<=", ("<", ">")),
    ast.Gt: (r">", (">=", "<=")),
    ast.GtE: (r">=", (">", "<")),
    ast.Eq: (r"==", ("!=",)),
    ast.NotEq: (r"!=", ("==",)),
    ast.In: (r"\bin\b", ("not in",)),
    ast.NotIn: (r"\bnot\s+in\b", ("in",)),
    ast.Is: (r"\bis\b", ("is not",)),
    ast.IsNot: (r"\bis\s+not\b", ("is",)),
}
_ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: (r"\+", "-"),
    ast.Sub: (r"-", "+"),
    ast.Mult: (r"\*", "//"),
    ast.Div: (r"/", "*"),
    ast.FloorDiv: (r"//", "*"),
    ast.BitAnd: (r"&", "|"),
    ast.BitOr: (r"\|", "&"),
}
_TWINS = {"any": "all", "all": "any", "min": "max", "max": "min"}
# Calls whose argument, or object, has the type of the result: without the call the code still runs.
_WRAPPERS = {"sorted", "reversed", "abs"}
_METHODS = {"strip", "lstrip", "rstrip", "lower", "upper", "casefold", "removeprefix", "removesuffix", "copy"}
# The order of their first two arguments either does not matter or is a mistake that every run shows.
_UNORDERED = {"max", "min", "isinstance"}
_TYPE_ALIASES = {"Literal", "Annotated", "Callable", "Union", "TypeVar"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A changed source text. `before` and `after` are the changed lines without their indentation."""

    kind: str
    line: int
    function: str
    before: str
    after: str
    source: str


@dataclass(frozen=True, slots=True)
class _Edit:
    kind: str
    start: int
    end: int
    text: str
    line: int


def mutants(source: str) -> list[Mutant]:
    """Return every mutant of a module's source, in the order of their lines. Each compiles and differs from it."""
    tree = ast.parse(source)
    finder = _Finder(source)
    finder.visit(tree)
    original = ast.dump(tree)
    found: dict[str, Mutant] = {}
    for edit, function in finder.edits:
        changed = finder.apply(edit)
        try:
            same = ast.dump(ast.parse(changed)) == original
            compile(changed, "mutant", "exec")
        except SyntaxError:
            continue
        if not same and changed not in found:
            before, after = _changed_lines(source, changed)
            found[changed] = Mutant(edit.kind, edit.line, function, before, after, changed)
    return sorted(found.values(), key=lambda mutant: mutant.line)


def _changed_lines(source: str, changed: str) -> tuple[str, str]:
    old, new = source.splitlines(), changed.splitlines()
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    # A deletion may leave no line of its own: then the line before shows the place.
    head -= head > 0 and (len(old) - tail == head or len(new) - tail == head)
    before, after = old[head : len(old) - tail], new[head : len(new) - tail]
    return "\n".join(line.strip() for line in before), "\n".join(line.strip() for line in after)


class _Finder(ast.NodeVisitor):
    """Collects edits as byte positions of the source in UTF-8, as the syntax tree gives them."""

    def __init__(self, source: str) -> None:
        self.edits: list[tuple[_Edit, str]] = []
        self._bytes = source.encode()
        self._lines = [0]
        for line in self._bytes.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._scope: list[str] = []
        self._texts = True  # whether string constants count

    def apply(self, edit: _Edit) -> str:
        """Return the source with an edit applied."""
        return (self._bytes[: edit.start] + edit.text.encode() + self._bytes[edit.end :]).decode()

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or 0
        return self._lines[node.lineno - 1] + node.col_offset, self._lines[end_line - 1] + end_column

    def _text(self, node: ast.expr | ast.stmt) -> str:
        start, end = self._span(node)
        return self._bytes[start:end].decode()

    def _add(self, kind: str, start: int, end: int, text: str, line: int) -> None:
        self.edits.append((_Edit(kind, start, end, text, line), ".".join(self._scope)))

    def _replace(self, kind: str, node: ast.expr | ast.stmt, text: str) -> None:
        self._add(kind, *self._span(node), text, node.lineno)

    def _between(self, kind: str, left: ast.expr, right: ast.expr, pattern: str, text: str) -> None:
        start, end = self._span(left)[1], self._span(right)[0]
        match = re.search(pattern, self._bytes[start:end].decode())
        if match is not None:
            gap = self._bytes[start:end].decode()
            self._add(kind, start, end, gap[: match.start()] + text + gap[match.end() :], right.lineno)

    # What stays as it is.

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._scoped(node.name, node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for default in [*node.args.defaults, *(value for value in node.args.kw_defaults if value is not None)]:
            self.visit(default)
        self._scoped(node.name, node.body)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def _scoped(self, name: str, body: list[ast.stmt]) -> None:
        self._scope.append(name)
        for statement in body:
            self.visit(statement)
        self._scope.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._removed_assignment(node, [node.target])
            self.visit(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not (isinstance(node.value, ast.Name) and node.value.id in _TYPE_ALIASES):
            self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.visit(part.value)

    # Statements.

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return
        self._replace("statement removed", node, "pass")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace("raise removed", node, "pass")
        texts, self._texts = self._texts, False
        self.generic_visit(node)
        self._texts = texts

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            self._replace("statement removed", node, "pass")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace("statement removed", node, "pass")
        self._replace("break for continue", node, "break")

    def visit_Break(self, node: ast.Break) -> None:
        self._replace("statement removed", node, "pass")
        self._replace("continue for break", node, "continue")

    def visit_Delete(self, node: ast.Delete) -> None:
        self._replace("statement removed", node, "pass")

    def visit_Assign(self, node: ast.Assign) -> None:
        self._removed_assignment(node, node.targets)
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def _removed_assignment(self, node: ast.Assign | ast.AnnAssign, targets: list[ast.expr]) -> None:
        """Remove an assignment to state; without one to a local name the code would not run at all."""
        state = all(isinstance(target, ast.Attribute | ast.Subscript | ast.Tuple) for target in targets)
        if state and self._scope[-1:] != ["__init__"]:
            self._replace("statement removed", node, "pass")

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace("statement removed", node, "pass")
        if type(node.op) in _ARITHMETIC and not _is_text(node.value):
            pattern, text = _ARITHMETIC[type(node.op)]
            self._between("operator", node.target, node.value, pattern + "=", text + "=")
        self.generic_visit(node)

    # Conditions.

    def _negate(self, test: ast.expr) -> None:
        single = isinstance(test, ast.Compare) and len(test.ops) == 1
        if not single and not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
            self._replace("condition negated", test, f"(not ({self._text(test)}))")

    def visit_If(self, node: ast.If) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._negate(test)
            self._replace("filter removed", test, "True")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._replace("condition negated", node, f"({self._text(node.operand)})")
        elif isinstance(node.op, ast.USub):
            self._replace("operator", node, self._text(node.operand))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        pattern, text = (r"\band\b", "or") if isinstance(node.op, ast.And) else (r"\bor\b", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between("boolean operator", left, right, pattern, text)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            pattern, others = _COMPARISONS[type(op)]
            for other in others:
                self._between("comparison", left, right, pattern, other)
        self.generic_visit(node)

    # Values.

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._replace("constant", node, str(not value))
        elif isinstance(value, int):
            self._replace("off by one", node, str(value + 1))
            if value > 0:
                self._replace("off by one", node, str(value - 1))
        elif isinstance(value, float):
            self._replace("constant", node, repr(value * 2 + 1))
        elif isinstance(value, str) and self._texts:
            self._replace("constant", node, '""' if value else '"mutant"')
        elif isinstance(value, bytes) and self._texts:
            self._replace("constant", node, 'b""' if value else 'b"mutant"')

    def visit_Slice(self, node: ast.Slice) -> None:
        for bound in (node.lower, node.upper):
            if bound is not None and not isinstance(bound, ast.Constant):
                self._replace("off by one", bound, f"({self._text(bound)}) + 1")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in _ARITHMETIC and not _is_text(node.left) and not _is_text(node.right):
            pattern, text = _ARITHMETIC[type(node.op)]
            self._between("operator", node.left, node.right, pattern, text)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in _TYPE_ALIASES:
            return
        if name in _TWINS:
            self._replace("any, all, min, max", node.func, _TWINS[name])
        if name in _WRAPPERS and len(node.args) == 1:
            self._replace("call removed", node, f"({self._text(node.args[0])})")
        if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
            self._replace("call removed", node, self._text(node.func.value))
        if name == "range":
            last = node.args[1] if len(node.args) > 1 else node.args[0]
            if not isinstance(last, ast.Constant):
                self._replace("off by one", last, f"({self._text(last)}) + 1")
        if name not in _UNORDERED:
            self._swap(node.args)
        self.generic_visit(node)

    def _swap(self, arguments: list[ast.expr]) -> None:
        if len(arguments) > 1 and not any(isinstance(value, ast.Starred | ast.GeneratorExp) for value in arguments[:2]):
            left, right = arguments[:2]
            (start, left_end), (right_start, end) = self._span(left), self._span(right)
            gap = self._bytes[left_end:right_start].decode()
            self._add("arguments swapped", start, end, self._text(right) + gap + self._text(left), left.lineno)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
