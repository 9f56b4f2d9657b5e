"""Stacks of fits: each member is the fit that it would be alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

from skvae import VAETransformer
from skvae.model.latent import LatentModel
from skvae.model.members import members_of, stack, unstack
from skvae.training import loop
from skvae.training.fit import fit_model
from skvae.training.stack import Job, fit_together


def jobs(**params: list[float]) -> list[Job]:
    """Fits to iris that differ in these parameters, one value of each for a fit."""
    made = []
    for values in zip(*params.values(), strict=True):
        vae = VAETransformer(
            hidden_layer_sizes=(8,), random_state=0, n_iter_no_change=1, max_iter=40
        ).set_params(**dict(zip(params, values, strict=True)))
        training = vae._prepare(load_iris().data, None, go_on=False)
        made.append(Job(training.coded, training.settings, training.seed))
    return made


def alone(job: Job) -> LatentModel:
    return fit_model(job.table, job.settings, job.seed).model


@pytest.mark.parametrize("idle", [0.0, 2.0])
def test_members_stop_by_themselves(
    idle: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Members that have stopped leave the steps at once, or never.
    monkeypatch.setattr(loop, "_IDLE", idle)
    wanted = jobs(
        learning_rate_init=[0.0001, 0.003, 0.1],
        n_components=[1, 3, 2],
        start=["random"] * 3,
    )
    found = fit_together(wanted)
    epochs = {fit_model(j.table, j.settings, j.seed).history.n_epochs for j in wanted}
    assert len(epochs) > 1
    for job, outcome in zip(wanted, found, strict=True):
        assert outcome.model is not None
        torch.testing.assert_close(
            outcome.model.params.flat, alone(job).params.flat, rtol=1e-3, atol=1e-3
        )


def test_stack_answers_like_its_models() -> None:
    models = []
    for seed, k in enumerate([2, 1]):
        model = LatentModel.build(
            kinds=("gaussian",) * 3,
            variance_floor=np.full(3, 0.1 + seed),
            n_components=k,
            hidden=(4,),
            activation="tanh",
            n_free_scales=None,
        )
        model.start_random([seed], network_only=False)
        models.append(model)
    both = stack(models)
    x = torch.linspace(-1.0, 1.0, 15, dtype=torch.float64).view(1, 5, 3)
    unit = torch.ones(1, 1, 5, 2, dtype=torch.float64)
    for member, model in enumerate(models):
        k = model.n_components
        own = torch.zeros(2, 1, 5, 2, dtype=torch.float64)
        own[member, ..., :k] = unit[0, ..., :k]
        wide, expected = both(x.expand(2, -1, -1), own), model(x, unit[..., :k])
        for name in ("log_px", "log_weight"):
            torch.testing.assert_close(
                getattr(wide, name)[member], getattr(expected, name)[0]
            )
        torch.testing.assert_close(wide.kl[member, :, :k], expected.kl[0])
        assert not wide.kl[member, :, k:].any()
        back = unstack(both, slice(member, member + 1), model)
        assert torch.equal(back.params.flat, model.params.flat)
    second = members_of(both, [1])
    torch.testing.assert_close(
        second(x, own[1:]).log_px[0], both(x.expand(2, -1, -1), own).log_px[1]
    )


def test_a_diverging_member_leaves_the_others_alone() -> None:
    wanted = jobs(learning_rate_init=[0.003, 1e30], max_grad_norm=[None, None])
    sound, broken = fit_together(wanted)
    assert broken.model is None
    assert sound.model is not None
    torch.testing.assert_close(
        sound.model.params.flat, alone(wanted[0]).params.flat, rtol=1e-3, atol=1e-3
    )


def test_cut_is_told_how_each_job_stands() -> None:
    wanted = jobs(beta=[0.5, 1.0, 4.0], start=["random"] * 3)
    told: list[list[float | None]] = []

    def cut(standing: list[float | None]) -> list[bool]:
        told.append(standing)
        return [True, True, False]

    found = fit_together(wanted, rungs=(0.25, 0.5), cut=cut)
    assert len(told) == 2
    # At beta = 1, whatever weight a member trains with; a stopped member stays.
    assert told[0][2] == told[1][2]
    for job, outcome in list(zip(wanted, found, strict=True))[:2]:
        assert outcome.model is not None
        torch.testing.assert_close(
            outcome.model.params.flat, alone(job).params.flat, rtol=1e-3, atol=1e-3
        )


def test_jobs_may_be_ensembles() -> None:
    job = jobs(beta=[1.0])[0]
    many = replace(job, settings=replace(job.settings, n_members=3))
    outcome = fit_together([many, job])[0]
    assert outcome.model is not None
    torch.testing.assert_close(
        outcome.model.params.flat, alone(many).params.flat, rtol=1e-3, atol=1e-3
    )
