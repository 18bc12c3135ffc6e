"""Tests the tests: puts small faults (mutants) into the package, and reports how many the tests find.

    python -m tests.system.mutants --output=mutants

Draws mutants with a fixed seed. For each mutant, runs the tests of its package and the random cases in a copy with
the fault, until one test fails. Running the command again continues an interrupted run.
"""

import argparse
import ast
import collections
import concurrent.futures
import contextlib
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import parso
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = ("logdet", "layers", "solvers", "bijectors", "flows", "models", "vi", "training")


class _Fault(Operator):
    @classmethod
    def examples(cls):
        return ()


class DropStatement(_Fault):
    """Replaces a call with `pass`, or an assignment that is not the only definition of its names."""

    def mutation_positions(self, node):
        if node.type == "simple_stmt" and self._is_dropped(node.children[0]):
            yield node.start_pos, node.end_pos

    @staticmethod
    def _is_dropped(statement):
        if statement.type == "atom_expr":
            return statement.get_last_leaf().value == ")"
        if statement.type != "expr_stmt" or statement.children[1].type == "annassign":
            return False
        target, operator, value = statement.children[:3]
        is_rebound = {leaf.value for leaf in _leaves(target)} & {leaf.value for leaf in _leaves(value)} - set(",()")
        return operator.value != "=" or target.type == "atom_expr" or bool(is_rebound)

    def mutate(self, node, index):
        return parso.parse(f"{node.get_first_leaf().prefix}pass\n").children[0]


class SwapArguments(_Fault):
    """Swaps two neighboring positional arguments."""

    @staticmethod
    def _pairs(node):
        if node.type == "arglist" and node.parent.type == "trailer":
            args = [i for i, child in enumerate(node.children) if child.type not in ("argument", "operator")]
            yield from zip(args, args[1:], strict=False)

    def mutation_positions(self, node):
        for i, j in self._pairs(node):
            yield node.children[i].start_pos, node.children[j].end_pos

    def mutate(self, node, index):
        i, j = list(self._pairs(node))[index]
        first, second = node.children[i].get_first_leaf(), node.children[j].get_first_leaf()
        first.prefix, second.prefix = second.prefix, first.prefix
        node.children[i], node.children[j] = node.children[j], node.children[i]
        return node


_BINARY = ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Pow_Mul", "FloorDiv_Mul", "Mod_FloorDiv")
_COMPARED = ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt")
_COMPARED += ("Is_IsNot", "IsNot_Is")
_TESTED = ("AddNot", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceUnaryOperator_Delete_Not")
_KINDS = {
    "arithmetic": [f"ReplaceBinaryOperator_{name}" for name in _BINARY] + ["ReplaceUnaryOperator_Delete_USub"],
    "comparison": [f"ReplaceComparisonOperator_{name}" for name in _COMPARED] + [*_TESTED],
    "constant": ["NumberReplacer", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"],
    "statement": ["DropStatement"],
    "arguments": ["SwapArguments"],
}


def _operator(name):
    ours = {operator.__name__: operator for operator in (DropStatement, SwapArguments)}
    return (ours.get(name) or OperatorProvider()[name])()


def _nodes(node):
    yield node
    for child in getattr(node, "children", ()):
        yield from _nodes(child)


def _leaves(node):
    return [inner for inner in _nodes(node) if not hasattr(inner, "children")]


class Mutant(NamedTuple):
    path: str
    line: int
    kind: str
    operator: str
    occurrence: int

    @property
    def package(self):
        return pathlib.Path(self.path).parts[1]

    @property
    def source(self):
        """The text of the file with the fault, or None if it does not compile."""
        changed = mutate_code((ROOT / self.path).read_text(), _operator(self.operator), self.occurrence)
        with contextlib.suppress(SyntaxError):
            return changed and compile(changed, self.path, "exec") and changed


def _left_out(source):
    """Yields ranges that are not mutated: annotations, messages, imports, exports and code for type checkers."""
    starts = ("raise ", "assert ", "from ", "f'", 'f"', "warnings.warn(", "logging.info(", "tf.debugging.Assert(")
    starts += ("__all__", "if TYPE_CHECKING:")
    for node in ast.walk(ast.parse(source)):
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.stmt | ast.Call | ast.JoinedStr) and ast.unparse(node).startswith(starts):
            parts.append(node)
        for part in filter(None, parts):
            yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)


def _mutants_of(path):
    source = (ROOT / path).read_text()
    lines, nodes, left_out = source.splitlines(), list(_nodes(parso.parse(source))), list(_left_out(source))
    for kind, operators in _KINDS.items():
        for operator in operators:
            find = _operator(operator).mutation_positions
            positions = [position for node in nodes for position in find(node)]
            for occurrence, (start, end) in enumerate(positions):
                of_signature = lines[start[0] - 1][start[1] :].startswith("*,")
                if not of_signature and not any(first <= start and end <= last for first, last in left_out):
                    yield Mutant(path, start[0], kind, operator, occurrence)


def draw(num, seed):
    """Draws about `num` mutants of the packages, with the same number of each kind."""
    groups = collections.defaultdict(list)
    paths = [path for name in PACKAGES for path in sorted((ROOT / "tf_resflow" / name).rglob("*.py"))]
    for mutant in (mutant for path in paths for mutant in _mutants_of(str(path.relative_to(ROOT)))):
        groups[mutant.kind].append(mutant)
    choose = random.Random(seed)
    drawn = [mutant for kind in _KINDS for mutant in choose.sample(groups[kind], num // len(_KINDS))]
    choose.shuffle(drawn)
    return [mutant for mutant in drawn if mutant.source]


def _attempt(args, name, package, limit=None, mutant=None):
    """Returns the first failing test or None, and the seconds, from the results file if it exists."""
    output = args.output / f"{name}.json"
    if not output.exists():
        start, tests = time.monotonic(), [f"tests/{package}", "tests/test_random_cases.py"]
        options = ["-q", "-x", "-p", "no:cacheprovider", "--tb=short", f"--random_cases={args.random_cases}"]
        with tempfile.TemporaryDirectory() as folder:
            for part in ("tf_resflow", "tests", "benchmarks", "configs", "pretrained"):
                shutil.copytree(ROOT / part, f"{folder}/{part}")
            shutil.copy(ROOT / "pyproject.toml", folder)
            if mutant is not None:
                pathlib.Path(folder, mutant.path).write_text(mutant.source)
            command = [sys.executable, "-m", "pytest", *options, *tests]
            try:
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=limit)
                failures = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
                found_by = [*failures, f"exit code {done.returncode}"][0] if done.returncode else None
            except subprocess.TimeoutExpired:
                found_by = "timeout"
        output.write_text(json.dumps([found_by, time.monotonic() - start]))
    return json.loads(output.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for the results")
    parser.add_argument("--num", type=int, default=320, help="number of mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--package", action="append", choices=PACKAGES, help="only this package's mutants")
    parser.add_argument("--random_cases", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    limits = {}
    for package in args.package or PACKAGES:
        failed, seconds = _attempt(args, package, package)
        if failed:
            raise SystemExit(f"Not all tests of {package} pass: {failed}")
        limits[package] = 60 + 10 * seconds

    def attempt(drawn):
        index, mutant = drawn
        found_by, _ = _attempt(args, f"mutant_{index}", mutant.package, limits[mutant.package], mutant)
        name = f"{mutant.path}:{mutant.line} {mutant.operator} {mutant.occurrence}"
        print(f"{index:4} {name}: {found_by or 'NOT FOUND'}", flush=True)
        return mutant, found_by is not None

    mutants = [(i, mutant) for i, mutant in enumerate(draw(args.num, args.seed)) if mutant.package in limits]
    with concurrent.futures.ThreadPoolExecutor(args.workers) as threads:
        results = list(threads.map(attempt, mutants))
    for group in (*limits, *_KINDS):
        found = [is_found for mutant, is_found in results if group in (mutant.package, mutant.kind)]
        print(f"{group:12} {sum(found):4} of {len(found):4} found")


if __name__ == "__main__":
    main()
