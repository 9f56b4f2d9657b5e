"""The README keeps its word: its Python blocks run, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.skipif(not BLOCKS, reason="README.md has no Python block")
def test_python_blocks_run_in_order() -> None:
    exec("\n".join(BLOCKS), {"__name__": "readme"})
