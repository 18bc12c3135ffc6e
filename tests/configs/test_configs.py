"""Every file in configs/ loads its data by their TFDS name, and builds its model."""

import math
import pathlib
import runpy

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tf_resflow import data, training
from tf_resflow.layers.lipschitz_layer import LipschitzLayer
from tf_resflow.training import base_config
from tf_resflow.training.build import build_flow
from tf_resflow.training.config import validate_config

ROOT = pathlib.Path(__file__).parents[2]
WITH_ARGUMENT = {"ablations", "best_small", "hybrid", "idensenet", "monotone", "variational"}
FILES = {path.stem: runpy.run_path(str(path)) for path in (ROOT / "configs").rglob("*.py")}
NAMES = FILES.keys() - WITH_ARGUMENT
# Configs that, once made small, have the same model as another config.
SAME_MODEL = {
    **dict.fromkeys(["bsds32", "bsds32_small", "cifar10_small", "imagenet32", "images", "svhn"], "cifar10"),
    **dict.fromkeys(["fashion_mnist", "fashion_mnist_small", "mnist_small"], "mnist"),
    "celebahq64_5bit": "imagenet64",
}
# Ablations that squeeze or whiten are built for images; the others for a 2-D density, which is faster.
ABLATIONS = {
    f"ablations:{name},{'digits' if fields.keys() & {'model.squeeze_first', 'model.whiten'} else 'toy2d'}"
    for name, fields in FILES["ablations"]["ABLATIONS"].items()
}
BUILT = {*NAMES, *ABLATIONS} - {*SAME_MODEL, "tabular"}
BUILT |= {"monotone:digits", "monotone:toy2d", "idensenet:toy2d", "best_small:digits", "variational:digits"}
BUILT |= {"hybrid:digits,residual,1"}
SIZES = {"train": 20, "validation": 4, "test": 4, "extra": 4}
# The shape of an image and the splits of each image data set of the configs.
IMAGES = {name: ((28, 28, 1), ("train", "test")) for name in ("mnist", "fashion_mnist")}
IMAGES |= {name: ((32, 32, 3), ("train", "test")) for name in ("cifar10", "bsds32")}
IMAGES |= {f"downsampled_imagenet/{n}x{n}": ((n, n, 3), ("train", "validation")) for n in (32, 64)}
IMAGES |= {"svhn_cropped": ((32, 32, 3), ("train", "test", "extra")), "celeb_a_hq/256": ((256, 256, 3), ("train",))}


def _example(features, shape, number):
    """Returns noise for the image, and a dummy value for every other feature."""
    image = np.random.default_rng(number).integers(256, size=shape, dtype=np.uint8)
    values = {tfds.features.Image: image, tfds.features.ClassLabel: number % 10, tfds.features.Text: "text"}
    return {key: values[type(feature)] for key, feature in features.items()}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Writes a few examples of each data set where the TFDS builders find them, with the declared features."""
    directory = str(tmp_path_factory.mktemp("tfds"))
    for name, (shape, splits) in IMAGES.items():
        version, config = "1.0.0", None
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=shape)})
        if name != "bsds32":
            builder = tfds.builder(name, data_dir=directory)
            version, features = str(builder.version), builder.info.features
        if "/" in name:
            config = tfds.core.BuilderConfig(name=name.split("/")[1], version=version)
        examples = {split: [(i, _example(features, shape, i)) for i in range(SIZES[split])] for split in splits}
        options = {"config": config, "features": features, "split_datasets": examples, "data_dir": directory}
        tfds.dataset_builders.store_as_tfds_dataset(name=name.split("/")[0], version=version, **options)
    images = np.random.default_rng(0).integers(256, size=[40, 64, 64, 3], dtype=np.uint8)
    np.savez(f"{directory}/images.npz", images=images, labels=np.arange(40) % 10)
    return directory


@pytest.fixture
def no_search(monkeypatch):
    """Builds layers without a search for the maximizers of their norms."""
    monkeypatch.setattr(LipschitzLayer, "_new_vector", lambda layer: None)


def prepared(config, data_dir):
    """Shrinks a config but keeps its structure: up to two scales of one block, width 4, 64 pixels a side."""
    model = config.model
    config.data.image_size = min(config.data.image_size, 64)
    model.num_blocks = (1,) * min(len(model.num_blocks), 2)
    model.width = model.fc_width = 4
    model.hidden = (4,) * len(model.hidden)
    model.num_fc_blocks = min(model.num_fc_blocks, 1)
    config.train.batch_size = 4
    config.data.data_dir = data_dir
    if config.data.name == "images":
        config.data.path = f"{data_dir}/images.npz"
    return config


def test_wrong_arguments():
    for message, names in {
        "Unknown ablation": ["ablations", "ablations:poison", "ablations:,mnist_small"],
        "Unknown config 'mnits'.*'mnist'": ["ablations:poisson,mnits", "hybrid:mnits", "monotone:idensenet:mnits"],
        "must be a multiple of 8": [f"images:{size}" for size in ("20", "72", "-8", "x", "8.0")],
        "not known for images": ["hybrid:images,residual,1"],
        "Unknown argument": [f"hybrid:mnist,{rest}" for rest in ("resnet", "residual,2", ",1,1")],
        "takes no argument, but got 'data.csv'": ["tabular:data.csv", "mnist:data.csv", "monotone:digits:data.csv"],
        "does not apply to this config": ["monotone:tabular", "ablations:poisson,tabular"],
        "does not have labeled": ["hybrid:hybrid", "hybrid:toy2d", "hybrid:bsds32"],
    }.items():
        for name in names:
            with pytest.raises(ValueError, match=message):
                base_config(name)


def test_changes_of_changed_configs():
    for base, is_white in (("mnist_small", False), ("bsds32_small", True)):
        model = base_config(f"best_small:{base}").model
        assert (model.whiten, model.logit_alpha is None) == (is_white, is_white)
        assert (model.branch, model.activation) == ("dense_net", "cpila")
    model = base_config("ablations:poisson,monotone:idensenet:mnist_small").model
    assert (model.block, model.branch, model.activation) == ("monotone", "dense_net", "cpila")
    assert model.estimator.train.distribution == "poisson"


def test_hybrid_arguments():
    """The paper's three lambdas are weights of 0, 1 and D for bits/dim, relative to the cross entropy."""
    weights = {"cifar10,residual,0": 0.0, "": 1.0, "svhn,,1/D": 1.0, "cifar10,,1": 3072.0, "digits,,1": 64.0}
    for argument, weight in weights.items():
        config = base_config(f"hybrid:{argument}")
        assert (config.task, config.hybrid.density_weight, config.model.logit_alpha) == ("hybrid", weight, None)
    blocks = [base_config(f"hybrid:mnist,{trunk}").model for trunk in FILES["hybrid"]["TRUNKS"]]
    found = [(m.block, m.inv_1x1_conv) for m in blocks]
    assert found == [("residual", False), ("affine_coupling", False), ("affine_coupling", True)]
    config = base_config("hybrid:cifar10")
    assert (config.data.flip, config.data.crop_padding) == (True, 4)
    model = base_config("hybrid:monotone:idensenet:mnist").model
    assert (model.block, model.branch) == ("monotone", "dense_net")
    assert base_config("hybrid:images:32").data.image_size == 32


@pytest.mark.parametrize("size, squeezed", [("8", False), ("40", True)])
def test_images_of_any_size(size, squeezed, data_dir, no_search):
    """The flow has three scales. Images of 40 pixels are squeezed once more."""
    config = prepared(base_config(f"images:{size}"), data_dir)
    dataset = data.load(config.data)
    assert dataset.event_shape == (int(size), int(size), 3) and dataset.num_classes == 10
    assert config.model.squeeze_first == squeezed
    config.model.num_blocks = (1, 1, 1)
    flow = build_flow(config.model, dataset.event_shape)
    assert flow.forward_event_shape(dataset.event_shape)[-1] == 3 * 16 * 4**squeezed


# Parameter counts that the published code reports for the commands in its README, without two untrained parameters
# per block (of the distribution of the number of terms). The paper: 25.2M for CIFAR-10, 47.1M for ImageNet32.
# The counts of i-DenseNets and Monotone Flows are sums over the shapes in lib/resflow.py of the repositories
# invertible_densenets and MonotoneFlows.
PARAMETERS = {
    "mnist": 16_608_589,
    "cifar10": 25_174_129,
    "imagenet32": 47_099_089,
    "imagenet64": 53_294_275,
    "celebahq256_5bit": 136_777_176,
    "idensenet:cifar10": 24_894_586,
    "monotone:idensenet:cifar10": 24_894_430,
}


def _count(config, event_shape, num_blocks, num_fc_blocks, **fields):
    model = config.model.copy_and_resolve_references()
    num_blocks = (num_blocks,) * len(model.num_blocks)
    model.update(num_blocks=num_blocks, num_fc_blocks=num_fc_blocks, **fields)
    flow = build_flow(model, event_shape)
    return sum(math.prod(v.shape) for v in flow.trainable_variables)


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name, no_search):
    """Counts differences, because building 100 blocks takes minutes and the blocks of a scale are equally large.

    Convolutions are counted on the smallest image that the squeezes allow, because the image size does not affect
    them. Fully connected blocks are counted behind two squeezes of 28 x 28 or 32 x 32 images, as in the last scale.
    """
    config = base_config(name)
    size = 2 ** (len(config.model.num_blocks) - 1 + config.model.squeeze_first)
    channels = 1 if name == "mnist" else 3
    one, two = (_count(config, (size, size, channels), n, 0) for n in (1, 2))
    total = one + (two - one) * (config.model.num_blocks[0] - 1)
    if config.model.num_fc_blocks:
        shape = (28, 28, 1) if name == "mnist" else (32, 32, 3)
        two_squeezes = {"factor_out": False, "squeeze_first": False}
        none, dense = (_count(config, shape, 0, n, **two_squeezes) for n in (0, 1))
        total += (dense - none) * config.model.num_fc_blocks
    assert total == PARAMETERS[name]


SHAPES = dict.fromkeys(("cifar10", "svhn", "imagenet32", "bsds32"), (32, 32, 3))
SHAPES |= dict.fromkeys(("mnist", "fashion_mnist_small"), (28, 28, 1))
SHAPES |= {"imagenet64": (64, 64, 3), "celebahq64_5bit": (64, 64, 3), "celebahq256_5bit": (256, 256, 3)}


@pytest.mark.parametrize("name", SHAPES)
def test_data_of_the_config(name, data_dir):
    shape = SHAPES[name]
    is_faces = name.startswith("celebahq")
    levels, sizes = (32, {"train": 18, "test": 2}) if is_faces else (256, {"train": 20, "test": 4})
    config = base_config(name)
    config.data.data_dir = data_dir
    dataset = data.load(config.data)
    assert (dataset.event_shape, dataset.levels, dataset.sizes) == (shape, levels, sizes)
    assert next(iter(dataset.train_batches(3, seed=0))).shape == (3, *shape)
    assert FILES["hybrid"]["DIMENSIONS"].get(config.data.name, math.prod(shape)) == math.prod(shape)


def test_configs_of_one_model():
    for name, other in SAME_MODEL.items():
        config = base_config(name)
        validate_config(config)
        assert prepared(config, "").model == prepared(base_config(other), "").model


@pytest.mark.parametrize("name", sorted(BUILT))
def test_the_model_is_built(name, data_dir, no_search):
    config = base_config(name)
    validate_config(config)
    config = prepared(config, data_dir)
    dataset = data.load(config.data)
    assert config.eval.split in dataset.sizes
    assert training.build_model(config, dataset).trainable_weights
