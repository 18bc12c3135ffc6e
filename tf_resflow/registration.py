"""Registers the classes of files and the formats of exports by name, before their modules are imported.

Keras looks up the classes of a file in its registry, and imports no packages except its own. So
`import tf_resflow` adds the names of the classes to the registry, at once or when Python imports Keras. The object
that stands for a class imports its module when Keras uses it.

`FlowModel.export` looks up its format in `EXPORT_FORMATS`, and imports no application. So `import tf_resflow` adds
the format. The function that writes it imports its module when it is called.

This module belongs to neither the library nor the applications, because it imports both.
"""

import functools
import importlib
import sys
import types
from collections.abc import Mapping, Sequence
from importlib import machinery
from typing import Any

from tf_resflow._internal import functions
from tf_resflow.models.export_formats import EXPORT_FORMATS

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
_MODULES = [
    "flows.classifier",
    "models.hybrid_model",
    "models.optimizers",
    "sbi.likelihood_estimator",
    "sbi.posterior_estimator",
    "vi.path_derivatives",
]


def register_names() -> None:
    """Registers the format of exports now, and the classes now or when Keras is imported."""
    EXPORT_FORMATS["tf_saved_model"] = _write_saved_model
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
    loaders = dict.fromkeys(_REMOVED, _refuse) | dict.fromkeys(_NAMES.split(), _from_config)
    for name, load in loaders.items():
        registry.setdefault(f"{_PACKAGE}>{name}", types.SimpleNamespace(from_config=functools.partial(load, name)))


def _refuse(name: str, config: Mapping[str, Any]) -> Any:
    raise ValueError(
        f"The file contains an object of the class {name}, which this version does not have. Load the file with "
        f"the version that wrote it, replace the {name}, and save it again."
    )


def _from_config(name: str, config: Mapping[str, Any]) -> Any:
    """Imports the modules with registered classes, and returns an object of one of these classes."""
    for module in _MODULES:
        importlib.import_module(f"{_PACKAGE}.{module}")
    return sys.modules[_REGISTRY].get_custom_objects()[f"{_PACKAGE}>{name}"].from_config(config)


def _write_saved_model(model: Any, path: Any, **settings: Any) -> None:
    from tf_resflow.serving.exporter import export_to  # imported here because it imports TensorFlow

    export_to(model, path, **settings)
