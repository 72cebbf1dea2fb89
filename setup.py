"""The sample images, weights and results are beside the packages, and inside one of them once they
are installed; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["workbench*", "analyses*"]), "workbench.samples"],
    package_dir={"workbench.samples": "samples"},
)
