"""Mutants: small faults that are put into the package, and whether the tests find them.

    python -m tests.mutants --output=mutants

runs the tests of each package once, to know which lines they execute and how long they take. Then it draws mutants with
a fixed seed and runs, for each, the tests that execute its line, of its package and of the random cases, the fastest
first, until one fails. The files of the package are not touched: each mutant has a process of its own, forked from one
that has imported TensorFlow already, and an import hook gives it the changed source. Started again with the same output
folder it goes on; with other tests it wants another folder.
"""

import argparse
import ast
import collections
import concurrent.futures
import contextlib
import difflib
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

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("logdet", "layers", "solvers", "bijectors", "flows", "models", "vi", "training")
GENERATOR = "tests/test_random_cases.py"
_MUTANT_SECONDS = 600  # of one mutant, by the clock; one that takes longer counts as found


class DropStatement(Operator):
    """Replaces a call, or an assignment without which a name is still defined, with `pass`."""

    def mutation_positions(self, node):
        if node.type == "simple_stmt" and self._is_dropped(node.children[0]):
            yield node.start_pos, node.end_pos

    @staticmethod
    def _is_dropped(statement):
        if statement.type in ("atom_expr", "await_expr"):
            return statement.children[-1].type == "trailer" and statement.children[-1].children[0].value == "("
        if statement.type != "expr_stmt":
            return False
        target, operator = statement.children[:2]
        if operator.type == "annassign":
            return False
        names = {leaf.value for leaf in _leaves(target)}
        is_rebound = operator.value == "=" and names & {
            leaf.value for leaf in _leaves(statement.children[2])
        } - set(",()")
        return operator.value != "=" or target.type == "atom_expr" or bool(is_rebound)

    def mutate(self, node, index):
        prefix = node.get_first_leaf().prefix
        return parso.parse(f"{prefix}pass\n").children[0]

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
        for first, second in self._pairs(node):
            yield node.children[first].start_pos, node.children[second].end_pos

    def mutate(self, node, index):
        i, j = list(self._pairs(node))[index]
        first, second = node.children[i].get_first_leaf(), node.children[j].get_first_leaf()
        first.prefix, second.prefix = second.prefix, first.prefix
        node.children[i], node.children[j] = node.children[j], node.children[i]
        return node

    @classmethod
    def examples(cls):
        return ()


_BINARY = ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Pow_Mul", "FloorDiv_Mul", "Mod_FloorDiv")
_COMPARED = ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt")
_TESTED = ("AddNot", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceUnaryOperator_Delete_Not")
_KINDS = {
    "arithmetic": [f"ReplaceBinaryOperator_{name}" for name in _BINARY] + ["ReplaceUnaryOperator_Delete_USub"],
    "comparison": [f"ReplaceComparisonOperator_{name}" for name in (*_COMPARED, "Is_IsNot", "IsNot_Is")]
    + [*_TESTED],
    "constant": ["NumberReplacer", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"],
    "statement": [DropStatement],
    "arguments": [SwapArguments],
}


class Mutant:
    """An occurrence of an operator in a file."""

    def __init__(self, path, kind, operator, occurrence, line):
        self.path, self.kind, self.line = path, kind, line
        self.operator, self.occurrence = operator, occurrence

    def __str__(self):
        name = self.operator if isinstance(self.operator, str) else self.operator.__name__
        return f"{self.path}:{self.line} {name} {self.occurrence}"

    @property
    def package(self):
        return pathlib.Path(self.path).parts[1]

    def lines(self):
        """The lines of its statement; of a compound one those of its head."""
        innermost = None
        for node in ast.walk(ast.parse((ROOT / self.path).read_text())):
            if isinstance(node, ast.stmt):
                last = node.body[0].lineno - 1 if getattr(node, "body", None) else node.end_lineno
                if node.lineno <= self.line <= max(last, node.lineno):
                    innermost = range(node.lineno, max(last, node.lineno) + 1)
        return innermost or [self.line]

    def source(self):
        """The text of the file with the fault."""
        return mutate_code((ROOT / self.path).read_text(), _operator(self.operator), self.occurrence)

    def diff(self):
        lines = [text.splitlines() for text in ((ROOT / self.path).read_text(), self.source())]
        return [line for line in difflib.unified_diff(*lines, n=0, lineterm="") if line[:3] not in ("---", "+++")][
            1:
        ]


def _operator(operator):
    return (OperatorProvider()[operator] if isinstance(operator, str) else operator)()


def _leaves(node):
    return [node] if not hasattr(node, "children") else [leaf for child in node.children for leaf in _leaves(child)]


def _left_out(source):
    """Ranges that no test can tell: annotations, messages, warnings, names of exports, and what only a type checker runs."""
    for node in ast.walk(ast.parse(source)):
        parts = []
        if isinstance(node, ast.Raise | ast.Assert | ast.ImportFrom | ast.Import):
            parts = [node]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "warnings.warn",
            "logging.info",
            "tf.debugging.Assert",
        ):
            parts = [node]
        elif isinstance(node, ast.arg | ast.AnnAssign):
            parts = [node.annotation]
        elif isinstance(node, ast.FunctionDef):
            parts = [node.returns]
        elif (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "__all__"
        ):
            parts = [node]
        elif isinstance(node, ast.JoinedStr):
            parts = [node]
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            parts = [node]
        for part in parts:
            if part is not None:
                yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)


def _mutants_of(path):
    source = (ROOT / path).read_text()
    left_out = list(_left_out(source))
    tree, lines = parso.parse(source), source.splitlines()

    def nodes(node):
        yield node
        for child in getattr(node, "children", ()):
            yield from nodes(child)

    everything = list(nodes(tree))
    for kind, operators in _KINDS.items():
        for operator in operators:
            instance, positions = _operator(operator), []
            for node in everything:
                positions.extend(instance.mutation_positions(node))
            for occurrence, (start, end) in enumerate(positions):
                if lines[start[0] - 1][start[1] :].startswith("*,"):  # of a signature
                    continue
                if not any(first <= start and end <= last for first, last in left_out):
                    yield Mutant(path, kind, operator, occurrence, start[0])


def draw(num, seed):
    """`num` mutants of the packages, as many of each kind, in an order in which each package has its turn."""
    groups = collections.defaultdict(list)
    for package in PACKAGES:
        for path in sorted((ROOT / "tf_resflow" / package).rglob("*.py")):
            for mutant in _mutants_of(str(path.relative_to(ROOT))):
                groups[mutant.kind].append(mutant)
    choose = random.Random(seed)
    drawn = [m for kind in _KINDS for m in choose.sample(groups[kind], num // len(_KINDS))]
    drawn = [mutant for mutant in drawn if mutant.source() is not None and _compiles(mutant.source())]
    choose.shuffle(drawn)
    return drawn


def _compiles(source):
    with contextlib.suppress(SyntaxError):
        return bool(compile(source, "mutant", "exec"))
    return False


class _Changed(importlib.machinery.SourceFileLoader):
    """Loads a module from another source than its file's."""

    source = b""

    def get_code(self, fullname):
        return compile(self.source, self.path, "exec", dont_inherit=True)


def _put_in_place(mutant):
    path = str(ROOT / mutant.path)
    name = ".".join(pathlib.Path(mutant.path).with_suffix("").parts).removesuffix(".__init__")

    class Finder:
        @staticmethod
        def find_spec(fullname, *_):
            if fullname != name:
                return None
            loader = _Changed(fullname, path)
            loader.source = mutant.source()
            return importlib.util.spec_from_file_location(fullname, path, loader=loader)

    sys.meta_path.insert(0, Finder)


class _Watch:
    """A plugin of pytest: what each test executes and how long it takes, and the first test that fails."""

    def __init__(self, coverage=None):
        self.coverage, self.seconds, self.failed = coverage, {}, None

    def pytest_runtest_logstart(self, nodeid):
        if self.coverage:
            _forget()
            self.coverage.switch_context(nodeid)
        self._start, self._test = time.process_time(), nodeid

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        shared = self.coverage and fixturedef.scope != "function"
        if shared:
            self.coverage.switch_context(f"{request.node.nodeid}*")
        try:
            return (yield)
        finally:
            if shared:
                self.coverage.switch_context(self._test)

    def pytest_runtest_logfinish(self, nodeid):
        self.seconds[nodeid] = time.process_time() - self._start

    def pytest_runtest_logreport(self, report):
        if report.failed and self.failed is None:
            self.failed = report.nodeid

    def pytest_collectreport(self, report):
        if report.failed and self.failed is None:
            self.failed = report.nodeid or "collection"


def _forget():
    """Empties the caches of functions, so that a test executes what one before it has, too."""
    for name, module in list(sys.modules.items()):
        if name.startswith("tf_resflow"):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def _pytest(arguments, watch, log):
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    return int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--tb=short", *arguments], plugins=[watch]))


def _record(tests, output, log):
    """Runs tests under coverage; writes the seconds of each and the lines that it executes."""
    import coverage

    measured = coverage.Coverage(data_file=None, source=[str(ROOT / "tf_resflow")])
    measured.start()
    watch = _Watch(measured)
    code = _pytest(tests, watch, log)
    measured.stop()
    if code:
        os._exit(1)
    data, lines = measured.get_data(), collections.defaultdict(lambda: collections.defaultdict(list))
    for file in data.measured_files():
        for line, contexts in data.contexts_by_lineno(file).items():
            for context in contexts:
                lines[str(pathlib.Path(file).relative_to(ROOT))][line].append(context)
    with open(output, "w") as file:
        json.dump({"seconds": watch.seconds, "lines": lines}, file)
    os._exit(0)


def _try(mutant, tests, output, log):
    """Runs tests on a mutant; writes the first one that fails."""
    _put_in_place(mutant)
    watch, start = _Watch(), time.process_time()
    code = _pytest(tests, watch, log)
    watch.failed = watch.failed or (f"pytest ended with code {code}" if code else None)
    with open(output, "w") as file:
        json.dump({"killed_by": watch.failed, "seconds": time.process_time() - start}, file)
    os._exit(0)


def _in_a_process(context, target, *arguments, seconds=None):
    """Whether a function came to its end in a process of its own."""
    process = context.Process(target=target, args=arguments)
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    return process.exitcode == 0


def _executes(context, test):
    """Whether a test, or a fixture that it may share, was in this context."""
    return test == context or (context.endswith("*") and test.startswith(context[:-1]))


def _tests_of(mutant, known, most_seconds):
    """The tests that execute the line, the fastest first; all of the package for a line that an import executes."""
    seconds = known["seconds"]
    lines = known["lines"].get(mutant.path, {})
    contexts = {context for line in mutant.lines() for context in lines.get(str(line), ())}
    found = {test for context in contexts for test in seconds if _executes(context, test)}
    if not found and contexts:
        found = set(seconds)
    mirror = f"tests/{mutant.package}/"
    found = [test for test in found if test in seconds and test.startswith((mirror, GENERATOR))]
    found.sort(key=lambda test: (seconds[test], test))
    chosen, total = [], 0.0
    for test in found:
        total += seconds[test]
        if chosen and total > most_seconds:
            break
        chosen.append(test)
    return chosen, len(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=320, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "mutants", help="folder of the results")
    parser.add_argument("--package", action="append", choices=PACKAGES, help="only these packages' mutants")
    parser.add_argument("--random_cases", type=int, default=40)
    parser.add_argument("--most_seconds", type=float, default=120.0, help="of processor time of a mutant's tests")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tensorflow", "tensorflow_probability", "keras", "pytest", "coverage"])
    threads = concurrent.futures.ThreadPoolExecutor(args.workers)
    packages = args.package or PACKAGES
    random_cases = f"--random_cases={args.random_cases}"

    def record(name):
        output = args.output / f"tests.{name}.json"
        paths = [GENERATOR, random_cases] if name == "random_cases" else [f"tests/{name}"]
        if not output.exists() and not _in_a_process(
            context, _record, paths, output, args.output / f"tests.{name}.log"
        ):
            raise SystemExit(
                f"The tests of {name} fail or end early: {args.output / f'tests.{name}.log'} has more."
            )
        return json.loads(output.read_text())

    def attempt(numbered):
        index, mutant = numbered
        output = args.output / f"mutant.{args.seed}.{index}.json"
        if not output.exists():
            chosen, num = _tests_of(mutant, known[mutant.package], args.most_seconds)
            log = output.with_suffix(".log")
            result = {"killed_by": None, "seconds": 0.0}
            if chosen and _in_a_process(
                context,
                _try,
                mutant,
                [random_cases, *chosen],
                log,
                log.with_suffix(".txt"),
                seconds=_MUTANT_SECONDS,
            ):
                result = json.loads(log.read_text())
            elif chosen:
                result["killed_by"] = "it crashed, or did not end"
            mutant_of = {
                "mutant": str(mutant),
                "kind": mutant.kind,
                "package": mutant.package,
                "diff": mutant.diff(),
            }
            output.write_text(json.dumps({**mutant_of, **result, "tests": len(chosen), "of": num}, indent=1))
        result = json.loads(output.read_text())
        print(
            f"{result['killed_by'] or 'SURVIVED':60.60}  {result['mutant']}  {result['seconds']:.0f} s", flush=True
        )
        return result

    recorded = dict(zip([*packages, "random_cases"], threads.map(record, [*packages, "random_cases"]), strict=True))
    generator, known = recorded.pop("random_cases"), {}
    for package, tests in recorded.items():
        known[package] = {"seconds": tests["seconds"] | generator["seconds"], "lines": _merged(tests, generator)}
    drawn = [(i, m) for i, m in enumerate(draw(args.num, args.seed)) if m.package in packages]
    results = list(threads.map(attempt, drawn))
    for key in ("package", "kind"):
        for name in sorted({result[key] for result in results}):
            of = [result for result in results if result[key] == name]
            print(f"{name:12} {sum(bool(result['killed_by']) for result in of):4} of {len(of):4} found")
    print(f"{'all':12} {sum(bool(result['killed_by']) for result in results):4} of {len(results):4} found")


def _merged(one, other):
    lines = {}
    for path in {*one["lines"], *other["lines"]}:
        both = [source["lines"].get(path, {}) for source in (one, other)]
        lines[path] = {line: both[0].get(line, []) + both[1].get(line, []) for line in {*both[0], *both[1]}}
    return lines


if __name__ == "__main__":
    main()
