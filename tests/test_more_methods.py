"""The losses beyond the paper's six: against their formulas in float64, written independently; and worked by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from test_methods import batch, loss_of, value_and_gradient
from torch.testing import assert_close

from labelreg.methods import METHODS, PAPER, mean_of
from labelreg.methods.degenerate import LEAST, share
from labelreg.methods.epochs import ClassMeans, LastEpoch

CLASSES = (2, 3, 7, 64)
MORE = [name for name in METHODS if name not in PAPER]


def softmax(z, tau=1.0):
    e = torch.exp((z - z.max(1, keepdim=True).values) / tau)
    return e / e.sum(1, keepdim=True)


def ce(p, y):
    return -p[torch.arange(len(y)), y].log().mean()


def kl(t, p):
    return (t * (t.log() - p.log())).sum(1).mean()


def pearson(x, y):
    """Of two vectors, by the textbook."""
    mean = lambda v: v.sum() / len(v)  # noqa: E731
    covariance = mean((x - mean(x)) * (y - mean(y)))
    return covariance / (mean((x - mean(x)) ** 2).sqrt() * mean((y - mean(y)) ** 2).sqrt())


def without(p, y):
    """The entries of the other classes [batch, classes - 1]."""
    return torch.stack([torch.cat([row[:k], row[k + 1 :]]) for row, k in zip(p, y.tolist(), strict=True)])


def dkd_in_float64(z, y, t, tau=4.0, alpha=1.0, beta=8.0, weight=1.0):
    p, q = softmax(z, tau), softmax(t, tau)
    true_p, true_q = p[torch.arange(len(y)), y], q[torch.arange(len(y)), y]
    tckd = (true_q * (true_q / true_p).log() + (1 - true_q) * ((1 - true_q) / (1 - true_p)).log()).mean()
    rest_p, rest_q = without(p, y), without(q, y)
    nckd = kl(rest_q / rest_q.sum(1, keepdim=True), rest_p / rest_p.sum(1, keepdim=True))
    return ce(softmax(z), y) + weight * tau**2 * (alpha * tckd + beta * nckd)


def dist_in_float64(z, y, t, tau=1.0, beta=2.0, gamma=2.0):
    p, q = softmax(z, tau), softmax(t, tau)
    rows = sum(pearson(a, b) for a, b in zip(p, q, strict=True)) / len(p)
    columns = sum(pearson(a, b) for a, b in zip(p.T, q.T, strict=True)) / len(p.T)
    return ce(softmax(z), y) + beta * (1 - rows) + gamma * (1 - columns)


def lskd_in_float64(z, y, t, tau=2.0, hard=0.1, soft=9.0, unbiased=False):
    z_, t_ = ((v - v.mean(1, keepdim=True)) / v.std(1, unbiased=unbiased, keepdim=True) for v in (z, t))
    return hard * ce(softmax(z), y) + soft * tau**2 * kl(softmax(t_, tau), softmax(z_, tau))


def smoothed_by(z, y, r, alpha):
    q = (1 - alpha) * F.one_hot(y, z.shape[1]) + alpha * r
    return -(q * softmax(z).log()).sum(1).mean()


ORACLES = {  # name -> (given, the loss in float64 of logits, labels, teacher)
    "nls": ({"nls_alpha": -0.4}, lambda z, y, t: smoothed_by(z, y, torch.ones_like(z) / z.shape[1], -0.4)),
    "cp": (
        {"cp_weight": 0.3},
        lambda z, y, t: ce(softmax(z), y) + 0.3 * (softmax(z) * softmax(z).log()).sum(1).mean(),
    ),
    "maxsup": ({}, lambda z, y, t: ce(softmax(z), y) + 0.1 * (z.max(1).values - z.mean(1)).mean()),
    "mbls": (
        {"mbls_margin": 1.5},
        lambda z, y, t: ce(softmax(z), y) + 0.1 * (z.max(1, keepdim=True).values - z - 1.5).clamp(min=0).mean(),
    ),
    "focal": (
        {"focal_gamma": 3},
        lambda z, y, t: -((1 - (p := softmax(z)[torch.arange(len(y)), y])) ** 3 * p.log()).mean(),
    ),
    "ols": ({}, lambda z, y, t: (ce(softmax(z), y) - (softmax(t) * softmax(z).log()).sum(1).mean()) / 2),
    "pskd": ({"epoch": 3}, lambda z, y, t: smoothed_by(z, y, softmax(t), 0.8 * 3 / 4)),
    "rdrop": (
        {"rdrop_alpha": 0.7},
        lambda z, y, t: (
            (ce(softmax(z), y) + ce(softmax(t), y)) / 2
            + 0.7 * (kl(softmax(z), softmax(t)) + kl(softmax(t), softmax(z))) / 2
        ),
    ),
    "dkd": ({"dkd_warmup": 0}, dkd_in_float64),
    "dist": ({}, dist_in_float64),
    "lskd": ({}, lskd_in_float64),
}


def given_to(name, labels, teacher):
    """What the loss gets in the teacher's place: OLS gets probabilities, which are its state's."""
    return F.softmax(teacher, dim=1) if name == "ols" else teacher


def test_every_method_has_an_oracle():
    assert set(ORACLES) == set(MORE)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("name", ORACLES)
def test_against_its_formula_in_float64(name, classes):
    own, oracle = ORACLES[name]
    own = dict(own)
    student, labels, teacher = batch(classes, examples=13)
    loss = loss_of(name, own.pop("epoch", 1), tau=METHODS[name].defaults.get("tau", 1.0), **own)
    found = value_and_gradient(lambda x: loss(x, labels, given_to(name, labels, teacher)), student)
    exact = value_and_gradient(lambda x: oracle(x, labels, teacher.double()), student.double())
    assert_close([each.double() for each in found], list(exact), atol=2e-6, rtol=2e-4)


WEIGHTLESS = {  # what makes each finetune
    "nls": {"nls_alpha": 0.0},
    "cp": {"cp_weight": 0.0},
    "maxsup": {"maxsup_weight": 0.0},
    "mbls": {"mbls_weight": 0.0},
    "focal": {"focal_gamma": 0.0},
    "ols": {"alpha": 0.0},
    "pskd": {"alpha": 0.0},
    "rdrop": {"rdrop_alpha": 0.0},
    "dkd": {"dkd_alpha": 0.0, "dkd_beta": 0.0, "dkd_warmup": 0},
    "dist": {"dist_beta": 0.0, "dist_gamma": 0.0},
    "lskd": {"ce_weight": 1.0, "kd_weight": 0.0},
}


@pytest.mark.parametrize("name", WEIGHTLESS)
def test_without_its_weight_it_is_finetune_bit_for_bit(name):
    student, labels, teacher = batch(5)
    second = None if name == "rdrop" else given_to(name, labels, teacher)  # one pass is taken
    loss = loss_of(name, 2, tau=4.0, **WEIGHTLESS[name])
    value, gradient = value_and_gradient(lambda x: loss(x, labels, second), student)
    plain, plain_gradient = value_and_gradient(lambda x: loss_of("finetune")(x, labels, None), student)
    assert value.item() == plain.item()
    assert torch.equal(gradient, plain_gradient)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("classes", [2, 3, 1000])
@pytest.mark.parametrize("name", [*MORE, "kd", "tfreg", "selfkd"])
def test_finite_at_any_logits(name, classes, size, kind):
    """Of any size and precision, all equal ones included."""
    chance = torch.Generator().manual_seed(classes)
    student, teacher = (size * (2 * torch.rand(9, classes, generator=chance) - 1).sign().to(kind) for _ in range(2))
    labels = torch.randint(classes, (9,), generator=chance)
    own = {"dkd_warmup": 0, "alpha": 0.5, "a": 0.9} | ({"focal_gamma": 0.5} if name == "focal" else {})
    loss = loss_of(name, 2, **own)
    value, gradient = value_and_gradient(lambda x: loss(x, labels, given_to(name, labels, teacher.float())), student)
    assert torch.isfinite(value) and torch.isfinite(gradient.float()).all()
    assert value.dtype == torch.float32


# By hand: K = 3, label 0, logits (ln 2, 0, 0), so p = (1/2, 1/4, 1/4); teacher (ln 4, ln 2, 0): t = (4, 2, 1)/7

Z, T, Y = torch.tensor([[math.log(2), 0.0, 0.0]]), torch.tensor([[math.log(4), math.log(2), 0.0]]), torch.tensor([0])
LN2 = math.log(2)
SYMMETRIC = (4 / 7 - 1 / 2) * math.log(8 / 7) + (2 / 7 - 1 / 4) * math.log(8 / 7) + (1 / 7 - 1 / 4) * math.log(4 / 7)
BY_HAND = {
    "nls": ({"nls_alpha": -0.3}, 1.3 * LN2 - 0.3 * (LN2 + 2 * 2 * LN2) / 3),
    "cp": ({"cp_weight": 0.1}, LN2 - 0.1 * 1.5 * LN2),  # H(p) = (1/2) ln 2 + 2 (1/4) ln 4
    "maxsup": ({}, LN2 + 0.1 * (LN2 - LN2 / 3)),
    "mbls": ({"mbls_margin": 0.5}, LN2 + 0.1 * 2 * (LN2 - 0.5) / 3),
    "focal": ({}, LN2 / 4),
    "ols": ({}, (LN2 + (4 * LN2 + 3 * 2 * LN2) / 7) / 2),
    "pskd": ({"epoch": 2}, 0.6 * LN2 + 0.4 * (4 * LN2 + 3 * 2 * LN2) / 7),  # alpha_e = 0.8 * 2/4
    "rdrop": ({"rdrop_alpha": 1}, (LN2 - math.log(4 / 7)) / 2 + SYMMETRIC / 2),
    # tau = 1: TCKD of (4/7, 3/7) from (1/2, 1/2), NCKD of (2/3, 1/3) from (1/2, 1/2)
    "dkd": (
        {"tau": 1, "dkd_warmup": 2, "dkd_beta": 2},
        LN2
        + (4 / 7 * math.log(8 / 7) + 3 / 7 * math.log(6 / 7) + 2 * (2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)))
        / 2,
    ),
    # rows (2, -1, -1)/12 and (5, -1, -4)/21: 15 / (sqrt 6 sqrt 42); a column of one example is constant: 0
    "dist": ({"tau": 1}, LN2 + 2 * (1 - 15 / math.sqrt(6 * 42)) + 2),
    # tau = sqrt(3/2): standardised (2, -1, -1)/sqrt 2 and (1, 0, -1) sqrt(3/2); over tau (2, -1, -1)/sqrt 3, (1, 0, -1)
    "lskd": ({"tau": math.sqrt(1.5), "kd_weight": 1}, None),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_worked_by_hand(name):
    own, expected = dict(BY_HAND[name][0]), BY_HAND[name][1]
    if name == "lskd":
        a, b = 2 / math.sqrt(3), -1 / math.sqrt(3)
        log_p = [a - math.log(math.exp(a) + 2 * math.exp(b)), *[b - math.log(math.exp(a) + 2 * math.exp(b))] * 2]
        whole = math.e + 1 + 1 / math.e
        t = [math.e / whole, 1 / whole, 1 / math.e / whole]
        expected = 0.1 * LN2 + 1.5 * sum(r * (math.log(r) - log) for r, log in zip(t, log_p, strict=True))
    found = loss_of(name, own.pop("epoch", 1), **own)(Z, Y, given_to(name, Y, T))
    assert found.item() == pytest.approx(expected, rel=1e-5)


# Properties, and what the published codes do otherwise


def test_the_published_options():
    student, labels, teacher = batch(7)
    z, t = student.double(), teacher.double()
    rising = loss_of("maxsup", 3, maxsup_end=0.2)(student, labels, None)  # epoch 3 of 4: 0.1 + 0.1 * 2/4
    expected = ce(softmax(z), labels) + 0.15 * (z.max(1).values - z.mean(1)).mean()
    assert rising.item() == pytest.approx(expected.item(), rel=1e-5)
    mean, summed = (loss_of("mbls", mbls_margin=1, mbls_over=over)(student, labels, None) for over in ("mean", "sum"))
    plain = F.cross_entropy(student, labels)
    assert (summed - plain).item() == pytest.approx(7 * (mean - plain).item(), rel=1e-4)
    sample = loss_of("lskd", tau=2.0, lskd_std="sample")(student, labels, teacher)
    assert sample.item() == pytest.approx(lskd_in_float64(z, labels, t, unbiased=True).item(), rel=1e-5)
    warming = loss_of("dkd", 2, tau=4.0, dkd_warmup=20)(student, labels, teacher)
    assert warming.item() == pytest.approx(dkd_in_float64(z, labels, t, weight=0.1).item(), rel=1e-5)


def test_dkds_warm_up_is_its_share_of_the_epochs():
    complete = METHODS["dkd"].complete
    assert [complete({}, epochs)["dkd_warmup"] for epochs in (3, 24, 240)] == [0, 2, 20]
    assert [complete({"dkd_warmup": given}, 24)["dkd_warmup"] for given in (20, 0)] == [20, 0]


def test_kd_that_weighs_tckd_by_what_is_left_is_kd():
    """Zhao et al. 2022, equation 7: KD = TCKD + (1 - t_y) NCKD; of one example, DKD with these weights is KD."""
    student, labels, teacher = batch(5, examples=1)
    missing = 1 - F.softmax(teacher, dim=1)[0, labels].item()
    decoupled = loss_of("dkd", tau=1.0, dkd_alpha=1.0, dkd_beta=missing, dkd_warmup=0)(student, labels, teacher)
    whole = F.cross_entropy(student, labels) + kl(softmax(teacher.double()), softmax(student.double()))
    assert decoupled.item() == pytest.approx(whole.item(), rel=1e-5)


@given(scale=st.floats(0.1, 20), shift=st.floats(-5, 5))
def test_what_a_scale_and_a_shift_of_the_teacher_change(scale, shift):
    """Standardised logits know neither; DIST's rows know neither of probabilities."""
    student, labels, teacher = batch(6)
    one, two = (loss_of("lskd", tau=2.0)(student, labels, each) for each in (teacher, scale * teacher + shift))
    assert one.item() == pytest.approx(two.item(), rel=1e-3)


@pytest.mark.parametrize("name", ["dkd", "dist", "lskd", "rdrop"])
def test_a_student_that_equals_its_teacher_has_cross_entropy_left(name):
    student, labels, _ = batch(5)
    student = student.requires_grad_()
    loss = loss_of(name, tau=2.0, ce_weight=1.0, dkd_warmup=0)(student, labels, student.detach())
    (gradient,) = torch.autograd.grad(loss, student)
    plain = torch.autograd.grad(F.cross_entropy(student, labels), student)[0]
    assert_close(gradient, plain / (2 if name == "rdrop" else 1), atol=2e-5, rtol=1e-3)


# Several teachers


def test_several_teachers_are_the_mean_of_what_they_say():
    _, _, one = batch(4, seed=1)
    _, _, two = batch(4, seed=2)
    for tau in (1.0, 3.0):
        mean = mean_of([one, two], {"tau": tau, "teachers_mean": "probabilities"})
        assert_close(F.softmax(mean / tau, 1), (F.softmax(one / tau, 1) + F.softmax(two / tau, 1)) / 2)
    assert_close(mean_of([one, two], {"tau": 3.0, "teachers_mean": "logits"}), (one + two) / 2)
    assert mean_of([one], {"tau": 3.0}) is one


# What is kept from epoch to epoch


def test_ols_keeps_the_mean_of_what_was_right():
    memory, y = ClassMeans(3, None), torch.tensor([0, 0, 1, 2])
    assert_close(memory.rows(y, y), torch.full((4, 3), 1 / 3))
    z = torch.tensor([[2.0, 0, 0], [1.0, 0, 0], [0, 0, 3.0], [0, 0, 1.0]])  # the third is wrong
    memory.see(y, y, z)
    memory.turn(lambda: z)
    p = F.softmax(z, dim=1)
    assert_close(memory.state["soft"], torch.stack([(p[0] + p[1]) / 2, torch.full((3,), 1 / 3), p[3]]))
    memory.turn(lambda: z)  # an epoch in which nothing was right
    assert_close(memory.state["soft"], torch.full((3, 3), 1 / 3))


def test_ols_freezes_a_row_that_is_sure():
    memory, y = ClassMeans(2, 0.88), torch.tensor([0, 1])
    memory.see(y, y, torch.tensor([[3.0, 0], [0, 1.0]]))
    memory.turn(lambda: y)
    sure = memory.state["soft"][0].clone()
    assert sure.max() > 0.88 > memory.state["soft"][1].max()
    memory.see(y, y, torch.tensor([[1.0, 0], [0, 2.0]]))
    memory.turn(lambda: y)
    assert torch.equal(memory.state["soft"][0], sure)
    assert_close(memory.state["soft"][1], F.softmax(torch.tensor([0, 2.0]), dim=0))


@pytest.mark.parametrize("training", [True, False])
def test_pskd_keeps_the_last_epochs_predictions(training):
    memory, z = LastEpoch(training), torch.arange(8.0).view(4, 2)
    index = torch.tensor([2, 0])
    assert memory.rows(index, index) is None
    memory.see(index, index, z[index])
    memory.see(torch.tensor([1, 3]), index, z[[1, 3]])
    memory.turn(lambda: -z)
    assert memory.passes == (0 if training else 1)
    assert torch.equal(memory.rows(index, index), (z if training else -z)[index])


# A method that can do nothing


@pytest.mark.parametrize("name", MORE)
def test_the_gate_is_where_the_gradient_is(name):
    """The gradient's norm of what makes a method: nothing at K = 2, and far above the gate from K = 3 on."""
    method = METHODS[name]
    own = {key: each.default for key, each in method.parameters.items()}
    shares = {classes: share(method, own, classes) for classes in (2, 3, 5, 64)}
    assert all(found > 50 * LEAST for classes, found in shares.items() if classes > 2), shares
    if name in ("dkd", "dist", "lskd"):
        assert shares[2] < LEAST / 50
    else:
        assert method.core is None
