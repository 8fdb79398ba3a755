"""The list of packages; everything else is in pyproject.toml.

`rlagents/envs` and `rlagents/algos` are links to `../envs` and `../algos`, and automatic discovery
does not follow links, so the packages are found below each root and listed here by name.
"""

from setuptools import find_packages, setup

ROOTS = {"rlagents": "rlagents", "envs": "rlagents.envs", "algos": "rlagents.algos"}

packages = [
    name
    for folder, root in ROOTS.items()
    for name in [root, *(f"{root}.{inner}" for inner in find_packages(folder))]
]

data = ["py.typed", "presets/*.yaml", "scoring/prompts/*.txt", "scoring/rubrics/*.yaml"]
setup(packages=sorted(set(packages)), package_data={"rlagents": data})
