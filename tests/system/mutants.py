"""Mutants: small faults that are put into the package, to see whether its tests find them.

    python -m tests.system.mutants --output=mutants

First it runs the tests of each package once, to know which lines each executes and how long it takes. Then it draws
mutants with a fixed seed. For each it runs the tests of its package, and the random cases, that execute its line,
the fastest first, until one fails. No file of the package is touched: each mutant has a process of its own, forked
from one that has imported TensorFlow, where an import hook changes the source. (What a test starts as a process has
no fault.) Started again, it goes on with what is in the output folder.
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

import coverage
import parso
import pytest
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = ("logdet", "layers", "solvers", "bijectors", "flows", "models", "vi", "training")
GENERATOR = "tests/test_random_cases.py"
MOST_SECONDS = 600  # of one mutant, by the clock: what takes longer is found


class DropStatement(Operator):
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

    @classmethod
    def examples(cls):
        return ()


class SwapArguments(Operator):
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

    @classmethod
    def examples(cls):
        return ()


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
        """The text of the file with the fault; None if it is no Python."""
        changed = mutate_code((ROOT / self.path).read_text(), _operator(self.operator), self.occurrence)
        with contextlib.suppress(SyntaxError):
            return changed and compile(changed, self.path, "exec") and changed

    @property
    def diff(self):
        texts = [text.splitlines() for text in ((ROOT / self.path).read_text(), self.source)]
        return [line for line in list(difflib.unified_diff(*texts, n=0, lineterm=""))[2:] if line[0] in "+-"]

    def lines(self):
        """The lines of its statement; of a compound one those of its head."""
        found = [self.line]
        for node in ast.walk(ast.parse((ROOT / self.path).read_text())):
            if isinstance(node, ast.stmt):
                last = node.body[0].lineno - 1 if getattr(node, "body", None) else node.end_lineno
                if node.lineno <= self.line <= max(last, node.lineno):  # the innermost one comes last
                    found = range(node.lineno, max(last, node.lineno) + 1)
        return found


def _left_out(source):
    """Ranges of what is not mutated: annotations, messages, imports, exports and what only a type checker reads."""
    silent = ("warnings.warn", "logging.info", "tf.debugging.Assert")
    for node in ast.walk(ast.parse(source)):
        left_out = node if isinstance(node, ast.Raise | ast.Assert | ast.ImportFrom | ast.JoinedStr) else None
        if isinstance(node, ast.arg | ast.AnnAssign):
            left_out = node.annotation
        elif isinstance(node, ast.FunctionDef):
            left_out = node.returns
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in silent:
            left_out = node
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            left_out = node
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            left_out = node
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
    """About `num` mutants of the packages, as many of each kind."""
    groups = collections.defaultdict(list)
    for package in PACKAGES:
        for path in sorted((ROOT / "tf_resflow" / package).rglob("*.py")):
            for mutant in _mutants_of(str(path.relative_to(ROOT))):
                groups[mutant.kind].append(mutant)
    choose = random.Random(seed)
    drawn = [mutant for kind in _KINDS for mutant in choose.sample(groups[kind], num // len(_KINDS))]
    choose.shuffle(drawn)
    return [mutant for mutant in drawn if mutant.source]


class _Watch:
    """A plugin of pytest: the seconds of each test, what it executes, and the first one that fails."""

    def __init__(self, measured=None):
        self.measured, self.seconds, self.failed = measured, {}, None

    def pytest_runtest_logstart(self, nodeid):
        if self.measured:
            _forget()
            self.measured.switch_context(nodeid)
        self._test, self._start = nodeid, time.process_time()

    def pytest_runtest_logfinish(self, nodeid):
        self.seconds[nodeid] = time.process_time() - self._start

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        if not self.measured or fixturedef.scope == "function":
            return (yield)
        self.measured.switch_context(f"{request.node.nodeid}*")
        try:
            return (yield)
        finally:
            self.measured.switch_context(self._test)

    def pytest_runtest_logreport(self, report):
        self.failed = self.failed or (report.nodeid if report.failed else None)

    pytest_collectreport = pytest_runtest_logreport


def _forget():
    """Empties the caches of functions, so that a test executes what one before it has, too."""
    modules = [module for name, module in sys.modules.items() if name.startswith("tf_resflow")]
    for value in [value for module in modules for value in vars(module).values()]:
        if hasattr(value, "cache_clear"):
            value.cache_clear()


def _pytest(tests, watch, log):
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    return int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--tb=short", *tests], plugins=[watch]))


def _record(tests, output):
    """Writes the seconds of each test, and which tests or shared fixtures (`PREFIX*`) execute each line."""
    measured = coverage.Coverage(data_file=None, source=[str(ROOT / "tf_resflow")])
    measured.start()
    watch = _Watch(measured)
    code = _pytest(tests, watch, output.with_suffix(".log"))
    measured.stop()
    if not code:
        data = measured.get_data()
        names = {file: str(pathlib.Path(file).relative_to(ROOT)) for file in data.measured_files()}
        lines = {name: data.contexts_by_lineno(file) for file, name in names.items()}
        output.write_text(json.dumps({"seconds": watch.seconds, "lines": lines}))
    os._exit(code)


class _ChangedLoader(importlib.machinery.SourceFileLoader):
    """Loads the module of a mutant."""

    def __init__(self, fullname, mutant):
        super().__init__(fullname, str(ROOT / mutant.path))
        self.mutant = mutant

    def get_code(self, fullname):
        return compile(self.mutant.source, self.path, "exec", dont_inherit=True)


class _ChangedFinder:
    """Finds the module of a mutant before other finders do."""

    def __init__(self, mutant):
        self.mutant = mutant
        self.name = mutant.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def find_spec(self, fullname, path=None, target=None):
        if fullname == self.name:
            loader = _ChangedLoader(fullname, self.mutant)
            return importlib.util.spec_from_file_location(fullname, loader.path, loader=loader)


def _try(mutant, tests, output):
    """Writes the first test that fails, None if none does."""
    sys.meta_path.insert(0, _ChangedFinder(mutant))
    watch = _Watch()
    code = _pytest(tests, watch, output.with_suffix(".log"))
    failed = watch.failed or (f"pytest ends with {code}" if code else None)
    output.write_text(json.dumps({"found_by": failed, "seconds": time.process_time()}))
    os._exit(0)


def _in_a_process(function, *arguments, seconds=None):
    """Whether a function comes to its end, in a process of its own."""
    process = multiprocessing.get_context("forkserver").Process(target=function, args=arguments)
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode == 0


class Session:
    """The tests and the mutants of a run of this file."""

    def __init__(self, args):
        self.args, self.seconds, self._lines = args, {}, {}
        self.random_cases = f"--random_cases={args.random_cases}"
        path = args.output / "drawn.json"
        if not path.exists():
            path.write_text(
                json.dumps([dataclasses.asdict(mutant) for mutant in draw(args.num, args.seed)], indent=1)
            )
        drawn = [Mutant(**fields) for fields in json.loads(path.read_text())]
        self.drawn = {i: mutant for i, mutant in enumerate(drawn) if mutant.package in args.package}

    def record(self, name):
        output = self.args.output / f"{name}.json"
        tests = [GENERATOR, self.random_cases] if name == "random_cases" else [f"tests/{name}"]
        if not output.exists() and not _in_a_process(_record, tests, output):
            raise SystemExit(f"Not all tests of {name} pass: see {output.with_suffix('.log')}.")
        recorded = json.loads(output.read_text())
        self.seconds[name], self._lines[name] = recorded["seconds"], recorded["lines"]

    def tests_of(self, mutant):
        """The tests that execute its line, the fastest first; all of the package for what an import executes."""
        found = set()
        for name in (mutant.package, "random_cases"):
            lines = self._lines[name].get(mutant.path, {})
            contexts = tuple({context for line in mutant.lines() for context in lines.get(str(line), ())})
            shared = tuple(context[:-1] for context in contexts if context.endswith("*"))
            executed = {test for test in self.seconds[name] if test in contexts or test.startswith(shared)}
            found |= executed or (set(self.seconds[name]) if contexts else set())
        seconds = self.seconds[mutant.package] | self.seconds["random_cases"]
        chosen, total = [], 0.0
        for test in sorted(found, key=lambda test: (seconds[test], test)):
            total += seconds[test]
            if chosen and total > self.args.most_seconds:
                break
            chosen.append(test)
        return chosen

    def attempt(self, index):
        mutant, output = self.drawn[index], self.args.output / f"mutant_{index}.json"
        if not output.exists():
            tests, trial = self.tests_of(mutant), output.with_suffix(".trial")
            result = {"found_by": None, "seconds": 0.0}
            if tests and _in_a_process(_try, mutant, [self.random_cases, *tests], trial, seconds=MOST_SECONDS):
                result = json.loads(trial.read_text())
            elif tests:
                result["found_by"] = "it crashes, or does not end"
            said = {"diff": mutant.diff, "num_tests": len(tests)}
            output.write_text(json.dumps(dataclasses.asdict(mutant) | result | said, indent=1))
        result = json.loads(output.read_text())
        name = f"{mutant.path}:{mutant.line} {mutant.operator}"
        print(f"{index:4} {result['found_by'] or 'NOT FOUND'}  {name}  {result['seconds']:.0f} s", flush=True)
        return mutant, result["found_by"]


def main():
    """Records the tests, draws and tries the mutants, and prints the shares that are found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder of the results")
    parser.add_argument("--num", type=int, default=320, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--package", action="append", choices=PACKAGES, help="only this package's mutants")
    parser.add_argument("--random_cases", type=int, default=12)
    parser.add_argument("--most_seconds", type=float, default=120.0, help="processor time of the tests of a mutant")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    args.package = args.package or PACKAGES
    args.output.mkdir(parents=True, exist_ok=True)
    preload = ["tensorflow", "tensorflow_probability", "keras", "pytest", "coverage"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(preload)
    session = Session(args)
    with concurrent.futures.ThreadPoolExecutor(args.workers) as threads:
        list(threads.map(session.record, [*args.package, "random_cases"]))
        results = list(threads.map(session.attempt, session.drawn))
    counts = collections.defaultdict(list)
    for mutant, found_by in results:
        for group in (mutant.package, mutant.kind, "all"):
            counts[group].append(bool(found_by))
    for group, found in counts.items():
        print(f"{group:12} {sum(found):4} of {len(found):4} found")


if __name__ == "__main__":
    main()
