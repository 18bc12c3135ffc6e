import functools

import numpy as np
import pytest
import tensorflow as tf

import tf_resflow as resflow


@pytest.fixture(scope="session")
def call():
    """Returns a function that calls a signature of a loaded model with numbers and arrays, and returns arrays."""
    dtypes = {"num": tf.int32, "seed": tf.int64, "temperature": tf.float32}

    def call(loaded, signature, **values):
        tensors = {name: tf.convert_to_tensor(value, dtypes.get(name)) for name, value in values.items()}
        result = loaded.signatures[signature](**tensors)
        return {name: value.numpy() for name, value in result.items()}

    return call


@pytest.fixture(scope="session")
def image_model():
    """Returns a hybrid model of 8 x 8 images with 17 levels."""
    structure = {"num_blocks": (1,), "width": 8, "kernels": (3, 1), "num_fc_blocks": 0, "squeeze_first": True}
    flow = resflow.flows.image_flow((8, 8, 1), **structure, logit_alpha=None, mean=[0.3], std=[0.3])
    shapes = flow.feature_shapes((8, 8, 1))
    classifier = resflow.flows.multiscale_classifier(shapes, num_classes=3, num_features=8)
    model = resflow.HybridModel(flow, classifier, (8, 8, 1), levels=17)
    model.initialize(np.random.default_rng(0).integers(17, size=[64, 8, 8, 1]).astype("uint8"))
    return model


@pytest.fixture(scope="session")
def vector_model():
    """Returns a density of vectors in float64."""
    flow = resflow.flows.vector_flow(3, num_blocks=2, hidden=(8,), dtype="float64")
    model = resflow.FlowModel(flow, [3])
    model.initialize(np.random.default_rng(0).normal(size=[64, 3]))
    return model


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(1).integers(17, size=[7, 8, 8, 1]).astype("uint8")


@pytest.fixture(scope="session")
def export_dir(image_model, tmp_path_factory):
    """Exports the image model as version 1 and returns the directory."""
    directory = tmp_path_factory.mktemp("images")
    options = {"log_det_estimator": resflow.logdet.RussianRoulette(6), "num_samples": 4}
    resflow.serving.export(image_model, directory, measured={"stderr": 0.5}, **options)
    return directory


@pytest.fixture(scope="session")
def loaded(export_dir):
    return tf.saved_model.load(str(export_dir / "1"))


@pytest.fixture(scope="session")
def export_vectors(vector_model):
    """Returns a function that exports the vector model to a folder."""
    return functools.partial(resflow.serving.export, vector_model, log_det_estimator=resflow.logdet.Exact())


@pytest.fixture(scope="session")
def exported_vectors(export_vectors, tmp_path_factory):
    """Returns the path of the exported vector model."""
    return export_vectors(tmp_path_factory.mktemp("vectors"))


@pytest.fixture(scope="session")
def loaded_vectors(exported_vectors):
    return tf.saved_model.load(str(exported_vectors))
