"""Settings that pyproject.toml cannot express: the top-level configs are installed inside the package."""

import setuptools

CONFIGS = "tf_resflow.experiments.configs"

setuptools.setup(
    packages=[*setuptools.find_packages(include=["tf_resflow", "tf_resflow.*"]), CONFIGS, f"{CONFIGS}.changes"],
    package_dir={CONFIGS: "configs"},
)
