"""Which tests call what of the contract: read from the tests' sources, so that the table cannot go stale."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from cowshed.testing.conformance.driver import ALWAYS_HOLLOW

ROOT = Path(__file__).resolve().parent.parent
SUITE = ROOT / "src" / "cowshed" / "testing" / "conformance" / "driver"

# In the order of what they prove: real guests and storage first, then real tools, then values alone.
FOLDERS = ("vm", "lvm", "nova", "host", "unit")
OF_FAKES = ("test_testing_driver.py", "test_contract_newest.py", "test_contract_shape.py")
SHOWN = 2  # tests a call, the best ones


def proofs(names: set[str]) -> dict[str, list[str]]:
    """Name of a call to ``folder/file::test``, the best first; tests of the shipped fakes prove nothing."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(SUITE.glob("*.py")):  # run on real guests by tests/vm/test_driver_conformance.py
        for test, promised in _promises(path):
            for name in sorted(promised & names - ALWAYS_HOLLOW):
                found[name].append(f"conformance/{path.stem}::{test}")
    for folder in FOLDERS:
        for path in sorted((ROOT / "tests" / folder).glob("test_*.py")):
            if path.name in OF_FAKES:
                continue
            for test, called in _tests(path, names):
                for name in sorted(called):
                    found[name].append(f"{folder}/{path.stem}::{test}")
    return {name: tests[:SHOWN] for name, tests in found.items()}


def _promises(path: Path) -> list[tuple[str, set[str]]]:
    """Each test of a suite and the calls that it names itself: ``@promise("pause", "unpause")``."""
    found = []
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
            words = {
                argument.value
                for decorator in function.decorator_list
                if isinstance(decorator, ast.Call)
                for argument in decorator.args
                if isinstance(argument, ast.Constant)
            }
            found.append((function.name, {str(word) for word in words}))
    return found


def _tests(path: Path, names: set[str]) -> list[tuple[str, set[str]]]:
    """Each test of a file and the calls in it, those of the functions it uses included: the file's own, and imported ones."""
    tree = ast.parse(path.read_text())
    functions = {**_imported(tree), **_functions(tree)}
    called = {name: _called(node) for name, node in functions.items()}
    found = []
    for name in _functions(tree):
        if name.startswith("test_"):
            all_called = set(called[name])
            for other in called[name] & functions.keys():
                all_called |= called[other]
            found.append((name, all_called & names))
    return found


def _functions(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def _imported(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    """The functions that come from other files of the tests (``from tests.vm.sides import go``)."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
            path = ROOT / Path(*str(node.module).split(".")).with_suffix(".py")
            there = _functions(ast.parse(path.read_text())) if path.exists() else {}
            found |= {one.name: there[one.name] for one in node.names if one.name in there}
    return found


def _called(function: ast.FunctionDef) -> set[str]:
    """Names that are called, as a method or not, and those handed on as a method (``partial(driver.pause, ...)``)."""
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names.add(node.func.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.arg):  # a fixture
            names.add(node.arg)
    return names
