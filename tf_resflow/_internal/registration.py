"""Registers the classes of files with Keras by name, before their modules are imported.

Keras looks up the classes of a file in its registry, and imports no packages except its own. So
`import tf_resflow` adds the names of the classes to the registry, at once or when Python imports Keras. The object
that stands for a class imports its module when Keras uses it.
"""

import functools
import importlib
import sys
import types
from collections.abc import Mapping, Sequence
from importlib import machinery
from typing import Any

from tf_resflow._internal import functions

_PACKAGE = "tf_resflow"
_REGISTRY = "keras.saving"
_NAMES = """
    ActNorm ActNormLayer Adam AdaptiveRoulette AdditiveCoupling AffineAutoregressive AffineCoupling
    Anderson CLipSwish CPila Centering Choice ConditionalAffine Coupling DCTConv Exact FixedPoint Flow FlowBijector
    FlowDequantizer FlowModel FullSort Gate Geometric HybridModel InvertibleConv1x1 KerasTraining L2SelfAttention
    LearnableConcatenation LearnedOrder LikelihoodEstimator LipSwish LipschitzConv2D LipschitzCube LipschitzDense
    LipschitzLayer LogDetEstimator Logit MaskedDense MaxMin MonotoneBlock MultiscaleFlow Muon NetworkBijector
    Normalize OfTFP OfVariable Poisson PosteriorEstimator PosteriorModel PowerSeries ResidualBlock RuledLayer
    RussianRoulette SerializableLayer Settings SplineCoupling Squeeze2D VariableBijector Whiten WithStatistics
    _Activation _Estimator _Frozen _PathDerivative _RandomLength _SeriesEstimator _SmoothActivation _Swish
"""
_REMOVED = ["AdaptiveSeries"]  # classes that files of earlier versions may contain
_MODULES = ["flows.classifier", "models.hybrid_model", "models.optimizers"]
_MODULES += ["sbi.likelihood_estimator", "sbi.posterior_estimator", "vi.path_derivatives"]


def register_names() -> None:
    """Registers the names with Keras: now, or when Keras is imported."""
    if _REGISTRY in sys.modules:
        _register(sys.modules[_REGISTRY])
    elif not any(isinstance(finder, _AfterKeras) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterKeras())


class _AfterKeras:
    """Finder that registers the names when Python imports Keras's registry, and is then removed."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> Any:
        """Returns the usual spec of the registry with another last step, and None for other modules."""
        if name != _REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec: Any = machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def execute_and_register(module):
            execute(module)
            _register(module)

        spec.loader.exec_module = execute_and_register
        return spec


def _register(saving):
    for function in (functions._relu, functions.compressed):
        saving.register_keras_serializable(_PACKAGE)(function)
    registry = saving.get_custom_objects()
    for name in _REMOVED:
        refuse = functools.partial(_refuse, name)
        registry.setdefault(f"{_PACKAGE}>{name}", types.SimpleNamespace(from_config=refuse))
    for name in _NAMES.split():
        key = f"{_PACKAGE}>{name}"
        registry.setdefault(key, types.SimpleNamespace(from_config=functools.partial(_from_config, key)))


def _refuse(name: str, config: Mapping[str, Any]) -> Any:
    raise ValueError(
        f"The file contains an object of the class {name}, which this version does not have. Load the file with "
        f"the version that wrote it, replace the {name}, and save it again."
    )


def _from_config(key: str, config: Mapping[str, Any]) -> Any:
    """Imports the modules with registered classes, and returns an object of one of these classes."""
    for module in _MODULES:
        importlib.import_module(f"{_PACKAGE}.{module}")
    return sys.modules[_REGISTRY].get_custom_objects()[key].from_config(config)
