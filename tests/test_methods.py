"""The mathematics against torch, scipy in float64, closed forms, and one KD loss worked on paper."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax
from torch.testing import assert_close

from labelreg.methods import METHODS, own_parameters
from labelreg.methods.paper import annealing_factor, peaked, peaked_as_published, smoothed_loss, uniform
from labelreg.settings import Settings, of

CLASSES = (2, 3, 7, 64)
SMOOTHING = ("ls", "tfreg", "selfkd", "kd")
OF_EPOCHS = {"maxsup": {"epochs": 4}, "pskd": {"epochs": 4}}  # what follows from the epochs
TEMPERED = [(name, tau) for name in SMOOTHING for tau in (1.0, 4.0) if tau == 1 or "tau" in METHODS[name].parameters]


def batch(classes, examples=11, seed=0):
    """Student logits, labels and teacher logits."""
    chance = torch.Generator().manual_seed(seed)
    student = 3 * torch.randn(examples, classes, generator=chance)
    labels = torch.randint(classes, (examples,), generator=chance)
    return student, labels, 3 * torch.randn(examples, classes, generator=chance)


def value_and_gradient(loss, logits):
    logits = logits.clone().requires_grad_()
    value = loss(logits)
    value.backward()
    return value.detach(), logits.grad


def smoothed(method, classes, labels, teacher, a=0.9):
    """log r of a method [batch, classes]."""
    if method in ("kd", "selfkd"):
        return F.log_softmax(teacher, dim=1)
    return uniform(labels, classes) if method == "ls" else peaked(labels, classes, a)


def loss_of(method, epoch=1, **given):
    """The loss of a method in an epoch, (logits, labels, teacher): with those of the parameters that it has."""
    known = METHODS[method].parameters
    given = {name: each.default for name, each in known.items()} | METHODS[method].defaults | {"tau": 1.0} | given
    loss = METHODS[method].loss_of({name: given[name] for name in known} | OF_EPOCHS.get(method, {}))
    return lambda logits, labels, teacher: loss(logits, labels, teacher, epoch)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 1.0])
def test_ls_is_torchs_label_smoothing(classes, alpha):
    student, labels, _ = batch(classes)
    own = value_and_gradient(lambda x: loss_of("ls", alpha=alpha)(x, labels, None), student)
    torchs = value_and_gradient(lambda x: F.cross_entropy(x, labels, label_smoothing=alpha), student)
    assert_close(own, torchs)


@pytest.mark.parametrize("classes", CLASSES)
def test_finetune_is_cross_entropy(classes):
    student, labels, _ = batch(classes)
    own = value_and_gradient(lambda x: loss_of("finetune")(x, labels, None), student)
    assert_close(own, value_and_gradient(lambda x: F.cross_entropy(x, labels), student))


@pytest.mark.parametrize("classes", CLASSES)
def test_tfreg_that_prefers_no_class_is_ls(classes):
    student, labels, _ = batch(classes)
    tfreg = value_and_gradient(lambda x: loss_of("tfreg", alpha=0.3, a=1 / classes)(x, labels, None), student)
    ls = value_and_gradient(lambda x: loss_of("ls", alpha=0.3)(x, labels, None), student)
    assert_close(tfreg, ls)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("a", [0.05, 0.5, 0.95, 0.999])
def test_tfreg_closed_form(classes, a):
    """q' is 1 - alpha (1 - a) on the true class, alpha (1 - a)/(K - 1) elsewhere (equations 4 and 5)."""
    student, labels, _ = batch(classes)
    log_p, alpha = log_softmax(student.double().numpy(), axis=1), 0.4
    true = log_p[np.arange(len(labels)), labels]
    others = log_p.sum(axis=1) - true
    expected = -((1 - alpha * (1 - a)) * true + alpha * (1 - a) / (classes - 1) * others).mean()
    assert loss_of("tfreg", alpha=alpha, a=a)(student, labels, None).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tau", [0.5, 2.0, 20.0])
@pytest.mark.parametrize("a", [0.3, 0.95])
def test_tfreg_closed_form_at_a_temperature(a, tau):
    """r_tau is a^(1/tau) on the true class, ((1 - a)/(K - 1))^(1/tau) elsewhere, normalised."""
    classes, alpha = 5, 0.7
    student, labels, _ = batch(classes)
    r = np.full((len(labels), classes), ((1 - a) / (classes - 1)) ** (1 / tau))
    r[np.arange(len(labels)), labels] = a ** (1 / tau)
    r /= r.sum(axis=1, keepdims=True)
    assert loss_of("tfreg", alpha=alpha, tau=tau, a=a)(student, labels, None).item() == pytest.approx(
        equation_1(student, labels, r, alpha, tau), rel=1e-5
    )


@pytest.mark.parametrize("classes", [3, 100])
@pytest.mark.parametrize("tau", [1.0, 20.0])
def test_tfreg_as_published_against_float64(classes, tau):
    """(1 - alpha) CE + alpha KL(softmax(p^d / tau), p): value (but for the entropy of the target) and gradient."""
    student, labels, _ = batch(classes)
    a, alpha, exact = 0.99, 0.1, student.double().numpy()
    p_d = np.full((len(labels), classes), (1 - a) / (classes - 1))
    p_d[np.arange(len(labels)), labels] = a
    target, p = softmax(p_d / tau, axis=1), softmax(exact, axis=1)
    hard = -log_softmax(exact, axis=1)[np.arange(len(labels)), labels]
    published = ((1 - alpha) * hard + alpha * rel_entr(target, p).sum(axis=1)).mean()
    entropy = -(target * np.log(target)).sum(axis=1).mean()
    loss = loss_of("tfreg", alpha=alpha, tau=tau, a=a, tfreg_target="code")
    value, gradient = value_and_gradient(lambda x: loss(x, labels, None), student)
    assert value.item() == pytest.approx(published + alpha * entropy, rel=1e-5)
    by_hand = (1 - alpha) * (p - np.eye(classes)[labels]) + alpha * (p - target)
    assert_close(gradient.double(), torch.from_numpy(by_hand) / len(labels), atol=1e-7, rtol=1e-4)


def test_the_two_readings_of_tfreg_differ_as_the_docstring_says():
    labels, kept = torch.tensor([4]), dict(classes=100, a=0.99)
    published = peaked_as_published(labels, 20, **kept).exp()[0]
    paper = F.softmax(peaked(labels, **kept) / 20, dim=1)[0]
    assert published[[4, 0]].tolist() == pytest.approx([0.0105, 0.00999], rel=1e-3)
    assert paper[[4, 0]].tolist() == pytest.approx([0.0157, 0.0099], rel=1e-2)


def test_ls_of_yuan_et_al_is_equation_3_at_another_alpha():
    """alpha/(K - 1) on the false classes: equation 3 with alpha K/(K - 1)."""
    student, labels, _ = batch(7)
    target = torch.full((len(labels), 7), 0.1 / 6).scatter(1, labels[:, None], 0.9)
    own = loss_of("ls", alpha=0.1 * 7 / 6)(student, labels, None)
    assert own.item() == pytest.approx(F.cross_entropy(student, target).item(), rel=1e-6)


def equation_1(student, labels, r_tau, alpha, tau):
    """(1 - alpha) H(q, p) + alpha D_KL(r_tau, p_tau) in float64, a mean over the batch."""
    student = student.double().numpy()
    hard = -log_softmax(student, axis=1)[np.arange(len(labels)), labels]
    return ((1 - alpha) * hard + alpha * rel_entr(r_tau, softmax(student / tau, axis=1)).sum(axis=1)).mean()


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("method", SMOOTHING)
def test_at_tau_1_both_lines_of_the_core_idea_have_one_gradient(method, classes):
    student, labels, teacher = batch(classes)
    r = smoothed(method, classes, labels, teacher).exp()

    def two_terms(logits):
        kl = (r * (r.log() - F.log_softmax(logits, dim=1))).sum(dim=1).mean()
        return 0.4 * F.cross_entropy(logits, labels) + 0.6 * kl

    loss = loss_of(method, alpha=0.6, a=0.9)
    _, own = value_and_gradient(lambda x: loss(x, labels, teacher), student)
    _, independent = value_and_gradient(two_terms, student)
    assert_close(own, independent)


@pytest.mark.parametrize("method", SMOOTHING)
def test_the_two_branches_meet_at_tau_1(method):
    student, labels, teacher = batch(4)
    r = smoothed(method, 4, labels, teacher)
    at, near = (value_and_gradient(lambda x, t=t: smoothed_loss(x, labels, r, 0.6, t), student) for t in (1.0, 1.00001))
    assert_close(at[1], near[1], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("tau", [0.5, 2.0, 10.0])
@pytest.mark.parametrize("method", ["kd", "selfkd"])
def test_kd_at_a_temperature_against_float64(method, tau, classes):
    student, labels, teacher = batch(classes)
    r_tau = softmax(teacher.double().numpy() / tau, axis=1)
    loss = loss_of(method, alpha=0.7, tau=tau)
    value, gradient = value_and_gradient(lambda x: loss(x, labels, teacher), student)
    assert value.item() == pytest.approx(equation_1(student, labels, r_tau, 0.7, tau), rel=1e-5)
    one_hot, p = np.eye(classes)[labels], student.double().numpy()
    by_hand = 0.3 * (softmax(p, axis=1) - one_hot) + 0.7 / tau * (softmax(p / tau, axis=1) - r_tau)
    assert_close(gradient.double(), torch.from_numpy(by_hand) / len(labels), atol=1e-7, rtol=1e-4)


def test_kd_on_paper():
    """Student logits (0, ln 3): p = (1/4, 3/4). Teacher logits (ln 4, 0): r = (4/5, 1/5). Label 0, alpha 1/2."""
    student, teacher, labels = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[math.log(4), 0.0]]), torch.tensor([0])
    at_1 = loss_of("kd", alpha=0.5)(student, labels, teacher)
    assert at_1.item() == pytest.approx(0.9 * math.log(4) + 0.1 * math.log(4 / 3))  # q' = (9/10, 1/10)
    # tau = 2 halves the logits: p_tau = (1, sqrt 3)/(1 + sqrt 3), r_tau = (2/3, 1/3)
    root = math.sqrt(3)
    kl = 2 / 3 * math.log(2 / 3 * (1 + root)) + 1 / 3 * math.log((1 + root) / (3 * root))
    at_2 = loss_of("kd", alpha=0.5, tau=2.0)(student, labels, teacher)
    assert at_2.item() == pytest.approx(0.5 * math.log(4) + 0.5 * kl)


@pytest.mark.parametrize(("method", "tau"), TEMPERED)
def test_alpha_0_is_finetune_bit_for_bit(method, tau):
    student, labels, teacher = batch(5)
    loss = loss_of(method, alpha=0.0, tau=tau, a=0.9)
    value, gradient = value_and_gradient(lambda x: loss(x, labels, teacher), student)
    plain, plain_gradient = value_and_gradient(lambda x: loss_of("finetune")(x, labels, None), student)
    assert value.item() == plain.item()
    assert torch.equal(gradient, plain_gradient)


@pytest.mark.parametrize(("method", "tau"), TEMPERED)
def test_alpha_1_asks_for_r_and_nothing_else(method, tau):
    student, labels, teacher = batch(5)
    r_tau = F.softmax(smoothed(method, 5, labels, teacher) / tau, dim=1)
    loss = loss_of(method, alpha=1.0, tau=tau, a=0.9)
    _, gradient = value_and_gradient(lambda x: loss(x, labels, teacher), student)
    assert_close(gradient, (F.softmax(student / tau, dim=1) - r_tau) / tau / len(labels))


def test_a_student_that_equals_its_teacher_has_nothing_to_learn_from_it():
    student, labels, _ = batch(5)
    loss = loss_of("kd", alpha=1.0, tau=3.0)
    value, gradient = value_and_gradient(lambda x: loss(x, labels, student), student)
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert_close(gradient, torch.zeros_like(gradient), atol=1e-7, rtol=0)


@given(
    classes=st.integers(2, 64),
    alpha=st.floats(0, 1),
    a=st.floats(0.01, 0.99),
    method=st.sampled_from(SMOOTHING),
    seed=st.integers(0, 99),
)
def test_targets_are_distributions(classes, alpha, a, method, seed):
    _, labels, teacher = batch(classes, seed=seed)
    r = smoothed(method, classes, labels, teacher, a).exp()
    target = (1 - alpha) * F.one_hot(labels, classes) + alpha * r
    assert (target >= 0).all()
    assert_close(target.sum(dim=1), torch.ones(len(labels)), atol=1e-5, rtol=0)


def test_the_example_of_the_docstring():
    assert_close(smoothed("tfreg", 3, torch.tensor([1]), None).exp(), torch.tensor([[0.05, 0.9, 0.05]]))


def test_half_precision_logits_are_computed_in_float32():
    student, labels, teacher = batch(5)
    loss = loss_of("kd", alpha=0.5, tau=2.0)
    assert torch.equal(loss(student.bfloat16(), labels, teacher), loss(student.bfloat16().float(), labels, teacher))


@pytest.mark.parametrize(
    ("epoch", "epochs", "tau_max", "expected"),
    [(1, 20, 10, 0.1), (20, 20, 10, 1.0), (1, 1, 10, 1.0), (2, 3, 10, 0.55), (1, 2, 4, 0.25), (2, 2, 4, 1.0)],
)
def test_annealing_factor(epoch, epochs, tau_max, expected):
    assert annealing_factor(epoch, epochs, tau_max) == pytest.approx(expected)


@given(epochs=st.integers(2, 40), tau_max=st.floats(1, 50))
def test_annealing_factor_rises_in_equal_steps_to_1(epochs, tau_max):
    factors = [annealing_factor(epoch, epochs, tau_max) for epoch in range(1, epochs + 1)]
    assert (factors[0], factors[-1]) == pytest.approx((1 / tau_max, 1))
    assert np.diff(factors) == pytest.approx((1 - 1 / tau_max) / (epochs - 1), abs=1e-9)


def test_akd_regresses_on_scaled_logits_then_fine_tunes():
    student, labels, teacher = batch(3)
    first = loss_of("akd", 1, tau=10, phase1_epochs=2)(student, labels, teacher)
    assert first.item() == pytest.approx(((student - 0.1 * teacher) ** 2).mean().item())
    second = loss_of("akd", 2, tau=10, phase1_epochs=2)(student, labels, teacher)
    assert second.item() == pytest.approx(((student - teacher) ** 2).mean().item())
    third = value_and_gradient(lambda x: loss_of("akd", 3, tau=10, phase1_epochs=2)(x, labels, teacher), student)
    assert_close(third, value_and_gradient(lambda x: F.cross_entropy(x, labels), student))


def test_phases():
    assert METHODS["akd"].phases(30, {"phase1_epochs": 20}) == (20, 10)
    assert {method.phases(30, {}) for name, method in METHODS.items() if name != "akd"} == {(30,)}


def test_a_name_is_one_parameter_whichever_method_has_it():
    """`own_parameters` and a command line know a parameter by its name alone."""
    for method in METHODS.values():
        for name, parameter in method.parameters.items():
            assert own_parameters()[name] is parameter
            assert name not in of(Settings), "that of every run would be hidden"
