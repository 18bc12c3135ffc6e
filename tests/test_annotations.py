"""The public surface is typed: every exported function, and the public methods of exported classes."""

import importlib
import inspect
import typing
from collections.abc import Callable

import pytest

from tf_resflow import data, evaluation, flows, models, training
from tf_resflow.training.runs import Run
from tf_resflow.training.workdir import Workdir

PACKAGES = (
    "bijectors data evaluation flows interop layers logdet models serving sklearn solvers training vi".split()
)
IMPLICIT = {"self", "cls"}


def functions(name, value):
    """Yields the functions of an exported name, each with its own name."""
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
    """The parameters of a function without annotation, and "return"."""
    expected = inspect.signature(function).parameters.keys() - IMPLICIT
    if function.__name__ != "__init__":
        expected |= {"return"}
    return sorted(expected - inspect.get_annotations(function).keys())


@pytest.mark.parametrize("package", PACKAGES)
def test_public_functions_are_annotated(package):
    module = importlib.import_module(f"tf_resflow.{package}")
    found = {
        key: missing
        for name in module.__all__
        for key, function in functions(name, getattr(module, name))
        if (missing := untyped(function))
    }
    assert not found


@pytest.mark.parametrize(
    "function", [data.default_config, training.default_config, Workdir.read_config, Run.__init__]
)
def test_configs_have_fields_of_any_type(function):
    """Pyright sees no field `steps` in the value of `config.train`, as ml_collections annotates a ConfigDict."""
    hints = typing.get_type_hints(function)
    assert hints.get("config", hints["return"]) is typing.Any


@pytest.mark.parametrize(
    "function",
    [
        flows.vector_flow,
        flows.residual_image_block,
        models.FlowModel.__init__,
        models.FlowModel.log_prob,
        models.HybridModel.__init__,
        evaluation.LogLikelihood.__init__,
        evaluation.EstimatorNoise.__init__,
    ],
)
def test_estimators_and_solvers_may_be_functions(function):
    """As in a `ResidualBlock`, which calls them."""
    hints = typing.get_type_hints(function)
    for name in {"log_det_estimator", "evaluation_log_det_estimator", "inverse_solver"} & hints.keys():
        assert {Callable[..., typing.Any], type(None)} <= set(typing.get_args(hints[name]))
