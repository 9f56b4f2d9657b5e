"""The README keeps its word: its Python blocks run, what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import skvae
from skvae import plotting
from skvae.__main__ import main

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of a language."""
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert found
    return found


def test_python_blocks_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    exec("\n".join(blocks("python")), names)
    # What its comments say.
    assert getattr(names["codes"], "shape", None) == (178, 3)
    assert getattr(names["reasons"], "shape", None) == (178, 13)
    assert isinstance(names["new"], type(names["X"]))


def test_methods_of_the_table_exist() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", README, re.MULTILINE)
    methods = [name for row in rows[1:] for name in re.findall(r"`([\w.]+)`", row[1])]
    assert len(methods) > 10
    for method in methods:
        if method.startswith("skvae."):
            assert hasattr(skvae, method.removeprefix("skvae.")) or (
                method == plotting.__name__
            )
        else:
            assert callable(getattr(skvae.VAEAnomalyDetector, method))
    for display in re.findall(r"`(\w+Display)`", README):
        assert hasattr(plotting, display)


def test_commands_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"-m skvae (\w+)", "\n".join(blocks("bash")))
    assert set(commands) == {"demo", "detect"}
    for command in commands:
        with pytest.raises(SystemExit, match=r"^0$"):
            main([command, "--help"])
    assert "--output" in capsys.readouterr().out


def test_demo_excerpt_is_laid_out_as_the_demo() -> None:
    methods = re.findall(r"^     (\w[^\d]+?)  +[\d.]+  ", "".join(blocks("text")), re.M)
    assert methods.count("VAEAnomalyDetector") == methods.count("IsolationForest") == 2
    assert methods.count("VAETransformer") == 1
