"""The loop on a tiny model: against a plain loop, twice with one seed, stopped, resumed, diverged."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_more_methods import WEIGHTLESS
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.testing import assert_close

from labelreg import recipes, training
from labelreg.averaging import Average
from labelreg.data import batching, corpus
from labelreg.errors import DivergedError
from labelreg.methods import METHODS, own_parameters
from labelreg.methods.epochs import LastEpoch
from labelreg.methods.paper import annealing_factor
from labelreg.models import registry
from labelreg.settings import Machine, Settings

FP32 = Machine("fp32", "off", threads=1, device="cpu")
OWN = {"alpha": 0.5, "tau": 1.0, "a": 0.9, "tfreg_target": "paper", "phase1_epochs": 1}
SETTINGS = Settings(
    method="finetune",
    seed=0,
    lr=2e-3,
    batch_size=8,
    epochs=2,
    weight_decay=0.01,
    warmup_ratio=0.25,
    selection="best",
    checkpoint_seconds=0,
)


def changed(**changes) -> Settings:
    """SETTINGS with changes, and of OWN, changed too, what the method reads."""
    made = replace(SETTINGS, **{name: value for name, value in changes.items() if name not in own_parameters()})
    method = METHODS[made.method]
    usual = {name: each.default for name, each in method.parameters.items()} | OWN
    own = {name: value for name in method.parameters if (value := (usual | changes)[name]) is not None}
    return replace(made, own=method.complete(own, made.epochs))


@pytest.fixture
def data(prepare, tiny_file):
    return prepare(train_file=tiny_file)


@pytest.fixture
def teacher(data):
    return 2 * torch.randn(len(data.splits["train"]), 3, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def model(data, tiny_roots):
    """A new small BERT at each call; `dropout=False` for comparisons with a plain loop."""

    def new(seed=0, init="pretrained", dropout=True, name="bert-small"):
        made = registry.load(name, data.classes, init, seed, tiny_roots)
        for module in made.modules() if not dropout else ():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return made

    return new


@pytest.fixture
def run(model, data, teacher):
    """A whole training: its reports, its outcome on all splits, and the model."""

    def ran(made=None, machine=FP32, **changes):
        settings = changed(**changes)
        made = made or model(settings.seed)
        logits = teacher if METHODS[settings.method].needs else None
        reports = list(training.train(made, data, settings, machine, logits))
        return reports, training.conclude(made, data, reports[-1], settings, machine, list(data.splits)), made

    return ran


def facts(reports):
    """What a report says, without its seconds and its tensors."""
    return [(report.epoch, report.train_loss, report.dev, report.tokens) for report in reports]


def same_weights(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# one seed, one result


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_twice(method, run):
    first, second = (run(method=method, seed=3) for _ in range(2))
    assert facts(first[0]) == facts(second[0])
    assert first[1].best == second[1].best
    assert all(torch.equal(first[1].logits[split], second[1].logits[split]) for split in first[1].logits)
    assert same_weights(first[2], second[2])


def test_another_seed_is_another_run(run, model):
    assert facts(run(seed=0)[0]) != facts(run(seed=1)[0])
    one, two = (run(model(seed=0), seed=seed)[0] for seed in (0, 1))  # one head: order and dropout differ too
    assert one[0].train_loss != two[0].train_loss


@pytest.mark.parametrize("tau", [1.0, 3.0])
@pytest.mark.parametrize("method", ["ls", "tfreg", "selfkd", "kd"])
def test_alpha_0_is_finetune_bit_for_bit(method, tau, run):
    """Methods of one seed share head, order and dropout: the difference between two of them is theirs."""
    plain, other = run(), run(method=method, alpha=0.0, tau=tau)
    assert facts(plain[0]) == facts(other[0])
    assert same_weights(plain[2], other[2])


def test_methods_differ(run):
    losses = {method: run(method=method, epochs=2)[0][1].train_loss for method in METHODS}
    assert losses.pop("kd") == losses["selfkd"]  # given the same logits
    assert losses.pop("mbls") == losses["finetune"], "no logit of so few steps lies beyond the margin"
    assert len(set(losses.values())) == len(METHODS) - 2


@pytest.mark.parametrize("given", WEIGHTLESS.items(), ids=WEIGHTLESS)
def test_without_its_weight_a_method_is_finetune_bit_for_bit(given, run):
    method, weights = given
    plain, other = run(), run(method=method, **weights)
    assert facts(plain[0]) == facts(other[0])
    assert same_weights(plain[2], other[2])


# passes that a method takes, and weights that are averaged


@pytest.mark.parametrize(
    ("method", "more", "passes"),
    [("finetune", {}, 3), ("ols", {}, 3), ("pskd", {}, 5), ("pskd", {"pskd_from": "training"}, 3), ("rdrop", {}, 6)],
)
def test_every_pass_is_counted(method, more, passes, run, data):
    """Three epochs; after the last one there is nothing to predict for."""
    (*_, report), *_ = run(method=method, epochs=3, **more)
    assert report.passes == passes
    tokens = 3 * int(data.splits["train"].lengths.sum())
    assert report.tokens == (2 * tokens if method == "rdrop" else tokens)


def every_step(model, data, monkeypatch, **changes):
    """The weights after each step of a run, and what its generator's reports and model say."""
    made, taken = model(), []
    step = Average.add
    monkeypatch.setattr(Average, "add", lambda *its: (taken.append(training.snapshot(its[1])), step(*its)))
    reports = []
    for report in training.train(made, data, changed(**changes), FP32):
        reports.append((report, training.snapshot(made)))
    return taken, reports, made


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_what_is_evaluated_is_the_average_of_what_is_trained(average, model, data, monkeypatch):
    """Of three epochs of 6 steps from half of them on: the first epoch's weights are its own."""
    own = {"average": average, "average_start": 0.5, "ema_decay": 0.8, "epochs": 3, "selection": "last"}
    taken, reports, made = every_step(model, data, monkeypatch, **own)
    assert len(taken) == 18
    for (report, shown), last in zip(reports, (6, 12, 18), strict=True):
        steps = taken[9:last]
        expected = steps[0] if steps else taken[last - 1]
        for step in steps[1:]:
            expected = {n: 0.8 * v + 0.2 * step[n] if v.is_floating_point() else v for n, v in expected.items()}
        if average == "swa" and steps:
            floats = [name for name, value in shown.items() if value.is_floating_point()]
            expected = expected | {name: torch.stack([s[name] for s in steps]).mean(0) for name in floats}
        for name, value in shown.items():
            assert_close(value, expected[name], atol=1e-6, rtol=1e-5)
        assert torch.equal(report.dev_logits, training.predict(made, data.splits["dev"], FP32)) == (last == 18)
    outcome = training.conclude(made, data, reports[-1][0], changed(**own), FP32, ["dev"])
    assert torch.equal(outcome.logits["dev"], reports[-1][0].dev_logits)


def test_averaging_leaves_the_training_alone(run):
    """An average of the steps does not change them; SWA's constant rate does."""
    plain = run(epochs=3, selection="last")
    ema = run(epochs=3, average="ema", average_start=0.4, ema_decay=0.9, selection="last")
    swa = run(epochs=3, average="swa", average_start=0.4)
    losses = [[report.train_loss for report in each[0]] for each in (plain, ema, swa)]
    assert losses[0] == losses[1] and losses[0][:1] == losses[2][:1] and losses[0][2] != losses[2][2]
    assert not same_weights(plain[2], ema[2])


@pytest.fixture
def rates():
    """The learning rates of all steps that are taken."""
    found = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: found.append(optimizer.param_groups[0]["lr"]))
    yield found
    hook.remove()


def test_the_rate_of_swa_is_constant_from_its_start_on(run, rates):
    run(epochs=2, average="swa", average_start=0.5, warmup_ratio=0.0)
    run(epochs=2, average="swa", average_start=0.5, warmup_ratio=0.0, swa_lr=7e-4)
    usual = [2e-3 * (12 - step) / 12 for step in range(12)]
    assert rates[:12] == pytest.approx([*usual[:6], *[usual[6]] * 6])
    assert rates[12:] == pytest.approx([*usual[:6], *[7e-4] * 6])


def test_the_rate_of_swa_is_none_of_those_that_rise(run, rates):
    """Kept at the first step of a warm-up, it would hardly train: akd's second phase has a warm-up of its own."""
    run(epochs=2, average="swa", average_start=0.0, warmup_ratio=0.25)
    rise = [2e-3 * nth / 4 for nth in (1, 2, 3)]
    assert rates == pytest.approx([*rise, *[2e-3] * 9])
    rates.clear()
    run(method="akd", epochs=3, phase1_epochs=2, average="swa", average_start=0.5, warmup_ratio=0.5)
    assert rates[12:] == pytest.approx([*rise, *[2e-3] * 3])


def test_pskd_learns_from_the_model_of_the_epoch_before(model, data, monkeypatch):
    """What the loss is given in epoch 2 is what the model of epoch 1 predicts without dropout."""
    given = {}
    settings, made = changed(method="pskd", epochs=2, alpha=0.8), model()
    rows = LastEpoch.rows
    monkeypatch.setattr(
        LastEpoch, "rows", lambda self, index, y: given.setdefault(len(given), (index, rows(self, index, y)))[1]
    )
    epochs = training.train(made, data, settings, FP32)
    next(epochs)
    predicted = training.predict(made, data.splits["train"], FP32)
    next(epochs)
    assert all(seen is None for _, seen in list(given.values())[:6])
    assert len(given) == 2 * 6
    for index, seen in list(given.values())[6:]:
        assert torch.equal(seen, predicted[index])


# against a plain loop


def plain_loop(model, data, teacher, settings, objective):
    """The loop as the textbook has it: whole layers, whole table, torch's optimiser; losses of the steps."""
    split, losses = data.splits["train"], []
    vectors = [p for p in model.parameters() if p.ndim == 1]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.lr)
    steps = settings.epochs * 6  # 48 examples in batches of 8
    warmup, step = round(settings.warmup_ratio * steps), 0
    model.train()
    for epoch in range(1, settings.epochs + 1):
        for batch in batching.epoch_batches(split.lengths, settings.batch_size, settings.seed, epoch):
            rows = [split.ids[split.offsets[i] : split.offsets[i + 1]].long() for i in batch]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=split.pad_id)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
            loss = objective(model(input_ids=ids, attention_mask=mask).logits, split.labels[batch], teacher[batch])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            rise, fall = (step + 1) / (warmup + 1), (steps - step) / (steps - warmup)
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * (rise if step < warmup else fall)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item() * len(batch))
            step += 1
    return losses


def kd_at_2(logits, labels, teacher):
    kl = F.kl_div(F.log_softmax(logits / 2, 1), F.softmax(teacher / 2, 1), reduction="batchmean")
    return 0.5 * F.cross_entropy(logits, labels) + 0.5 * kl


@pytest.mark.parametrize("name", ["bert-small", "distilroberta", "distilgpt2"])
@pytest.mark.parametrize(
    ("changes", "objective"),
    [
        ({"method": "finetune"}, lambda logits, labels, _: F.cross_entropy(logits, labels)),
        ({"method": "ls", "alpha": 0.1}, lambda x, labels, _: F.cross_entropy(x, labels, label_smoothing=0.1)),
        ({"method": "kd", "tau": 2.0}, kd_at_2),
    ],
    ids=["finetune", "ls", "kd"],
)
def test_the_engine_equals_a_plain_loop(name, changes, objective, model, prepare, tiny_file, teacher):
    from transformers import AutoModelForSequenceClassification

    data, settings = prepare(train_file=tiny_file, model=name), changed(**changes)
    fast = model(dropout=False, name=name)
    plain = AutoModelForSequenceClassification.from_config(fast.config)
    plain.load_state_dict(fast.state_dict())
    for module in plain.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    losses = plain_loop(plain, data, teacher, settings, objective)
    reports = list(training.train(fast, data, settings, FP32, teacher))
    expected = [sum(losses[:6]) / 48, sum(losses[6:]) / 48]
    assert [report.train_loss for report in reports] == pytest.approx(expected, rel=1e-4)
    registry.expand(fast)
    dev = data.splits["dev"]
    assert_close(training.predict(fast, dev, FP32), training.predict(plain, dev, FP32), atol=1e-3, rtol=1e-3)


def test_a_report_is_of_its_epoch(run, data):
    reports, outcome, _ = run(epochs=3)
    lengths = data.splits["train"].lengths
    assert [report.epoch for report in reports] == [1, 2, 3]
    for report in reports:
        assert report.dev == training.score(report.dev_logits, data.splits["dev"], "accuracy")
        batches = batching.epoch_batches(lengths, 8, 0, report.epoch)
        assert report.padding_share == batching.padding_share(lengths, batches)
        assert report.best.dev["score"] == max(r.dev["score"] for r in reports[: report.epoch])
    assert outcome.best_epoch == next(r.epoch for r in reports if r.dev["score"] == outcome.best["dev"]["score"])


def test_a_smaller_last_batch_counts_by_its_examples(model, data):
    """With a rate of nothing the model stands still: its loss is the mean over examples, not over batches."""
    made, split = model(dropout=False), data.splits["train"]
    (report,) = training.train(made, data, changed(epochs=1, batch_size=36, lr=1e-20), FP32)
    expected = F.cross_entropy(training.predict(made, split, FP32), split.labels).item()
    assert report.train_loss == pytest.approx(expected, rel=1e-5)


def test_it_learns(run):
    reports, outcome, _ = run(epochs=12, lr=5e-3)
    assert reports[-1].train_loss < 0.5 * reports[0].train_loss
    assert outcome.best["test"]["score"] > 60  # chance is 33


def rates_of(run, **changes):
    """The learning rate of every step, as the optimiser sees it, and the optimisers."""
    seen = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: seen.append((optimizer, [group["lr"] for group in optimizer.param_groups]))
    )
    try:
        run(**changes)
    finally:
        hook.remove()
    assert all(len(set(rates)) == 1 for _, rates in seen)
    return [rates[0] for _, rates in seen], [optimizer for optimizer, _ in seen]


def test_the_rate_rises_then_falls_to_0(run):
    """12 steps, a quarter of them to rise in: 1/4, 2/4, 3/4, then 9/9, ..., 1/9."""
    rates, optimizers = rates_of(run, lr=1e-3)
    assert rates == pytest.approx([1e-3 * part for part in (1 / 4, 2 / 4, 3 / 4, *(n / 9 for n in range(9, 0, -1)))])
    assert len(set(optimizers)) == 1
    assert rates_of(run, lr=1e-3, warmup_ratio=0.0)[0] == pytest.approx([1e-3 * n / 12 for n in range(12, 0, -1)])


def test_a_warm_up_is_the_nearest_number_of_steps(run):
    """0.3 of 12 steps are 3.6: four rise."""
    assert rates_of(run, lr=1e-3, warmup_ratio=0.3)[0][:5] == pytest.approx([1e-3 * n / 5 for n in range(1, 6)])


def test_only_matrices_decay(run):
    _, (optimizer, *_) = rates_of(run)
    decays = {group["weight_decay"]: {p.ndim for p in group["params"]} for group in optimizer.param_groups}
    assert decays == {0.01: {2}, 0.0: {1}}


# Annealing KD


def test_akd_has_two_phases_of_their_own(run):
    rates, optimizers = rates_of(run, method="akd", epochs=3, phase1_epochs=2, tau=10.0, warmup_ratio=0.0, lr=1e-3)
    falling = [[n / steps for n in range(steps, 0, -1)] for steps in (12, 6)]
    assert rates == pytest.approx([1e-3 * part for phase in falling for part in phase])
    assert optimizers[0] is optimizers[11]
    assert optimizers[11] is not optimizers[12] is optimizers[17]


def test_akd_regresses_on_the_teacher_then_fine_tunes(model, data, teacher):
    """With a rate of nothing the model stands still, and each epoch's loss can be computed beside it."""
    settings = changed(method="akd", epochs=3, phase1_epochs=2, tau=10.0, lr=1e-20)
    made = model(dropout=False)
    reports = list(training.train(made, data, settings, FP32, teacher))
    split = data.splits["train"]
    logits = training.predict(made, split, FP32)
    expected = [F.mse_loss(logits, annealing_factor(epoch, 2, 10.0) * teacher).item() for epoch in (1, 2)]
    expected.append(F.cross_entropy(logits, split.labels).item())
    assert [report.train_loss for report in reports] == pytest.approx(expected, rel=1e-5)


# the end


@pytest.mark.parametrize("name", ["bert-small", "distilroberta", "distilgpt2"])
def test_predictions_are_those_of_one_example_at_a_time(name, model, prepare, tiny_file):
    split = prepare(train_file=tiny_file, model=name).splits["train"]
    made = model(name=name)
    together = training.predict(made, split, FP32)
    assert together.shape == (48, 3)
    with torch.inference_mode():
        for number in range(len(split)):
            ids = split.ids[split.offsets[number] : split.offsets[number + 1]].long()[None]
            assert_close(together[number], made.eval()(ids).logits[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("selection", ["best", "last"])
def test_selection_decides_whose_weights_stay(selection, model, data):
    settings, made = changed(epochs=3, selection=selection), model()
    reports, weights = [], []
    for report in training.train(made, data, settings, FP32):
        reports.append(report)
        weights.append(training.snapshot(made))
    report = replace(reports[-1], best=reports[0].best)  # as if no later epoch had been better
    outcome = training.conclude(made, data, report, settings, FP32, ["dev", "test", "train"])
    chosen = reports[0] if selection == "best" else reports[-1]
    assert outcome.best_epoch == 1
    assert outcome.best["dev"] == reports[0].dev
    assert outcome.last["dev"] == reports[-1].dev
    assert torch.equal(outcome.logits["dev"], chosen.dev_logits)
    kept = weights[0 if selection == "best" else -1]
    for name, value in made.state_dict().items():
        if name in kept and value.shape == kept[name].shape:  # all but the embedding, whole again
            assert torch.equal(value, kept[name])
    for split, logits in outcome.logits.items():
        assert torch.equal(training.predict(made, data.splits[split], FP32), logits)
    selected = outcome.best if selection == "best" else outcome.last
    assert selected["test"] == training.score(outcome.logits["test"], data.splits["test"], "accuracy")
    assert outcome.best["test"] != outcome.last["test"]


def test_stopping_the_iteration_stops_the_training(model, data):
    made = model()
    epochs = training.train(made, data, changed(epochs=50), FP32)
    report = next(epochs)
    epochs.close()
    outcome = training.conclude(made, data, report, SETTINGS, FP32, ["dev", "test"])
    assert outcome.best_epoch == 1
    assert outcome.best == outcome.last
    assert outcome.best["dev"] == report.dev
    assert set(outcome.logits) == {"dev", "test"}
    assert isinstance(made.get_input_embeddings(), torch.nn.Embedding)  # whole again: it can be saved
    assert torch.equal(training.predict(made, data.splits["dev"], FP32), outcome.logits["dev"])


def test_an_unlabelled_test_set_has_logits_and_no_score(model, prepare, tiny_file, tmp_path):
    test = tmp_path / "test.csv"
    test.write_text("text,label\na film,-1\nthe cast,-1\n")
    data, made = prepare(train_file=tiny_file, test_file=test), model()
    (report,) = training.train(made, data, changed(epochs=1), FP32)
    outcome = training.conclude(made, data, report, SETTINGS, FP32, ["dev", "test"])
    assert set(outcome.best) == set(outcome.last) == {"dev"}
    assert outcome.logits["test"].shape == (2, 3)


def test_what_was_trained_can_be_saved_and_loaded(run, data, tiny_roots, tmp_path):
    _, outcome, made = run()
    made.save_pretrained(tmp_path / "model")
    registry.tokenizer(registry.checkpoint("bert-small", tiny_roots)).save_pretrained(tmp_path / "model")
    again = registry.load(str(tmp_path / "model"), data.classes, "pretrained", 9, tiny_roots, head="checkpoint")
    for split, logits in outcome.logits.items():
        assert torch.equal(training.predict(again, data.splits[split], FP32), logits)


KEPT = [  # what a method or an average keeps from epoch to epoch
    {"method": "finetune"},
    {"method": "ols"},
    {"method": "pskd"},
    {"method": "pskd", "pskd_from": "training"},
    {"method": "rdrop"},
    {"method": "akd", "phase1_epochs": 2, "average": "swa", "average_start": 0.0},
    {"method": "finetune", "average": "ema", "average_start": 0.2, "ema_decay": 0.5},
    {"method": "finetune", "average": "swa", "average_start": 0.3},
    {"method": "pskd", "average": "swa", "average_start": 0.6, "swa_lr": 1e-3},
]


@pytest.mark.parametrize("stopped", [1, 2, 3])
@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: " ".join(map(str, kept.values())))
def test_a_killed_training_goes_on_bit_for_bit(stopped, kept, run, model, data, teacher, tmp_path):
    settings = changed(epochs=4, **kept)
    given = teacher if METHODS[settings.method].needs else None
    whole, outcome, finished = run(epochs=4, **kept)
    killed = training.train(model(), data, settings, FP32, given, keep=tmp_path)
    for _ in range(stopped):
        next(killed)
    killed.close()
    made = model(seed=99)  # what it draws is overwritten
    reports = list(training.train(made, data, settings, FP32, given, keep=tmp_path))
    assert facts(reports) == facts(whole[stopped - 1 :])  # the last epoch's report comes again
    assert training.conclude(made, data, reports[-1], settings, FP32, ["dev"]).best == outcome.best
    assert same_weights(made, finished)


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_the_best_average_is_kept_beside_what_is_trained(average, model, data, tmp_path):
    """Where no later epoch is better, its weights are those that a killed training ends with."""
    settings = changed(epochs=3, average=average, average_start=0.0, ema_decay=0.9)
    killed = training.train(model(), data, settings, FP32, keep=tmp_path)
    best = next(killed).best
    killed.close()
    again = next(training.train(model(seed=99), data, settings, FP32, keep=tmp_path)).best
    assert again.epoch == best.epoch == 1 and again.weights.keys() == best.weights.keys()
    assert all(torch.equal(value, again.weights[name]) for name, value in best.weights.items())


def test_divergence_is_an_error(model, data):
    with pytest.raises(DivergedError, match=r"the loss of epoch \d is .*: lower lr \(1e\+25\)\?"):
        list(training.train(model(), data, changed(lr=1e25), FP32))


def test_a_single_nan_is_an_error(model, data, teacher):
    teacher[7, 1] = float("nan")
    with pytest.raises(DivergedError, match="the loss of epoch 1 is nan"):
        list(training.train(model(), data, changed(method="kd"), FP32, teacher))


def test_divergence_in_the_last_step_is_an_error(model, data):
    """The loss is computed before the step: only what the weights give afterwards shows it."""
    with pytest.raises(DivergedError):
        list(training.train(model(), data, changed(lr=1e38, batch_size=64, epochs=1), FP32))


def test_bf16_gives_float32_logits(run):
    reports, outcome, made = run(machine=replace(FP32, precision="bf16"))
    assert {logits.dtype for logits in outcome.logits.values()} == {torch.float32}
    assert {parameter.dtype for parameter in made.parameters()} == {torch.float32}
    assert reports[-1].train_loss == pytest.approx(run()[0][-1].train_loss, rel=0.05)


def test_only_what_the_training_set_uses_is_trained(data, model):
    split = data.splits["train"]
    used = registry.used_tokens(data, ["train"])
    assert set(used.tolist()) == {split.pad_id, *split.ids.tolist()}
    every = registry.used_tokens(data, data.splits)
    assert set(every.tolist()) == {split.pad_id}.union(*(each.ids.tolist() for each in data.splits.values()))

    for decays, rows in {False: used, True: every}.items():
        small = model()
        registry.compact(small, data, decays)
        assert len(small.get_input_embeddings().weight) == len(rows)


def test_tokens_that_the_training_set_lacks_are_evaluated_with_their_rows(prepare, tiny_file, model):
    """The table is whole for an evaluation, with what is trained in it, and the trained rows go on afterwards."""
    data = prepare(train_file=tiny_file, max_train_examples=3)
    other = data.splits["dev"].ids
    lacking = other[~torch.isin(other.long(), registry.used_tokens(data, ["train"]))]
    assert len(lacking), "dev has a token of its own"
    whole, small = model(), model()
    registry.compact(small, data)
    few = small.get_input_embeddings()
    with torch.no_grad():
        few.weight.add_(0.5)
        whole.get_input_embeddings().weight[few.used] += 0.5
    for split in data.splits.values():
        assert torch.equal(training.predict(small, split, FP32), training.predict(whole, split, FP32))
    assert small.get_input_embeddings() is few


def test_precision_is_what_was_asked_for():
    assert [training.resolve_precision(wanted) for wanted in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert training.resolve_precision("auto") in ("bf16", "fp32")


# what makes two runs the same run

RESOLVED = replace(
    SETTINGS,
    task="reviews",
    model="bert-small",
    init="pretrained",
    split_seed=42,
    max_length=32,
    max_train_examples=None,
    threads=1,
    own=OWN,
)
DECISIVE = {
    "task": "films",
    "model": "minilm",
    "init": "random",
    "method": "ls",
    "seed": 1,
    "split_seed": 43,
    "lr": 1e-3,
    "batch_size": 16,
    "epochs": 3,
    "max_length": 64,
    "max_train_examples": 10,
    "weight_decay": 0.0,
    "warmup_ratio": 0.0,
}
DECISIVE_OWN = {"phase1_epochs": 2, "alpha": 0.1, "tau": 2.0, "a": 0.8}
DECISIVE_OF_THE_MACHINE = {"precision": "bf16", "compile": "on", "threads": 2, "device": "cuda"}
IDLE = dict.fromkeys(("data_root", "model_root", "cache_root", "train_file"), "/moved")
IDLE |= {"save_model": "true", "recipe": "table9", "precision": "fp32", "checkpoint_seconds": 7}


def test_every_deciding_setting_is_in_the_fingerprint(data):
    def of(settings=RESOLVED, machine=FP32, data=data, weights="w", teacher="t"):
        return training.fingerprint(settings, machine, data.digest, weights, teacher)

    found = [of(replace(RESOLVED, **{name: value})) for name, value in DECISIVE.items()]
    found += [of(replace(RESOLVED, own=OWN | {name: value})) for name, value in DECISIVE_OWN.items()]
    found += [of(machine=replace(FP32, **{name: value})) for name, value in DECISIVE_OF_THE_MACHINE.items()]
    found += [of(data=replace(data, digest="other")), of(weights="other"), of(teacher=None)]
    assert len({of(), *found}) == len(found) + 1
    assert all(len(each) == 32 and int(each, 16) for each in found)


@pytest.mark.parametrize("name", IDLE)
def test_nothing_else_is_in_the_fingerprint(name, data):
    idle = replace(RESOLVED, **{name: IDLE[name]})
    assert idle != RESOLVED
    before = training.fingerprint(RESOLVED, FP32, data.digest, "w", "t")
    assert training.fingerprint(idle, FP32, data.digest, "w", "t") == before


# the recipes that ship


SHIPPED = sorted(
    {path.stem for path in (recipes.HERE / "settings").glob("*.yaml")} - {"paper", "table13", "digits"}
)  # paper: others extend it; the others are of images
WITHOUT_AKD = ("table9", "table10", "table12")


@pytest.mark.parametrize(
    ("recipe", "method"),
    [(recipe, method) for recipe in SHIPPED for method in METHODS if method != "akd" or recipe not in WITHOUT_AKD],
)
def test_every_shipped_settings_file_trains(recipe, method, tiny_file, tiny_roots):
    """Cut to one epoch (akd: two) of a few examples, on small checkpoints under the registered names."""
    given = {"recipe": recipe, "method": method, "seed": 0, "split_seed": 42, "train_file": tiny_file}
    init = "random" if method in ("ls", "kd") else "pretrained"
    cut = {"epochs": 2 if method == "akd" else 1, "max_train_examples": 24, "init": init}
    settings = recipes.resolve(given | cut)
    data = corpus.prepare(settings, tiny_roots)
    model = registry.load(settings.model, data.classes, init, 0, tiny_roots)
    reports = list(training.train(model, data, settings, FP32, torch.zeros(24, 3)))
    assert len(reports) == settings.epochs
    assert 0 < reports[-1].train_loss < {"dist": 3 + 2 + 2, "lskd": 8}.get(method, 3)  # the teacher says nothing


ALONE = """
import sys
for name in ("mlflow", "optuna", "datasets"):
    sys.modules[name] = None  # importing it is an error
import bench.engine
from labelreg import places, recipes, training
from labelreg.settings import with_defaults
from labelreg.data import corpus
from labelreg.models import registry
from labelreg.settings import Machine
given = {"train_file": sys.argv[1], "model": "bert-small", "model_root": sys.argv[2], "epochs": 1, "max_length": 16}
settings = recipes.resolve(with_defaults("train_student", given | {"cache_root": sys.argv[3]}))
where = places.roots(settings)
data = corpus.prepare(settings, where)
model = registry.load("bert-small", data.classes, "pretrained", 42, where)
print("epoch", next(training.train(model, data, settings, Machine("fp32", "off", 1, "cpu"))).epoch)
"""


def test_the_engine_needs_neither_mlflow_nor_optuna_nor_datasets(tiny_file, tiny_models, tmp_path):
    command = [sys.executable, "-c", ALONE, str(tiny_file), str(tiny_models), str(tmp_path / "cache")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert ended.stdout == "epoch 1\n", ended.stderr
