"""A method that brings a parameter is one entry of METHODS: it trains, tunes, pairs and prints like the others."""

import pytest
import torch
import torch.nn.functional as F
from running import call, in_this_process, refused, run_of, runs, succeed

from labelreg import methods
from labelreg.methods import METHODS, Method, own, plain

pytest_plugins = ["running"]


def confidence_penalty(logits, labels, teacher, epoch, beta):
    """CE - beta H(p), Pereyra et al. 2017: the worked example of CONTRIBUTING.md."""
    log_p = F.log_softmax(logits.float(), dim=1)
    entropy = -(log_p.exp() * log_p).sum(dim=1).mean()
    return plain(logits, labels, None, epoch) - beta * entropy


@pytest.fixture
def cp(monkeypatch):
    beta = own("number", "cp: weight of the entropy that is rewarded", 0.1, low=0)
    monkeypatch.setitem(METHODS, "cp", Method("confidence penalty", confidence_penalty, {"beta": beta}))
    monkeypatch.setattr("labelreg.workers.executors.execute", in_this_process)


def test_it_trains_with_its_default_and_with_what_is_given(tiny, cp):
    usual, given = (run_of(succeed("train_student", **tiny, method="cp", **more)) for more in ({}, {"beta": 0.3}))
    assert (usual.data.params["beta"], given.data.params["beta"]) == ("0.1", "0.3")
    assert usual.data.tags["labelreg.fingerprint"] != given.data.tags["labelreg.fingerprint"]
    assert "alpha" not in usual.data.params


def test_without_its_weight_it_is_finetune_bit_for_bit(tiny, cp):
    plain_run, cp_run = (run_of(succeed("train_student", **tiny, **more)) for more in ({}, {"method": "cp", "beta": 0}))
    assert plain_run.data.metrics["train/loss"] == cp_run.data.metrics["train/loss"]


def test_another_method_ignores_it_and_a_bad_value_is_refused(tiny, cp):
    assert "beta is ignored: method ls has none" in succeed("train_student", **tiny, method="ls", beta=0.2).out
    refused(call("train_student", **tiny, method="cp", beta=-1), "beta=-1: allowed is a number of at least 0")


def test_a_recipe_sets_it_and_a_search_draws_it(tiny, cp, tmp_path):
    recipe, space = tmp_path / "cp.yaml", tmp_path / "space.yaml"
    recipe.write_text("kind: settings\nextends: default\nrules:\n- {when: {method: cp}, set: {beta: 0.4}}\n")
    assert run_of(succeed("train_student", **tiny, method="cp", recipe=recipe)).data.params["beta"] == "0.4"
    space.write_text("kind: search\ntrials: 2\nepochs: 1\nspace:\n  beta: [0.05, 0.2]\n")
    said = succeed("tune", **tiny, method="cp", space=space).out
    assert "cp: 2 trials in beta {0.05, 0.2}" in said
    assert {run.data.params["beta"] for run in runs("trial")} <= {"0.05", "0.2"}


def test_a_study_pairs_it_and_the_answer_prints_it(tiny, cp, tmp_path):
    for seed in (1, 2):
        succeed("train_student", **tiny, seed=seed)
        for beta in (0.1, 0.5):
            succeed("train_student", **tiny, method="cp", beta=beta, seed=seed)
    said = succeed("significance", output_dir=tmp_path / "out").out
    assert "beta 0.1" in said and "beta 0.5" in said, "two settings of one method are two rows"
    page = tmp_path / "page"
    succeed("report", output_dir=page)
    assert "-P beta=0.5" in (page / "report.html").read_text(), "how to run it again"


def test_its_gradient_is_the_formulas():
    logits = torch.randn(4, 3, dtype=torch.float32, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0])
    confidence_penalty(logits, labels, None, 1, beta=0.2).backward()
    p = torch.softmax(logits.detach().double(), 1)
    entropy = -(p * p.log()).sum(1, keepdim=True)
    expected = (p - F.one_hot(labels, 3)) / 4 + 0.2 * p * (p.log() + entropy) / 4
    torch.testing.assert_close(logits.grad.double(), expected, atol=1e-6, rtol=1e-4)
    assert methods.own_parameters().keys() >= {"alpha", "tau"}
