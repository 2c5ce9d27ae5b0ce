"""The conversions of docs/methods.md: each convention as its own code has it, against this project's at the converted
parameters, in value and gradient."""

import pytest
import torch
import torch.nn.functional as F
from test_methods import batch, loss_of, value_and_gradient
from torch import nn
from torch.testing import assert_close
from transformers.trainer_pt_utils import LabelSmoother

from bench import dialects

CLASSES = dialects.CLASSES


def alike(theirs, ours, factor, student, constant=0.0):
    """(value, gradient) of `theirs` are those of `factor` times `ours` (plus a constant of the value)."""
    value, gradient = value_and_gradient(theirs, student.double())
    own_value, own_gradient = value_and_gradient(ours, student)
    assert_close(value.double(), factor * own_value.double() + constant, atol=1e-6, rtol=2e-5)
    assert_close(gradient.double(), factor * own_gradient.double(), atol=1e-7, rtol=2e-4)


def at_1(here, teacher, tau):
    """At tau = 1 this project's loss is the cross-entropy of the smoothed label: alpha H(t) more than with the KL."""
    log_t = F.log_softmax(teacher.double(), 1)
    return here.factor * here.alpha * (log_t.exp() * log_t).sum(1).mean() if tau == 1 else 0.0


@pytest.mark.parametrize("tau", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("alpha", [0.1, 0.9])
@pytest.mark.parametrize("classes", CLASSES)
def test_hintons_kd(classes, alpha, tau):
    student, labels, teacher = batch(classes)

    def hinton(z):
        soft = -(F.softmax(teacher / tau, 1) * F.log_softmax(z / tau, 1)).sum(1).mean()
        entropy = -(F.softmax(teacher / tau, 1) * F.log_softmax(teacher / tau, 1)).sum(1).mean()
        return (1 - alpha) * F.cross_entropy(z, labels) + alpha * tau**2 * (soft - entropy)

    here = dialects.kd_of_hinton(alpha, tau)
    ours, option = loss_of("kd", alpha=here.alpha, tau=tau), loss_of("kd", alpha=alpha, tau=tau, tau_squared=True)
    alike(hinton, lambda z: ours(z, labels, teacher), here.factor, student, at_1(here, teacher, tau))
    alike(hinton, lambda z: option(z, labels, teacher), 1, student, at_1(dialects.Here(alpha, 1), teacher, tau))


@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("classes", CLASSES)
def test_torchdistills_kd(classes, alpha, tau):
    student, labels, teacher = batch(classes)

    def kd_loss(z):  # torchdistill.losses.mid_level.KDLoss with reduction="batchmean"
        soft = nn.KLDivLoss(reduction="batchmean")(torch.log_softmax(z / tau, 1), torch.softmax(teacher / tau, 1))
        if alpha == 0:
            return soft
        return alpha * nn.CrossEntropyLoss()(z, labels) + (1 - alpha) * tau**2 * soft

    here = dialects.kd_of_torchdistill(alpha, tau)
    ours = loss_of("kd", alpha=here.alpha, tau=tau)
    alike(kd_loss, lambda z: ours(z, labels, teacher), here.factor, student, at_1(here, teacher, tau))


@pytest.mark.parametrize("tau", [2.0, 8.0])
@pytest.mark.parametrize("weights", [(1, 1), (0.7, 0.3), (9, 0.1)])
@pytest.mark.parametrize("classes", CLASSES)
def test_textbrewers_kd(classes, weights, tau):
    """Its kd_ce_loss is a cross-entropy at the temperature, so its value has the teacher's entropy on top."""

    def kd_ce_loss(z, teacher, tau):
        return -(F.softmax(teacher / tau, -1) * F.log_softmax(z / tau, -1)).sum(-1).mean()

    student, labels, teacher = batch(classes)
    soft, hard = weights
    here = dialects.kd_of_textbrewer(soft, hard)
    log_t = F.log_softmax(teacher.double() / tau, 1)
    alike(
        lambda z: soft * kd_ce_loss(z, teacher, tau) + hard * F.cross_entropy(z, labels),
        lambda z: loss_of("kd", alpha=here.alpha, tau=tau)(z, labels, teacher),
        here.factor,
        student,
        constant=soft * -(log_t.exp() * log_t).sum(1).mean(),
    )


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("tau", [2.0, 20.0])
@pytest.mark.parametrize("classes", CLASSES)
def test_yuan_et_als_kd(classes, tau, alpha=0.95):
    student, labels, teacher = batch(classes)

    def loss_kd(z):  # my_loss_function.py: KLDivLoss() is the mean over examples and classes
        kl = nn.KLDivLoss()(F.log_softmax(z / tau, dim=1), F.softmax(teacher / tau, dim=1)) * (tau * tau)
        return (1.0 - alpha) * F.cross_entropy(z, labels) + alpha * kl

    here = dialects.kd_of_yuan(alpha, tau, classes)
    alike(loss_kd, lambda z: loss_of("kd", alpha=here.alpha, tau=tau)(z, labels, teacher), here.factor, student)
    option = loss_of("kd", alpha=alpha, tau=tau, tau_squared=True, kl_mean=True)
    alike(loss_kd, lambda z: option(z, labels, teacher), 1, student)


@pytest.mark.parametrize("factor", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("classes", CLASSES)
def test_the_trainers_label_smoothing(classes, factor):
    """The library's own LabelSmoother."""
    student, labels, _ = batch(classes)
    here = loss_of("ls", alpha=dialects.ls_of_trainer(factor))
    alike(lambda z: LabelSmoother(factor)({"logits": z}, labels), lambda z: here(z, labels, None), 1, student)


@pytest.mark.parametrize("alpha", [0.1, 0.3])
@pytest.mark.parametrize("classes", CLASSES)
def test_yuan_et_als_label_smoothing(classes, alpha):
    student, labels, _ = batch(classes)

    def loss_label_smoothing(z):
        smoothed = torch.full(z.shape, alpha / (classes - 1)).scatter(1, labels[:, None], 1 - alpha)
        return -(F.log_softmax(z, dim=1) * smoothed).sum() / len(z)

    here = loss_of("ls", alpha=dialects.ls_of_yuan(alpha, classes))
    alike(loss_label_smoothing, lambda z: here(z, labels, None), 1, student)


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("multiplier", [1, 10, 100])
@pytest.mark.parametrize("tau", [6.0, 20.0])
@pytest.mark.parametrize("classes", CLASSES)
def test_yuan_et_als_tfreg(classes, tau, multiplier, alpha=0.1, a=0.99):
    student, labels, _ = batch(classes)
    target = torch.full((len(labels), classes), (1 - a) / (classes - 1)).scatter(1, labels[:, None], a)

    def loss_kd_regularization(z):
        soft = nn.KLDivLoss()(F.log_softmax(z, dim=1), F.softmax(target / tau, dim=1)) * multiplier
        return (1.0 - alpha) * F.cross_entropy(z, labels) + alpha * soft

    here = dialects.tfreg_of_yuan(alpha, classes, multiplier)
    log_r = F.log_softmax(target.double() / tau, 1)
    entropy = -(log_r.exp() * log_r).sum(1).mean()
    ours = loss_of("tfreg", alpha=here.alpha, tau=tau, a=a, tfreg_target="code")
    constant = -here.factor * here.alpha * entropy  # this project's is the cross-entropy of the smoothed label
    alike(loss_kd_regularization, lambda z: ours(z, labels, None), here.factor, student, constant)


@pytest.mark.parametrize("tau", [1.0, 20.0])
@pytest.mark.parametrize("a", [0.5, 0.99])
@pytest.mark.parametrize("classes", CLASSES)
def test_where_tfreg_is_label_smoothing(classes, a, tau, alpha=0.5):
    student, labels, _ = batch(classes)
    published = loss_of("tfreg", alpha=alpha, tau=tau, a=a, tfreg_target="code")
    smoothed = loss_of("ls", alpha=dialects.ls_of_published_tfreg(alpha, a, tau, classes))
    alike(lambda z: published(z, labels, None), lambda z: smoothed(z, labels, None), 1, student)
    if tau == 1:
        paper = loss_of("tfreg", alpha=alpha, tau=tau, a=a)
        smoothed = loss_of("ls", alpha=dialects.ls_of_tfreg(alpha, a, classes))
        alike(lambda z: paper(z, labels, None), lambda z: smoothed(z, labels, None), 1, student)
