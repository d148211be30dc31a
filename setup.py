"""What pyproject.toml cannot say: a folder beside the packages that is installed as one of them."""

from setuptools import find_namespace_packages, setup

PACKAGES = find_namespace_packages(include=["heterolora*", "hydra_plugins"])

setup(packages=[*PACKAGES, "heterolora.conf"], package_dir={"heterolora.conf": "conf"})
