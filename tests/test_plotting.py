"""The displays draw the numbers that the estimators give, and say what they are."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError

from skvae import (
    VAEAnomalyDetector,
    VAEImputer,
    VAESearchCV,
    VAETransformer,
    plotting,
)
from skvae.plotting import (
    ContributionDisplay,
    LatentDisplay,
    LossDisplay,
    ScoreDisplay,
    VerdictDisplay,
)

rng = np.random.default_rng(0)
CODES = rng.normal(size=(120, 2)) * [3.0, 1.0]
TABLE = pd.DataFrame(
    CODES @ rng.normal(size=(2, 6)) + 0.3 * rng.normal(size=(120, 6)),
    columns=list("abcdef"),
)
TABLE.iloc[7] *= 40.0
LABELS = np.where(np.arange(120) == 7, "odd", "usual")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def detector() -> VAEAnomalyDetector:
    return VAEAnomalyDetector(max_iter=4, random_state=0).fit(TABLE)


@pytest.fixture(scope="module")
def transformer() -> VAETransformer:
    return VAETransformer(3, max_iter=4, random_state=0).fit(TABLE)


def drawn(display: Any) -> Axes:
    """The axes of a display, once everything on it is laid out."""
    assert isinstance(display.figure_, Figure)
    assert display.ax_.figure is display.figure_
    display.figure_.canvas.draw()
    return display.ax_


def points(ax: Axes) -> list[PathCollection]:
    return [each for each in ax.collections if isinstance(each, PathCollection)]


def offsets(points: PathCollection) -> np.ndarray:
    return np.asarray(points.get_offsets())


every_display = pytest.mark.parametrize(
    "draw",
    [
        lambda estimator, **more: LatentDisplay.from_estimator(
            estimator, TABLE, **more
        ),
        lambda estimator, **more: ScoreDisplay.from_estimator(estimator, TABLE, **more),
        lambda estimator, **more: ContributionDisplay.from_estimator(
            estimator, TABLE, **more
        ),
        lambda estimator, **more: LossDisplay.from_estimator(estimator, **more),
    ],
    ids=["codes", "scores", "contributions", "losses"],
)


@every_display
def test_axes_are_named(draw: Any, detector: VAEAnomalyDetector) -> None:
    ax = drawn(draw(detector))
    assert "nats" in ax.get_xlabel() + ax.get_ylabel()
    assert ax.get_xlabel()


@every_display
def test_given_axes_are_used_and_no_figure_is_made(
    draw: Any, transformer: VAETransformer
) -> None:
    ax = Figure().subplots()
    assert draw(transformer, ax=ax).ax_ is ax
    assert not plt.get_fignums()


@every_display
def test_plot_draws_again(draw: Any, transformer: VAETransformer) -> None:
    display = draw(transformer)
    first = display.ax_
    assert display.plot() is display
    assert display.ax_ is not first
    assert display.ax_.get_xlabel() == first.get_xlabel()


@every_display
def test_unfitted_estimator_is_refused(draw: Any) -> None:
    with pytest.raises(NotFittedError):
        draw(VAETransformer())


@every_display
def test_what_is_none_of_ours_is_refused(draw: Any) -> None:
    search = VAESearchCV(VAETransformer(max_iter=1), {"n_components": [1]}, cv=2)
    for other in (PCA().fit(TABLE), search.fit(TABLE)):
        with pytest.raises(TypeError, match=f"draws a .*got {type(other).__name__}"):
            draw(other)


def test_displays_tell_which_estimators_they_draw(
    transformer: VAETransformer,
) -> None:
    imputer = VAEImputer(max_iter=1, random_state=0).fit(TABLE)
    with pytest.raises(TypeError, match="VAETransformer or VAEAnomalyDetector, got"):
        LatentDisplay.from_estimator(imputer, TABLE)
    for other in (imputer, transformer):
        with pytest.raises(TypeError, match="draws a fitted VAEAnomalyDetector, got"):
            VerdictDisplay.from_estimator(other, TABLE)
    scores = ScoreDisplay.from_estimator(imputer, TABLE).scores
    assert_allclose(scores, imputer.score_samples(TABLE))


@every_display
def test_nothing_reaches_over_the_edge_of_the_figure(
    draw: Any, detector: VAEAnomalyDetector
) -> None:
    display = draw(detector)
    ax = drawn(display)
    inside = display.figure_.bbox.padded(1.0)
    box = ax.get_tightbbox()
    assert box is not None
    assert inside.x0 <= box.x0
    assert inside.y0 <= box.y0
    assert box.x1 <= inside.x1
    assert box.y1 <= inside.y1


def test_import_leaves_matplotlib_out() -> None:
    files = Path(plotting.__file__).parent.glob("*.py")
    bodies = [ast.parse(file.read_text("utf-8")).body for file in files]
    at_import = [n for body in bodies for n in body if not isinstance(n, ast.If)]
    names = [
        alias.name
        for node in at_import
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in [*node.names, ast.alias(getattr(node, "module", "") or "")]
    ]
    assert "numpy" in names
    assert not any(name.startswith("matplotlib") for name in names)


def test_missing_matplotlib_is_told(
    transformer: VAETransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install skvae\[plot\]"):
        LossDisplay.from_estimator(transformer)


# Codes


def test_components_are_those_of_most_kl(transformer: VAETransformer) -> None:
    ax = drawn(LatentDisplay.from_estimator(transformer, TABLE))
    first, second = np.argsort(transformer.kl_per_component_)[::-1][:2]
    assert ax.get_xlabel().startswith(f"component {first} ")
    assert ax.get_ylabel().startswith(f"component {second} ")
    codes = transformer.transform(TABLE)[:, [first, second]]
    shown = offsets(points(ax)[0])
    assert_allclose(shown[np.argsort(shown[:, 0])], codes[np.argsort(codes[:, 0])])


def test_colours_are_scores_with_the_lowest_on_top(
    detector: VAEAnomalyDetector,
) -> None:
    display = LatentDisplay.from_estimator(detector, TABLE)
    shown = points(drawn(display))[0]
    scores = detector.score_samples(TABLE)
    assert_allclose(shown.get_array(), np.sort(scores)[::-1])
    assert display.figure_.axes[1].get_ylabel() == "log-probability at the code, nats"
    # One row far below the others leaves them the scale of colours.
    assert scores[7] == scores.min() < shown.norm.vmin < np.quantile(scores, 0.25)


def test_given_scores_are_the_colours(transformer: VAETransformer) -> None:
    display = LatentDisplay.from_estimator(transformer, TABLE, scores=TABLE["a"])
    assert_array_equal(points(drawn(display))[0].get_array(), sorted(TABLE["a"])[::-1])


def test_labels_have_a_colour_and_a_name_each(transformer: VAETransformer) -> None:
    ax = drawn(LatentDisplay.from_estimator(transformer, TABLE, y=LABELS))
    odd, usual = points(ax)
    assert (len(offsets(odd)), len(offsets(usual))) == (1, 119)
    assert odd.get_zorder() > usual.get_zorder()
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["odd", "usual"]


def test_one_component_is_drawn_against_the_score() -> None:
    vae = VAETransformer(1, hidden_layer_sizes=(), noise="column").fit(TABLE)
    ax = drawn(LatentDisplay.from_estimator(vae, TABLE, y=LABELS))
    expected = np.column_stack([vae.transform(TABLE), vae.score_samples(TABLE)])
    assert_allclose(offsets(points(ax)[0]), expected[[7]])
    assert ax.get_ylabel() == "log p(x), nats"


def test_labels_and_scores_exclude_each_other(transformer: VAETransformer) -> None:
    with pytest.raises(ValueError, match="got both"):
        LatentDisplay.from_estimator(transformer, TABLE, y=LABELS, scores=TABLE["a"])


def test_labels_are_one_a_row(transformer: VAETransformer) -> None:
    with pytest.raises(ValueError, match=r"label must hold .* \(120,\)"):
        LatentDisplay.from_estimator(transformer, TABLE, y=LABELS[:5])


# Scores


def test_histogram_counts_every_row(detector: VAEAnomalyDetector) -> None:
    ax = drawn(ScoreDisplay.from_estimator(detector, TABLE, bins=13, histtype="bar"))
    heights = [bar.get_height() for bar in ax.patches]
    assert (len(heights), sum(heights)) == (13, 120)


def test_threshold_is_drawn_where_it_is(detector: VAEAnomalyDetector) -> None:
    ax = drawn(ScoreDisplay.from_estimator(detector, TABLE))
    (line,) = ax.lines
    assert_allclose(line.get_xdata(), detector.offset_)
    below = int((detector.predict(TABLE) == -1).sum())
    assert f"({below} rows below)" in str(line.get_label())


def test_far_row_is_told_and_leaves_room_for_the_others(
    detector: VAEAnomalyDetector,
) -> None:
    scores = detector.score_samples(TABLE)
    ax = drawn(ScoreDisplay.from_estimator(detector, TABLE))
    assert ax.get_xlim()[0] > scores.min()
    assert f"down to {scores.min():.4g}" in ax.get_xlabel()
    assert ax.get_xlim()[0] < detector.offset_


def test_transformer_has_no_threshold(transformer: VAETransformer) -> None:
    ax = drawn(ScoreDisplay.from_estimator(transformer, TABLE, LABELS))
    assert not ax.lines
    assert ax.get_xlabel().startswith("log p(x), nats")


@pytest.mark.parametrize("score", ["log_likelihood", "reconstruction"])
def test_axis_tells_which_score_it_is(score: str) -> None:
    detector = VAEAnomalyDetector(anomaly_score=score, max_iter=2, random_state=0)
    ax = drawn(ScoreDisplay.from_estimator(detector.fit(TABLE), TABLE))
    assert ("nats" in ax.get_xlabel()) == (score == "log_likelihood")


def test_equal_scores_are_one_bar() -> None:
    ax = drawn(ScoreDisplay(np.full(5, 2.0), offset=1.0).plot(histtype="bar"))
    assert sum(bar.get_height() for bar in ax.patches) == 5


# Contributions


def test_bars_are_the_contributions_the_longest_first(
    detector: VAEAnomalyDetector,
) -> None:
    ax = drawn(ContributionDisplay.from_estimator(detector, TABLE, row=3))
    parts = detector.explain(TABLE).to_numpy()[3]
    order = np.argsort(-np.abs(parts))
    assert_allclose([bar.get_width() for bar in ax.patches], parts[order])
    named = [label.get_text() for label in ax.get_yticklabels()]
    assert named == [f"{'abcdef'[j]} = {TABLE.iloc[3, j]:.4g}" for j in order]
    assert ax.get_title().startswith("row 3, score")
    assert f"{detector.base_score_:.4g}" in ax.get_xlabel()


def test_row_left_open_is_the_least_likely(detector: VAEAnomalyDetector) -> None:
    assert ContributionDisplay.from_estimator(detector, TABLE).rows == [7]


def test_columns_beyond_the_most_share_a_bar(detector: VAEAnomalyDetector) -> None:
    display = ContributionDisplay.from_estimator(
        detector, TABLE, row=[0, 5], max_columns=2
    )
    ax = drawn(display)
    widths = np.reshape([bar.get_width() for bar in ax.patches], (2, 3))
    scores = detector.score_samples(TABLE)[[0, 5]]
    assert_allclose(widths.sum(axis=1), scores - detector.base_score_)
    assert ax.get_yticklabels()[-1].get_text() == "4 other columns"


def test_cells_stand_where_their_intervals_say(detector: VAEAnomalyDetector) -> None:
    display = VerdictDisplay.from_estimator(detector, TABLE, row=7, max_columns=4)
    ax = drawn(display)
    told = detector.explain(TABLE.iloc[[7]], expected=True)
    own = np.argsort(told.contributions.to_numpy()[0])[:4]
    assert [label.split(" = ")[0] for label in display.labels] == list(
        TABLE.columns[own]
    )
    low, expected, high = (
        part.to_numpy()[0, own] for part in (told.low, told.expected, told.high)
    )
    exact = (TABLE.to_numpy()[7, own] - expected) / ((high - low) / 2)
    assert_allclose(offsets(points(ax)[0])[:, 0], np.clip(exact, -8, 8))
    assert "row 7" in ax.get_title()
    with pytest.raises(ValueError, match="120 rows"):
        VerdictDisplay.from_estimator(detector, TABLE, row=120)


@pytest.mark.parametrize("row", [120, [0, -121]])
def test_row_outside_is_refused(row: Any, detector: VAEAnomalyDetector) -> None:
    with pytest.raises(ValueError, match="120 rows"):
        ContributionDisplay.from_estimator(detector, TABLE, row=row)


def test_columns_without_names_are_numbered() -> None:
    vae = VAETransformer(hidden_layer_sizes=(), noise="column").fit(TABLE.to_numpy())
    display = ContributionDisplay.from_estimator(vae, TABLE.to_numpy())
    assert display.names == [f"column {j}" for j in range(6)]


# Losses


def test_curves_are_the_estimators(transformer: VAETransformer) -> None:
    ax = drawn(LossDisplay.from_estimator(transformer))
    training, held_out, best = ax.lines
    assert_allclose(training.get_ydata(), transformer.loss_curve_)
    looks = -np.array(transformer.validation_scores_)
    assert_allclose(held_out.get_ydata(), looks)
    assert_allclose(best.get_ydata(), looks.min())
    assert_allclose(np.asarray(held_out.get_xdata())[[0, -1]], [0, transformer.n_iter_])


def test_without_held_out_rows_there_is_one_curve() -> None:
    vae = VAETransformer(early_stopping=False, max_iter=2, random_state=0).fit(TABLE)
    assert len(drawn(LossDisplay.from_estimator(vae)).lines) == 1


def test_closed_form_has_no_curve() -> None:
    vae = VAETransformer(hidden_layer_sizes=(), noise="column").fit(TABLE)
    with pytest.raises(ValueError, match="closed form"):
        LossDisplay.from_estimator(vae)
