"""Every exported function and every public method of an exported class is annotated."""

import importlib
import inspect

import pytest

PUBLIC = "bijectors data evaluation flows interop layers logdet models serving solvers tables training vi".split()


def functions(name, value):
    """Yields the functions behind an exported name, each with its own name."""
    if inspect.isclass(value):
        for key, member in vars(value).items():
            if key.startswith("_") and key not in ("__init__", "__call__"):
                continue
            member = getattr(member, "__func__", getattr(member, "fget", member))
            if inspect.isfunction(member) and member.__module__.startswith("tf_resflow"):
                yield f"{name}.{key}", member
    elif inspect.isfunction(value):
        yield name, value


def untyped(function):
    """Returns the parameters of a function without annotation, and "return" if it has none."""
    expected = {"return", *inspect.signature(function).parameters} - {"self", "cls"}
    if function.__name__ == "__init__":
        expected.remove("return")
    return sorted(expected - inspect.get_annotations(function).keys())


@pytest.mark.parametrize("package", PUBLIC)
def test_public_functions_are_annotated(package):
    module = importlib.import_module(f"tf_resflow.{package}")
    found = {
        key: missing
        for name in module.__all__
        for key, function in functions(name, getattr(module, name))
        if (missing := untyped(function))
    }
    assert not found
