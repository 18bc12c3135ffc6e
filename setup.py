"""Residual Flows for TensorFlow Probability."""

import pathlib

import setuptools

ROOT = pathlib.Path(__file__).parent
SERVING = ["tensorflow-serving-api>=2.20,<2.22"]
DOCS = ["mkdocs-material>=9.7", "mkdocstrings[python]>=1.0"]


def version() -> str:
    """Returns `__version__` of `tf_resflow/version.py`, read without importing TensorFlow."""
    names: dict[str, str] = {}
    exec((ROOT / "tf_resflow" / "version.py").read_text(encoding="utf-8"), names)
    return names["__version__"]


def readme() -> str:
    """Returns the long description, or nothing in a tree that has no README."""
    path = ROOT / "README.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


setuptools.setup(
    name="tf-resflow",
    version=version(),
    description="Residual Flows (Chen et al., 2019) for TensorFlow Probability",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["tf_resflow", "tf_resflow.*"]),
    package_data={"": ["*.pyi"]},
    python_requires=">=3.10,<3.14",
    install_requires=[
        "absl-py>=2.0",
        "einops>=0.7",
        "importlib_resources>=5.0",
        "keras>=3.12,<3.16",
        "lazy_loader>=0.6",  # 0.6 keeps a function apart from the module of its name
        "matplotlib>=3.7",
        "ml-collections>=1.0",
        "numpy>=1.26",
        "pillow>=10.1",
        "scikit-learn>=1.3",
        "scipy>=1.11",
        "tensorboard>=2.20",
        "tensorflow>=2.21,<2.22",
        "tensorflow-datasets>=4.9.10,<5",
        # The value cache of the bijectors is private to TFP: hence the narrow range.
        "tensorflow-probability>=0.25,<0.26",
        "tf-keras>=2.21,<2.22",
        "tqdm>=4.60",
    ],
    extras_require={
        "serving": SERVING,
        "torch": ["torch>=2.0"],
        "docs": DOCS,
        "dev": [*DOCS, *SERVING, "pytest>=8.0", "pytest-xdist>=3.5", "ruff>=0.9"],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
