"""What pyproject.toml does not say: the configs at the top level are installed inside the package."""

import setuptools

CONFIGS = "tf_resflow.experiments.configs"

setuptools.setup(
    packages=[*setuptools.find_packages(include=["tf_resflow", "tf_resflow.*"]), CONFIGS, f"{CONFIGS}.changes"],
    package_dir={CONFIGS: "configs"},
)
