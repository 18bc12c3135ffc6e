"""Mutants: small faults that are put into the package, to see whether its tests find them.

    python -m tests.system.mutants --output=mutants

Draws mutants with a fixed seed, and runs the tests of the package and the random cases on each until one fails. No
file is changed: each mutant has a process of its own, forked from one that has imported TensorFlow, where an import
hook changes the source. (Processes that a test starts have no fault.) A second start continues the first one.
"""

import argparse
import ast
import collections
import concurrent.futures
import contextlib
import dataclasses
import difflib
import functools
import importlib.machinery
import importlib.util
import json
import multiprocessing
import os
import pathlib
import random
import sys
import time

import parso
import pytest
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
    """Replaces a call, or an assignment without which its names are still defined, with `pass`."""

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


_OURS = {operator.__name__: operator for operator in (DropStatement, SwapArguments)}
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
    return _OURS[name]() if name in _OURS else OperatorProvider()[name]()


def _nodes(node):
    yield node
    for child in getattr(node, "children", ()):
        yield from _nodes(child)


def _leaves(node):
    return [inner for inner in _nodes(node) if not hasattr(inner, "children")]


@dataclasses.dataclass(frozen=True)
class Mutant:
    """An occurrence of an operator of a kind in a file."""

    path: str
    line: int
    kind: str
    operator: str
    occurrence: int

    @property
    def package(self):
        return pathlib.Path(self.path).parts[1]

    @functools.cached_property
    def source(self):
        """The text of the file with the fault, or None if it does not compile."""
        changed = mutate_code((ROOT / self.path).read_text(), _operator(self.operator), self.occurrence)
        with contextlib.suppress(SyntaxError):
            return changed and compile(changed, self.path, "exec") and changed

    @property
    def diff(self):
        texts = [text.splitlines() for text in ((ROOT / self.path).read_text(), self.source)]
        return [line for line in list(difflib.unified_diff(*texts, n=0, lineterm=""))[2:] if line[0] in "+-"]


def _left_out(source):
    """Ranges that are not mutated: annotations, messages, imports, exports and what only a type checker reads."""
    silent = ("warnings.warn", "logging.info", "tf.debugging.Assert")
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Raise() | ast.Assert() | ast.ImportFrom() | ast.JoinedStr():
                left_out = node
            case ast.arg(annotation=part) | ast.AnnAssign(annotation=part) | ast.FunctionDef(returns=part):
                left_out = part
            case ast.Call(func=part) if ast.unparse(part) in silent:
                left_out = node
            case ast.Assign(targets=[ast.Name("__all__")]) | ast.If(test=ast.Name("TYPE_CHECKING")):
                left_out = node
            case _:
                left_out = None
        if left_out is not None:
            yield (left_out.lineno, left_out.col_offset), (left_out.end_lineno, left_out.end_col_offset)


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
    """About `num` mutants of the packages, equally many of each kind."""
    groups = collections.defaultdict(list)
    paths = [path for name in PACKAGES for path in sorted((ROOT / "tf_resflow" / name).rglob("*.py"))]
    for mutant in (mutant for path in paths for mutant in _mutants_of(str(path.relative_to(ROOT)))):
        groups[mutant.kind].append(mutant)
    choose = random.Random(seed)
    drawn = [mutant for kind in _KINDS for mutant in choose.sample(groups[kind], num // len(_KINDS))]
    choose.shuffle(drawn)
    return [mutant for mutant in drawn if mutant.source]


class _Importer(importlib.machinery.SourceFileLoader):
    """Imports the module of a mutant."""

    def __init__(self, mutant):
        name = mutant.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        super().__init__(name, str(ROOT / mutant.path))
        self.source = mutant.source

    def find_spec(self, fullname, path=None, target=None):
        if fullname == self.name:
            return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def get_code(self, fullname):
        return compile(self.source, self.path, "exec", dont_inherit=True)


class _Failures(list):
    """A plugin of pytest that keeps the tests that fail."""

    def pytest_runtest_logreport(self, report):
        self += [report.nodeid] * report.failed

    pytest_collectreport = pytest_runtest_logreport


def _run(package, random_cases, output, mutant=None):
    """Runs the tests of a package, in a process of its own, and writes the first one that fails."""
    if mutant is not None:
        sys.meta_path.insert(0, _Importer(mutant))
    with output.with_suffix(".log").open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    failures = _Failures()
    tests = [f"tests/{package}", "tests/test_random_cases.py", f"--random_cases={random_cases}"]
    code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--tb=short", *tests], plugins=[failures])
    found = [*failures, f"pytest ends with {int(code)}" if code else None][0]
    output.write_text(json.dumps({"found_by": found, "seconds": time.process_time()}))
    os._exit(0)


def _result(output, seconds, *arguments):
    """The result of `_run`, from its file if there is one."""
    if not output.exists():
        process = multiprocessing.get_context("forkserver").Process(target=_run, args=arguments)
        process.start()
        process.join(seconds)
        process.kill()
        process.join()
        if process.exitcode:
            output.write_text(json.dumps({"found_by": "it crashes, or does not end", "seconds": seconds}))
    return json.loads(output.read_text())


def _attempt(args, limits, index, mutant):
    """The first test that finds a mutant, or None."""
    output = args.output / f"mutant_{index}.json"
    result = _result(output, limits[mutant.package], mutant.package, args.random_cases, output, mutant)
    name = f"{mutant.path}:{mutant.line} {mutant.operator}"
    print(f"{index:4} {result['found_by'] or 'NOT FOUND'}  {name}  {result['seconds']:.0f} s", flush=True)
    if result["found_by"] is None:
        print(*mutant.diff, sep="\n", flush=True)
    return mutant, result["found_by"]


def main():
    """Draws and tries the mutants, and prints the shares that are found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder of the results")
    parser.add_argument("--num", type=int, default=320, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--package", action="append", choices=PACKAGES, help="only this package's mutants")
    parser.add_argument("--random_cases", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    preload = ["tensorflow", "tensorflow_probability", "keras", "pytest"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(preload)
    limits = {}
    for package in args.package or PACKAGES:
        output = args.output / f"{package}.json"
        start, result = time.monotonic(), _result(output, None, package, args.random_cases, output)
        if result["found_by"]:
            raise SystemExit(f"Not all tests of {package} pass: see {output.with_suffix('.log')}.")
        limits[package] = 60 + 5 * max(result["seconds"], time.monotonic() - start)
    mutants = [(i, m) for i, m in enumerate(draw(args.num, args.seed)) if m.package in limits]
    with concurrent.futures.ThreadPoolExecutor(args.workers) as threads:
        results = list(threads.map(lambda drawn: _attempt(args, limits, *drawn), mutants))
    counts = collections.defaultdict(list)
    for mutant, found_by in results:
        for group in (mutant.package, mutant.kind, "all"):
            counts[group].append(bool(found_by))
    for group, found in counts.items():
        print(f"{group:12} {sum(found):4} of {len(found):4} found")


if __name__ == "__main__":
    main()
