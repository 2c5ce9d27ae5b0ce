"""A method that brings a parameter is one entry of METHODS: it trains, tunes, pairs and prints like the others."""

import pytest
import torch
import torch.nn.functional as F
from running import call, in_this_process, refused, run_of, runs, succeed

from labelreg import methods
from labelreg.methods import METHODS, Method
from labelreg.methods.method import own
from labelreg.methods.paper import plain

pytest_plugins = ["running"]


def poly_1(logits, labels, teacher, epoch, epsilon):
    """CE + epsilon (1 - p_y), Leng et al. 2022: the worked example of CONTRIBUTING.md."""
    p = F.softmax(logits.float(), dim=1).gather(1, labels[:, None])
    return plain(logits, labels, None, epoch) + epsilon * (1 - p).mean()


@pytest.fixture
def poly(monkeypatch):
    epsilon = own("number", "poly: weight of 1 - p_y", 0.1, low=0)
    monkeypatch.setitem(METHODS, "poly", Method("Poly-1", poly_1, {"epsilon": epsilon}))
    monkeypatch.setattr("labelreg.workers.executors.execute", in_this_process)


def test_it_trains_with_its_default_and_with_what_is_given(tiny, poly):
    usual, given = (run_of(succeed("train_student", **tiny, method="poly", **more)) for more in ({}, {"epsilon": 0.3}))
    assert (usual.data.params["epsilon"], given.data.params["epsilon"]) == ("0.1", "0.3")
    assert usual.data.tags["labelreg.fingerprint"] != given.data.tags["labelreg.fingerprint"]
    assert "alpha" not in usual.data.params


def test_without_its_weight_it_is_finetune_bit_for_bit(tiny, poly):
    plain_run, cp_run = (
        run_of(succeed("train_student", **tiny, **more)) for more in ({}, {"method": "poly", "epsilon": 0})
    )
    assert plain_run.data.metrics["train/loss"] == cp_run.data.metrics["train/loss"]


def test_another_method_ignores_it_and_a_bad_value_is_refused(tiny, poly):
    assert "epsilon is ignored: method ls has none" in succeed("train_student", **tiny, method="ls", epsilon=0.2).out
    refused(call("train_student", **tiny, method="poly", epsilon=-1), "epsilon=-1: allowed is a number of at least 0")


def test_a_recipe_sets_it_and_a_search_draws_it(tiny, poly, tmp_path):
    recipe, space = tmp_path / "poly.yaml", tmp_path / "space.yaml"
    recipe.write_text("kind: settings\nextends: default\nrules:\n- {when: {method: poly}, set: {epsilon: 0.4}}\n")
    assert run_of(succeed("train_student", **tiny, method="poly", recipe=recipe)).data.params["epsilon"] == "0.4"
    space.write_text("kind: search\ntrials: 2\nepochs: 1\nspace:\n  epsilon: [0.05, 0.2]\n")
    said = succeed("tune", **tiny, method="poly", space=space).out
    assert "poly: 2 trials in epsilon {0.05, 0.2}" in said
    assert {run.data.params["epsilon"] for run in runs("trial")} <= {"0.05", "0.2"}


def test_a_study_pairs_it_and_the_answer_prints_it(tiny, poly, tmp_path):
    for seed in (1, 2):
        succeed("train_student", **tiny, seed=seed)
        for epsilon in (0.1, 0.5):
            succeed("train_student", **tiny, method="poly", epsilon=epsilon, seed=seed)
    said = succeed("significance", output_dir=tmp_path / "out").out
    assert "epsilon 0.1" in said and "epsilon 0.5" in said, "two settings of one method are two rows"
    page = tmp_path / "page"
    succeed("report", output_dir=page)
    assert "-P epsilon=0.5" in (page / "report.html").read_text(), "how to run it again"


def test_its_gradient_is_the_formulas():
    logits = torch.randn(4, 3, dtype=torch.float32, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0])
    poly_1(logits, labels, None, 1, epsilon=0.2).backward()
    p = torch.softmax(logits.detach().double(), 1)
    true = p.gather(1, labels[:, None])
    expected = (1 + 0.2 * true) * (p - F.one_hot(labels, 3)) / 4
    torch.testing.assert_close(logits.grad.double(), expected, atol=1e-6, rtol=1e-4)
    assert methods.own_parameters().keys() >= {"alpha", "tau"}
