"""Puzzles in Python: a predicate `mystery(x) -> bool`, run in the sandbox.

    def mystery(x):
        return x * x == 1369
    witness: 37

Each check has a fresh sandbox, about 50 ms: nothing that a puzzle leaves behind is there for the
next check, so no sandbox needs to be kept for an episode. Only the source and a value of JSON's
types go in, only JSON comes out, and a puzzle holds where that is exactly `true`. Whatever else
happens inside (an exception, a limit, an object that is true when asked) means that it does not.

What `read` refuses beforehand (modules that see more than x, names with two underscores) keeps
puzzles to their argument; it is the sandbox that contains them.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from rlagents.envs.arena.token_games.duel import Illegal, Outcome, Proposal
from rlagents.envs.sandbox import SandboxConfig
from rlagents.envs.sandbox.choice import ready
from rlagents.envs.sandbox.grading import call_function
from rlagents.envs.sandbox.reading import json_value
from rlagents.visible import escape

SOURCE, VALUE = 2_000, 1_000
"""Characters of a program, and of a witness or an answer."""
LIMITS: Mapping[str, Any] = {
    "cpu_s": 1.0,
    "wall_s": 5.0,
    "memory_mb": 256,
    "processes": 4,
    "workspace_mb": 1,
    "file_mb": 1,
    "tmp_mb": 1,
    "output_kb": 1,
    "output_max_mb": 1,
}
"""Of one check, unless set otherwise. CPU time decides before wall time, so that a puzzle's worth
does not hang on how busy the machine is."""
MODULES = frozenset({"collections", "fractions", "functools", "itertools", "math", "re", "string"})
"""What a puzzle may import: what gives the same for the same arguments."""
_BROKEN = (SyntaxError, ValueError, MemoryError, RecursionError)
"""What hostile source does to `ast.parse`."""
_HELD = 2
"""Checks of a witness before the puzzle is accepted."""


class ProgramReferee:
    """Runs what players write, in a sandbox."""

    longest = SOURCE
    """Characters of a statement."""

    def __init__(self, sandbox: SandboxConfig | Mapping[str, Any] | None = None) -> None:
        """Make sure of the sandbox.

        Args:
            sandbox: tier and limits, by the names of `SandboxConfig`; `LIMITS` where not named.

        Raises:
            ConfigError: a wrong setting of the sandbox, or isolation that can't be had here.
            SandboxBroken: the self-probe found the sandbox open.
        """
        if sandbox is None or isinstance(sandbox, Mapping):
            sandbox = {**LIMITS, **(sandbox or {})}
        self.sandbox = SandboxConfig.of(sandbox)
        ready(self.sandbox)

    def read(self, text: str) -> Proposal:
        """A program and, as the last line, `witness: VALUE`; a fence around the program is fine.

        Raises:
            Illegal: there is no such line, the witness is no value, or `key_of` refuses the source.
        """
        if len(text) > SOURCE + VALUE + 100:
            raise Illegal("too long")
        source, _, last = text.strip().rpartition("\n")
        word, colon, witness = last.partition(":")
        if not colon or word.strip().lower() != "witness":
            raise Illegal("the last line must be `witness: VALUE`")
        source = _unfenced(source)
        return Proposal(statement=source, key=key_of(source), witness=plain_value(witness))

    def holds(self, proposal: Proposal) -> bool:
        """Whether the program is exactly True for its witness, twice."""
        return all(self._true(proposal.statement, proposal.witness) for _ in range(_HELD))

    def judge(self, proposal: Proposal, answer: str) -> Outcome:
        """`solved` where the program is True for the answer.

        Otherwise the witness must hold once more: a program that now says otherwise depends on more
        than its argument, which is the proposer's `penalty`.
        """
        try:
            value = plain_value(answer)
        except Illegal:
            value = None
        if value is not None and self._true(proposal.statement, value):
            return "solved"
        return "unsolved" if self._true(proposal.statement, proposal.witness) else "penalty"

    def _true(self, source: str, value: str) -> bool:
        """Whether `mystery(value)` is True, in a sandbox of its own."""
        inputs = [[json.loads(value)]]
        answer = call_function(self.sandbox, source, "mystery", inputs, answer_bytes=VALUE)[0]
        return answer.value is True


def plain_value(text: str) -> str:
    """A value as JSON; Python's literals are read too (a tuple is a list, keys become strings).

    Raises:
        Illegal: it is neither, is too long, or is nothing that JSON can say.
    """
    text = _unfenced(text.strip())
    if len(text) > VALUE:
        raise Illegal("a value that is too long")
    try:
        value = json_value(text.encode())
    except ValueError:  # UnsafeFile among them
        try:
            value = ast.literal_eval(text)
        except (*_BROKEN, TypeError):
            raise Illegal("no value of JSON or Python") from None
    try:
        said = json.dumps(value, allow_nan=False)
        json_value(said.encode())
    except (*_BROKEN, TypeError):
        raise Illegal("a value that JSON can't say") from None
    return said


def key_of(source: str) -> str:
    """A digest of the program but for comments, layout, docstrings and names of its own.

    Raises:
        Illegal: no Python, too long, without a `mystery` of one argument, with characters that
            can't be seen, or with what a puzzle may not use.
    """
    if len(source) > SOURCE:
        raise Illegal(f"a program of more than {SOURCE:,} characters")
    if escape(source) != source or "```" in source:
        raise Illegal("characters that can't be seen, or a fence, in the program")
    try:
        tree = ast.parse(source)
        _require_pure(tree)
        return hashlib.sha256(ast.dump(_normal(tree)).encode()).hexdigest()
    except Illegal:
        raise
    except _BROKEN as error:
        raise Illegal(f"no Python program ({type(error).__name__})") from None


def _unfenced(text: str) -> str:
    """Without a Markdown fence around all of it."""
    first, _, rest = text.strip().partition("\n")
    if first.startswith("```") and rest.rstrip().endswith("```"):
        return rest.rstrip()[:-3].rstrip()
    return text


def _require_pure(tree: ast.Module) -> None:
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "mystery"]
    if len(found) != 1 or len(found[0].args.posonlyargs + found[0].args.args) != 1:
        raise Illegal("expected one function mystery(x)")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = (
                [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
            for name in names:
                if name not in MODULES:
                    raise Illegal(f"imports {name!r}")
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
        if name.startswith("__") or name in ("open", "eval", "exec", "compile", "input"):
            raise Illegal(f"uses {name!r}")


def _normal(tree: ast.Module) -> ast.Module:
    """Names that the program binds become v0, v1, ... in order of appearance, in place."""
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        if isinstance(node, ast.arg):
            bound.setdefault(node.arg, f"v{len(bound)}")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.setdefault(node.id, f"v{len(bound)}")
        elif isinstance(node, ast.FunctionDef):
            bound.setdefault(node.name, f"v{len(bound)}")
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.arg, node.annotation = bound[node.arg], None
        elif isinstance(node, ast.Name):
            node.id = bound.get(node.id, node.id)
        elif isinstance(node, ast.FunctionDef):
            node.name, node.returns = bound[node.name], None
    return tree
