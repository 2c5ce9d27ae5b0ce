"""Temperatures that are known, measures as runs log them, and a method that only softens."""

import math

import numpy as np
import pandas as pd
import pytest
from predicted import logged, run, table
from scipy.optimize import minimize_scalar
from scipy.stats import mannwhitneyu, wilcoxon

from analysis import measures
from analysis.calibration import (
    COSTS,
    DIFFERENCES,
    MEASURES,
    METHODS,
    RELIABILITY,
    RUNS,
    TEMPERATURES,
    TESTED,
    _scaled,
    calibrate,
    costs,
    differences,
    measured,
    methods,
    scale,
    temperature,
)
from analysis.hypothesis import rank_sum
from analysis.pairing import pair
from analysis.predictions import LEFT_OUT
from analysis.present.wording import calibration_lines
from labelreg import metrics

pytestmark = pytest.mark.filterwarnings("error")
SEEDS = range(6)


def draw(rng, n, n_classes=3, spread=1.5):
    """Logits and labels that follow from them: softmax(logits) is calibrated."""
    logits = rng.normal(0, spread, (n, n_classes))
    p = metrics.softmax(logits)
    return logits, (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)


def predictions(logits, labels) -> pd.DataFrame:
    p = metrics.softmax(logits)
    columns = {f"p_{c}": p[:, c] for c in range(p.shape[1])}
    return pd.DataFrame({"idx": np.arange(len(labels)), "label": labels, **columns})


@pytest.mark.parametrize("n_classes", [2, 3, 20])
def test_measures_are_those_that_runs_log(n_classes):
    logits, labels = draw(np.random.default_rng(0), 203, n_classes)
    values = metrics.evaluate(logits, labels, "accuracy")
    found = measured(metrics.softmax(logits), labels)
    assert dict(zip(MEASURES, found, strict=True)) == pytest.approx(
        {name: values.get(name, value) for name, value in zip(MEASURES, found, strict=True)}
    )
    assert {"nll", "ece", "brier"} <= values.keys()
    assert (
        measured(metrics.softmax(logits[:4]), labels[:4])[1]
        == pytest.approx(  # fewer examples than bins
            metrics.evaluate(logits[:4], labels[:4], "accuracy")["ece"]
        )
    )


def test_calibrated_predictions_are_left_alone():
    labels = np.array([0] * 8 + [1] * 2 + [1] * 8 + [0] * 2)  # of ten at 0.8, eight are right
    p = table(labels, [0] * 10 + [1] * 10, sure=0.8)[["p_0", "p_1"]].to_numpy()
    assert temperature(p, labels) == pytest.approx(1, abs=1e-6)
    assert scale(p, 1.0) == pytest.approx(p)
    logits, labels = draw(np.random.default_rng(1), 20_000)
    assert temperature(metrics.softmax(logits), labels) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("t", [0.5, 2.0, 5.0])
def test_a_known_temperature_is_found(t):
    logits, labels = draw(np.random.default_rng(2), 3000)
    p = metrics.softmax(logits)
    own, found = temperature(p, labels), temperature(metrics.softmax(logits * t), labels)
    assert found == pytest.approx(own * t, rel=1e-6)
    assert scale(metrics.softmax(logits * t), found) == pytest.approx(scale(p, own), abs=1e-6)
    least = minimize_scalar(lambda x: measured(scale(p, x), labels)[0], bounds=(0.1, 9), method="bounded")
    assert own == pytest.approx(least.x, rel=1e-3)


def test_the_ends_of_the_temperatures():
    labels = np.array([0, 1] * 10)
    assert temperature(table(labels, labels)[["p_0", "p_1"]].to_numpy(), labels) == TEMPERATURES[0]  # all are right
    assert temperature(table(labels, 1 - labels)[["p_0", "p_1"]].to_numpy(), labels) == TEMPERATURES[1]  # none is
    sure = table(labels, labels, sure=1.0)[["p_0", "p_1"]].to_numpy()  # a probability of 0
    assert np.isfinite(scale(sure, temperature(sure, labels))).all()


def study(sharpness: dict, test=True, n=400, n_classes=3, seeds=SEEDS, noise=0.4):
    """Runs of methods whose logits are calibrated ones times `sharpness`, with noise of their own."""
    rows, stored = [], {}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        splits = {"dev": draw(rng, n, n_classes), **({"test": draw(rng, n, n_classes)} if test else {})}
        for method, sharp in sharpness.items():
            values = {}
            for split, (logits, labels) in splits.items():
                own = (logits + rng.normal(0, noise, logits.shape)) * sharp
                frame = predictions(own, labels)
                values[split] = logged(labels, own.argmax(axis=1), n_classes=n_classes)
                name = run(method, seed, 0.0)["run_id"]
                stored[name, split] = frame
            rows.append(run(method, seed, values.get("test", math.nan), dev=values["dev"]))
    frame = pd.DataFrame(rows)
    return frame, pair(frame), stored


def test_a_method_that_only_softens_gains_nothing_over_a_scaled_reference():
    _, paired, stored = study({"finetune": 3.0, "ls": 1.5}, noise=0.0)
    found = calibrate(paired, stored)
    assert list(found.runs) == RUNS and found.left_out.empty and len(found.runs) == 12
    assert set(found.runs["fitted_on"]) == {"dev"} and set(found.runs["split"]) == {"test"}
    mean = methods(found).set_index("method")
    assert list(methods(found)) == METHODS
    assert mean.loc["finetune", "temperature"] == pytest.approx(2 * mean.loc["ls", "temperature"], rel=1e-5)
    table = differences(paired, found)
    assert list(table) == DIFFERENCES and len(table) == 3 * len(TESTED)
    rows = table.set_index(["measure", "scaled"])
    for measure in ("nll", "ece", "brier"):
        d = rows.loc[(measure, "none")]
        values = found.runs.set_index(["method", "seed"])[measure]
        if measure == "ece":
            values = values - found.runs.set_index(["method", "seed"])["ece_floor"]
        few = mannwhitneyu(values["ls"], values["finetune"], method="exact").pvalue
        assert (
            (d["n"], d["p_holm"]) == (6, pytest.approx(few)) and few < 0.02 and d["estimate"] < -0.01
        )  # lower is better
        assert rows.loc[(measure, "both"), "mean_difference"] == pytest.approx(0, abs=1e-6)
        assert rows.loc[(measure, "reference"), "mean_method"] == d["mean_method"]
        assert rows.loc[(measure, "reference"), "mean_reference"] == rows.loc[(measure, "both"), "mean_reference"]
    gone = "lower, and no gain is shown when finetune is scaled as well: ls"
    assert calibration_lines(table)[:2] == [f"nll: {gone}", f"ece above its floor: {gone}"] and len(
        calibration_lines(table)
    ) == len(TESTED)


def test_a_better_method_still_helps_when_both_are_scaled():
    _, paired, stored = study({"finetune": 1.0, "kd": 1.0}, noise=0.0)
    for (name, split), frame in stored.items():
        if "finetune" in name:  # worse probabilities, not only softer ones
            worse = frame.copy()
            noise = np.random.default_rng(int(name[-1])).normal(0, 2, (len(frame), 3))
            worse[["p_0", "p_1", "p_2"]] = metrics.softmax(np.log(frame[["p_0", "p_1", "p_2"]].to_numpy()) + noise)
            stored[name, split] = worse
    table = differences(paired, calibrate(paired, stored))
    assert "lower, and still lower when finetune is scaled as well" in calibration_lines(table)[0]
    d = table.set_index(["measure", "scaled"]).loc[("nll", "both")]
    known = calibrate(paired, stored).runs.set_index(["method", "seed"])["nll_scaled"]
    test = rank_sum(known["kd"], known["finetune"])  # six seeds
    assert (d["estimate"], d["low"], d["p_value"]) == (test.estimate, test.low, test.p_value)


def test_too_few_seeds_are_said():
    _, paired, stored = study({"finetune": 3.0, "ls": 1.5}, n=100, seeds=range(3))
    told = calibration_lines(differences(paired, calibrate(paired, stored)))
    assert told[0] == "nll: too few seeds to tell (Holm p cannot be below 0.10): ls"


def test_dev_is_scaled_by_its_other_half():
    _, paired, stored = study({"finetune": 3.0, "ls": 1.5}, test=False, n=101)
    found = calibrate(paired, stored)
    assert set(found.runs["fitted_on"]) == {"other half of dev"} and set(found.runs["split"]) == {"dev"}
    frame = stored["t-pretrained-ls-0", "dev"]
    p, labels = frame[["p_0", "p_1", "p_2"]].to_numpy(), frame["label"].to_numpy()
    even = np.random.default_rng(0).permutation(101) % 2 == 0
    of_even, of_odd = temperature(p[even], labels[even]), temperature(p[~even], labels[~even])
    scaled = np.where(even[:, None], scale(p, of_odd), scale(p, of_even))
    row = found.runs.set_index("run_id").loc["t-pretrained-ls-0"]
    assert row["nll_scaled"] == pytest.approx(measured(scaled, labels)[0])
    assert row["temperature"] == pytest.approx(math.sqrt(of_even * of_odd))


def test_a_dev_file_with_its_classes_in_turn_is_scaled_as_another():
    """By the parity of rows each half would be of one class, whose temperature says nothing of the other's."""
    rng = np.random.default_rng(3)
    logits = rng.normal(2, 3, 400)  # of class 1, which the model prefers more than it should
    p1 = 1 / (1 + np.exp(-logits))
    labels = (rng.random(400) < 1 / (1 + np.exp(-(logits - 2) / 2))).astype(int)
    ones, zeros = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    each = min(len(ones), len(zeros))
    order = np.stack([zeros[:each], ones[:each]], axis=1).ravel()
    frame = pd.DataFrame({"idx": range(2 * each), "label": labels[order], "p_0": 1 - p1[order], "p_1": p1[order]})
    _, _, t, fitted_on = _scaled({("run", "dev"): frame}, "run", "dev")
    assert fitted_on == "other half of dev"
    assert t == pytest.approx(temperature(frame[["p_0", "p_1"]].to_numpy(), frame["label"].to_numpy()), rel=0.1)


def test_reliability_bins_have_equal_mass_over_all_seeds():
    _, paired, stored = study({"finetune": 3.0, "ls": 1.5})
    found = calibrate(paired, stored).reliability
    assert list(found) == RELIABILITY and len(found) == 2 * 2 * measures.BINS
    for _, bins in found.groupby(["method", "scaled"]):
        assert bins["n"].sum() == 6 * 400 and bins["n"].max() - bins["n"].min() <= 1
        assert bins["confidence"].is_monotonic_increasing and bins["bin"].tolist() == list(range(1, measures.BINS + 1))
    p = np.concatenate([stored[f"t-pretrained-ls-{s}", "test"][["p_0", "p_1", "p_2"]].to_numpy() for s in SEEDS])
    labels = np.concatenate([stored[f"t-pretrained-ls-{s}", "test"]["label"].to_numpy() for s in SEEDS])
    bins = found[(found["method"] == "ls") & ~found["scaled"]]
    gap = (bins["n"] * (bins["confidence"] - bins["accuracy"]).abs()).sum() / bins["n"].sum()
    assert gap == pytest.approx(measured(p, labels)[1])


def test_the_order_of_examples_that_are_equally_sure_says_nothing():
    p = np.repeat([[0.9, 0.1], [0.6, 0.4]], 50, axis=0)
    labels = np.repeat([0, 1, 0, 1], [30, 20, 15, 35])
    order = np.random.default_rng(0).permutation(100)
    assert measured(p, labels)[1] == pytest.approx(measured(p[order], labels[order])[1])
    at_0_9, at_0_6 = abs(0.9 - 0.6), abs(0.6 - 0.3)  # of 50 examples each; one bin of 15 holds some of both
    assert measured(p, labels)[1] == pytest.approx((at_0_9 + at_0_6) / 2)


# The floor of ECE, and selective answers


def calibrated(rng, n, low):
    """Probabilities of two classes, between `low` and 1, and labels that follow them."""
    sure = rng.uniform(low, 1, n)
    p = np.stack([sure, 1 - sure], axis=1)
    return p, (rng.random(n) > sure).astype(int)


@pytest.mark.parametrize("n, low", [(100, 0.5), (300, 0.5), (1000, 0.7), (3000, 0.95)])
def test_the_floor_is_the_ece_of_a_model_that_is_right(n, low):
    rng = np.random.default_rng(n)
    p, _ = calibrated(rng, n, low)
    sure = p[:, 0]
    drawn = [measures.ece(p, (rng.random(n) > sure).astype(int)) for _ in range(400)]
    assert measures.ece_floor(p) == pytest.approx(np.mean(drawn), rel=0.05)


def test_the_floor_of_fewer_examples_than_bins():
    p = np.array([[0.9, 0.1], [0.6, 0.4]])
    expected = (math.sqrt(2 / math.pi * 0.09) + math.sqrt(2 / math.pi * 0.24)) / 2
    assert measures.ece_floor(p) == pytest.approx(expected)
    assert measures.ece_floor(np.array([[1.0, 0.0]] * 50)) == 0


def by_loop(p, labels):
    """AURC and the error at 80%, answers of one confidence counted with their mean error."""
    said, wrong = p.max(axis=1), (p.argmax(axis=1) != labels).astype(float)
    shared = np.array([wrong[said == x].mean() for x in said])
    errors = [shared[i] for i in sorted(range(len(said)), key=lambda i: -said[i])]
    risks = [sum(errors[: i + 1]) / (i + 1) for i in range(len(errors))]
    kept = max(1, round(0.8 * len(errors)))
    return sum(risks) / len(risks), sum(errors[:kept]) / kept


@pytest.mark.parametrize("n", [1, 2, 7, 100, 333])
def test_risk_and_coverage_are_those_of_a_loop(n):
    rng = np.random.default_rng(n)
    logits, labels = draw(rng, n)
    p = metrics.softmax(logits)
    assert (measures.aurc(p, labels), measures.error_at_80(p, labels)) == pytest.approx(by_loop(p, labels))
    tied = np.round(p, 1)
    assert (measures.aurc(tied, labels), measures.error_at_80(tied, labels)) == pytest.approx(by_loop(tied, labels))


def test_the_order_of_examples_says_nothing():
    rng = np.random.default_rng(3)
    logits, labels = draw(rng, 200)
    p = np.round(metrics.softmax(logits), 1)  # many are equally sure
    for _ in range(5):
        order = rng.permutation(200)
        assert measured(p[order], labels[order]) == pytest.approx(measured(p, labels))


def test_risks_that_are_known():
    labels = np.zeros(10, dtype=int)
    sure = np.linspace(0.95, 0.55, 10)
    p = np.stack([sure, 1 - sure], axis=1)
    last_two_wrong = np.where(np.arange(10) < 8, labels, 1)
    assert measures.error_at_80(p, last_two_wrong) == 0
    assert measures.aurc(p, last_two_wrong) == pytest.approx((1 / 9 + 2 / 10) / 10)
    assert measures.aurc(p, 1 - labels) == measures.error_at_80(p, 1 - labels) == 1
    assert measures.aurc(p, labels) == 0


def test_two_calibrated_models_do_not_differ_in_ece():
    """One is sure, one is not; both are right about it. Their ECE differ, their distance from the floor does not."""
    rng, rows, stored = np.random.default_rng(4), [], {}
    for seed in range(8):
        for method, low in (("finetune", 0.95), ("ls", 0.5)):
            row = run(method, seed, 0.0)
            for split in ("dev", "test"):
                p, labels = calibrated(rng, 400, low)
                stored[row["run_id"], split] = predictions(np.log(p), labels)
            rows.append(row)
    paired = pair(pd.DataFrame(rows))
    found = calibrate(paired, stored)
    mean = methods(found).set_index("method")
    assert mean["ece"]["ls"] > 1.5 * mean["ece"]["finetune"]
    table = differences(paired, found).set_index(["measure", "scaled"]).loc[("ece", "none")]
    by = found.runs.set_index(["method", "seed"])
    above = by["ece"] - by["ece_floor"]
    assert table["mean_difference"] == pytest.approx((above["ls"] - above["finetune"]).mean())
    assert table["p_value"] > 0.05 and abs(table["mean_difference"]) < 0.01
    assert rank_p(by["ece"]["ls"] - by["ece"]["finetune"]) <= 0.05, "of ECE itself they would"


def test_the_ece_of_scaled_probabilities_is_above_a_floor_of_its_own():
    _, paired, stored = study({"finetune": 3.0, "ls": 1.5}, n=100, seeds=range(3))
    found = calibrate(paired, stored)
    by = found.runs.set_index(["method", "seed"])
    above = by["ece_scaled"] - by["ece_floor_scaled"]
    row = differences(paired, found).set_index(["measure", "scaled"]).loc[("ece", "both")]
    assert row["mean_method"] == pytest.approx(above["ls"].mean(), abs=1e-8)
    assert row["mean_reference"] == pytest.approx(above["finetune"].mean(), abs=1e-8)


def rank_p(d):
    return float(wilcoxon(d, method="exact").pvalue)


def test_runs_that_cannot_be_measured():
    _, paired, stored = study({"finetune": 2.0, "ls": 1.0, "kd": 1.0}, n=60, seeds=range(3))
    del stored["t-pretrained-ls-0", "dev"], stored["t-pretrained-finetune-1", "test"]
    stored["t-pretrained-kd-2", "test"].loc[5, "p_1"] = np.nan
    found = calibrate(paired, stored)
    assert list(found.left_out) == LEFT_OUT
    assert dict(zip(found.left_out["run_id"], found.left_out["reason"], strict=True)) == {
        "t-pretrained-ls-0": "no predictions of dev",
        "t-pretrained-finetune-1": "no predictions of test",
        "t-pretrained-kd-2": "predictions of test hold a NaN or an infinite number",
    }
    counts = differences(paired, found).groupby("method")["n"].first()
    assert counts.to_dict() == {"kd": 1, "ls": 1}
    nothing = calibrate(paired, {})
    assert len(nothing.left_out) == 9 and nothing.runs.empty and nothing.reliability.empty
    assert differences(paired, nothing).empty and methods(nothing).empty
    assert calibration_lines(differences(paired, nothing)) == []


def test_costs_with_and_without_a_teacher_are_not_those_of_a_run_that_was_held_up():
    rows = []
    for s, (epoch, seconds, teacher) in enumerate([(2, 10.0, 20.0), (2, 11, 22), (5, 1768, 30)]):
        cost = {"metrics.best/epoch": epoch, "metrics.cost/train_seconds": seconds}
        rows.append(run("finetune", s, 70.0 + s, **cost, **{"metrics.cost/teacher_seconds": math.nan}))
        rows.append(run("kd", s, 72.0, **cost, **{"metrics.cost/teacher_seconds": teacher}))
        rows.append(run("ls", s, 71.0, **{"metrics.best/epoch": 1, "metrics.cost/train_seconds": math.nan}))
    frame = pd.DataFrame(rows)
    table = costs(pair(frame), frame)
    assert list(table) == COSTS and table["method"].tolist() == ["finetune", "kd"]  # ls logged no cost
    kd = table.set_index("method").loc["kd"]
    assert kd[["n", "score", "epochs", "best_epoch"]].tolist() == [3, 72, 3, 3]
    assert kd[["train_seconds", "teacher_seconds", "total_seconds"]].tolist() == [11, 22, 33]
    assert kd["times_reference"] == 3 and table["times_reference"][0] == 1
    slow = frame.assign(**{"metrics.cost/train_seconds": 2 * frame["metrics.cost/train_seconds"]})
    both = pd.concat([
        frame.assign(**{"tags.labelreg.data": "d1"}),
        slow.assign(run_id=slow["run_id"] + "-b", **{"tags.labelreg.data": "d2"}),
    ])  # fmt: skip
    assert costs(pair(both), both).query("method == 'finetune'")["times_reference"].tolist() == [1, 1], "each its own"
    bare = frame.drop(columns=[name for name in frame if "cost/" in name])
    assert costs(pair(bare), bare).empty


def test_costs_are_compared_with_the_reference_of_as_many_epochs():
    """Of ten epochs there is finetune alone: it pairs with nothing, and is nobody's reference."""
    rows = [
        run(method, seed, 70.0 + seed, **{"params.epochs": epochs, "metrics.cost/train_seconds": seconds})
        | {"run_id": f"{method}-{epochs}-{seed}"}
        for method, epochs, seconds in (("finetune", "3", 10.0), ("finetune", "10", 100.0), ("ls", "3", 11.0))
        for seed in range(5)
    ]
    frame = pd.DataFrame(rows)
    table = costs(pair(frame), frame)
    assert table["setting"].tolist() == ["epochs=3", "epochs=10", ""]
    assert table["times_reference"].tolist() == pytest.approx([1, 1, 1.1])
