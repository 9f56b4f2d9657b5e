"""Print pip constraints that hold the package to its lowest supported versions.

Every ``name>=version`` of pyproject.toml becomes ``name==version``; whatever has no
lower bound keeps its line of constraints.txt. torch stays at its pin too: its old
wheels bring gigabytes of GPU libraries, too much to fetch for each run.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def lowest_versions() -> dict[str, str]:
    """Lower bounds of all dependencies, optional ones included, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    bounds = (re.match(r"([\w.-]+)>=([\d.]+)", line) for each in lists for line in each)
    return {found[1]: found[2] for found in bounds if found and found[1] != "torch"}


def main() -> None:
    """Print the lower bounds, then the pins that they leave standing."""
    lowest = lowest_versions()
    for name, version in sorted(lowest.items()):
        print(f"{name}=={version}")
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        name = line.split("==")[0]
        # The compiled half of polars comes at the version of polars.
        if "==" in line and name not in lowest and name != "polars-runtime-32":
            print(line)


if __name__ == "__main__":
    main()
