"""The commands, as someone with a CSV file and a terminal meets them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.datasets import load_breast_cancer, load_digits, load_wine

from skvae import VAEAnomalyDetector, _demo
from skvae.__main__ import main
from skvae._report import drawable, reasons

WINE = load_wine(as_frame=True).data[["alcohol", "hue", "proline", "flavanoids"]]
SCORES = ["score", "p_value", "outlier", "reason"]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def wine(tmp_path: Path) -> Path:
    path = tmp_path / "wine.csv"
    WINE.to_csv(path, index=False)
    return path


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding)
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command complains of, after seeing that it is a complaint."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as left:  # argparse's own way
        status = int(str(left.code))
    told = capsys.readouterr()
    assert status == 2
    assert "Traceback" not in told.err
    return told.err


def answered(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """The lines of a command that succeeds."""
    assert main([str(argument) for argument in arguments]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    lines = told.out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    return lines


# detect


def test_worst_rows_are_the_detectors(
    wine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = answered(capsys, "detect", wine, "--top", 4)
    scores = VAEAnomalyDetector(random_state=0).fit(WINE).score_samples(WINE)
    start = next(i for i, line in enumerate(lines) if line.split()[:1] == ["line"])
    shown = [line.split() for line in lines[start + 1 : start + 5]]
    expected = np.argsort(scores)[:4]
    # The header is line 1.
    assert [int(row[0]) for row in shown] == (expected + 2).tolist()
    told = [float(row[1]) for row in shown]
    assert_allclose(told, scores[expected], atol=0.051)
    assert all(row[3] in WINE.columns for row in shown)


def test_scored_table_is_the_table_and_its_scores(
    wine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "scored.csv"
    answered(capsys, "detect", wine, "--output", output, "--contamination", 0.1)
    scored = pd.read_csv(output)
    pd.testing.assert_frame_equal(scored[WINE.columns], WINE)
    assert scored.columns[-4:].tolist() == SCORES
    detector = VAEAnomalyDetector(contamination=0.1, random_state=0).fit(WINE)
    assert_allclose(scored["score"], detector.score_samples(WINE), rtol=1e-5)
    assert_allclose(scored["p_value"], detector.p_values(WINE), rtol=1e-5)
    assert (scored["outlier"] == (detector.predict(WINE) == -1)).all()
    parts = np.asarray(detector.explain(WINE))
    for row in np.flatnonzero(scored["outlier"]):
        worst = WINE.columns[parts[row].argmin()]
        assert scored["reason"][row].startswith(f"{worst} = {WINE[worst][row]:.6g} (")


def test_only_the_files_asked_for_are_written(
    wine: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    answered(capsys, "detect", wine.name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wine.csv"]
    answered(capsys, "detect", wine.name, "--output", "a.csv", "--plot", "b.png")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.csv", "b.png", "wine.csv"]
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_same_seed_same_answer(wine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rows(seed: int) -> list[str]:
        lines = answered(capsys, "detect", wine, "--random-state", seed)
        return lines[lines.index("") :]  # what is above tells the time

    assert rows(1) == rows(1) != rows(2)


def test_semicolons_and_decimal_commas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "wein.csv", tmp_path / "scored.csv"
    WINE.to_csv(path, index=False, sep=";", decimal=",")
    lines = answered(capsys, "detect", path, "--output", output)
    assert any("decimal comma" in line for line in lines)
    scored = pd.read_csv(output, sep=";", decimal=",")
    pd.testing.assert_frame_equal(scored[WINE.columns], WINE)
    detector = VAEAnomalyDetector(random_state=0).fit(WINE)
    assert_allclose(scored["score"], detector.score_samples(WINE), rtol=1e-5)


def test_text_and_holes_take_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    region = np.where(WINE["alcohol"] > 13, "Barolo, old", "Asti")
    owner = [f"owner {i}" for i in range(len(WINE))]
    table = WINE.assign(region=region, owner=owner, blank=None, sweet=WINE["hue"] > 1)
    table.loc[[3, 50], "proline"] = np.nan
    table.loc[3, ["hue", "region"]] = np.nan
    path, output = tmp_path / "table.csv", tmp_path / "scored.csv"
    table.to_csv(path, index=False)
    told = "\n".join(answered(capsys, "detect", path, "--output", output))
    assert "178 rows, 6 columns" in told
    assert "left out (empty): blank" in told
    assert "left out (another text in each row): owner" in told
    scored = pd.read_csv(output)
    pd.testing.assert_frame_equal(scored[table.columns[:6]], table.iloc[:, :6])
    learnt = table.drop(columns=["owner", "blank"]).astype({"sweet": float})
    detector = VAEAnomalyDetector(random_state=0).fit(learnt)
    assert detector.likelihood_[4:] == ("categorical", "bernoulli")
    assert_allclose(scored["score"], detector.score_samples(learnt), rtol=1e-5)
    parts = np.asarray(detector.explain(learnt))
    assert scored["reason"].isna().sum() == (parts >= 0).all(axis=1).sum()
    assert scored["reason"].str.contains("region = Asti").any()


def test_dates_are_dates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    day = pd.Series(pd.date_range("2024-01-01", periods=len(WINE), freq="D"))
    table = WINE.assign(bottled=day, tasted=day + pd.Timedelta("90min"))
    table.loc[7, "bottled"] = pd.Timestamp("1924-01-08")
    table.loc[3, ["bottled", "tasted"]] = pd.NaT
    path, output = tmp_path / "table.csv", tmp_path / "scored.csv"
    table.to_csv(path, index=False)
    told = "\n".join(answered(capsys, "detect", path, "--output", output))
    assert "178 rows, 6 columns" in told
    assert "bottled = 1924-01-08 (" in told
    scored = pd.read_csv(output, parse_dates=["bottled", "tasted"])
    pd.testing.assert_frame_equal(scored[table.columns], table, check_dtype=False)
    detector = VAEAnomalyDetector(random_state=0).fit(table)
    assert_allclose(scored["score"], detector.score_samples(table), rtol=1e-5)


def test_ignored_column_takes_no_part(
    wine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = answered(capsys, "detect", wine, "--ignore", "hue", "--ignore", "proline")
    assert lines[0].endswith("178 rows, 2 columns")
    assert not any("hue =" in line for line in lines)


def test_columns_of_the_users_are_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "table.csv", tmp_path / "scored.csv"
    WINE.assign(score=7.0).to_csv(path, index=False)
    answered(capsys, "detect", path, "--output", output)
    scored = pd.read_csv(output)
    assert scored["score"].eq(7.0).all()
    assert scored.columns[-4:].tolist() == [f"skvae_{name}" for name in SCORES]


def test_warnings_name_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table.csv"
    WINE.assign(copy=WINE["hue"]).to_csv(path, index=False)
    notes = [line for line in answered(capsys, "detect", path) if "note" in line]
    assert any("'copy'" in line for line in notes)
    assert not any("column 4" in line for line in notes)


def test_more_outliers_than_shown_are_counted(
    wine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = answered(capsys, "detect", wine, "--top", 2, "--contamination", 0.1)
    # A tenth of 178 rows, and two of them are shown.
    assert lines[-1].strip() == "...  more outliers: 16"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("a,b\n", "has a header, but no rows"),
        ("a,b\nx,y\nu,v\n", "no column to learn from. Left out: another text"),
        ("a,b\n,NA\n?,null\n", "no column to learn from. Left out: empty: a, b"),
        ("a,b\n1,2\n3,4\n", "has 2 rows, but 10 are needed"),
        ("a,b\n1,2\n3\n", "line 3: 1 cells, but the first line has 2"),
        ("a,b\n1,2\n3,x\n5,6\n7,8\n", "line 3, column 'b': 'x' is not a number"),
        ("a,b\n1,2\n3,inf\n5,6\n7,8\n", "line 3, column 'b': 'inf' is not"),
        (
            "a\n2024-01-01\nyesterday\n2024-01-02\n2024-02-30\n2024-01-03\n",
            "line 3, column 'a': 'yesterday' is not a date (2 such in this column, 3",
        ),
        (
            "a\n2024-01-01\n2024-01-02\n5\n2024-01-03\nsoon\n",
            "line 4, column 'a': '5' is not a date (2 such in this column, 3 dates)",
        ),
        ("a,b\n1,2\n\n3,1_0\n5,6\n7,8\n", "line 4, column 'b': '1_0' is not"),
        ("a,b\n" + 12 * "1,2\n", "all 2 are constant"),
    ],
)
def test_unusable_table_is_refused(
    text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, text)
    told = refused(capsys, "detect", path)
    assert told.startswith(f"skvae detect: {path}")
    assert complaint in told


def test_other_encodings_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "größe,b\n1,2\n", "latin-1")
    assert "UTF-8" in refused(capsys, "detect", path)


def test_bad_arguments_are_refused(
    wine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: object) -> str:
        return refused(capsys, "detect", *arguments)

    assert "wnie.csv: No such file" in told(tmp_path / "wnie.csv")
    assert "directory" in told(tmp_path)
    assert "'alcool'" in told(wine, "--ignore", "alcool")
    assert "another file" in told(wine, "--output", wine)
    assert "no folder" in told(wine, "--output", tmp_path / "nowhere" / "x.csv")
    assert "is a folder" in told(wine, "--output", tmp_path)
    assert ".png" in told(wine, "--plot", tmp_path / "x.xyz")
    for share in ("0", "0.6", "nan", "many"):
        assert "at most 0.5" in told(wine, "--contamination", share)
    assert "whole number" in told(wine, "--top", "-1")
    assert "TABLE.csv" in told()
    assert "COMMAND" in refused(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["wine.csv"]


def test_plot_without_matplotlib_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install skvae[plot]" in str(drawable(Path("x.png")))


def test_help_and_version_do_without_torch() -> None:
    program = """
import sys
from skvae.__main__ import main
for arguments in (["--version"], ["--help"], ["detect", "--help"], ["demo", "--help"]):
    try:
        main(arguments)
    except SystemExit as left:
        assert left.code == 0
assert main(["detect", "nowhere.csv"]) == 2
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_reader_that_leaves_early_is_no_error(wine: Path) -> None:
    program = f"{sys.executable} -m skvae detect {wine} | head -n 1"
    answer = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program}"], capture_output=True, text=True
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.endswith("178 rows, 4 columns\n")


def test_reasons_are_the_columns_that_lower_the_score() -> None:
    names, values = ["a", "b", "c"], np.array([1.5, 2.0, 1234567.0])
    parts = np.array([-1.0, 3.0, -20.0])
    assert reasons(names, values, parts) == "c = 1.23457e+06 (-20.0), a = 1.5 (-1.0)"
    assert reasons(names, values, parts, most=1) == "c = 1.23457e+06 (-20.0)"
    assert reasons(names, values, parts, width=30) == "c = 1.23457e+06 (-20.0)"
    assert reasons(names, values, np.abs(parts)) == ""


# demo


def test_demo_tells_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_demo, "_DRAWS", 1)
    monkeypatch.setattr(_demo, "_DIGITS", range(2))
    picture = tmp_path / "demo.png"
    lines = answered(capsys, "demo", "--random-state", 3, "--plot", picture)
    told = "\n".join(lines)
    for method in ("VAEAnomalyDetector", "IsolationForest", "PCA"):
        areas = [float(line.split()[-4]) for line in lines if method in line][:2]
        assert all(0.5 < area <= 1.0 for area in areas)
    assert "VAETransformer" in told
    assert "malignant  " in told
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_demo_tasks_are_what_they_are_said_to_be() -> None:
    X, outlier = _demo.nuclei(0)
    data = load_breast_cancer()
    benign = data.data[data.target == 1]
    assert (len(X), outlier.sum()) == (377, 20)
    assert (X[~outlier] == benign).all()
    assert all(
        (data.data[data.target == 0] == row).all(axis=1).any() for row in X[outlier]
    )
    X, outlier = _demo.digit(4, 0)
    digits = load_digits()
    assert (X[~outlier] == digits.data[digits.target == 4]).all()
    assert outlier.sum() == 10
