"""Losses of the student's logits alone: a penalty on confidence beside cross-entropy, or in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelreg.methods.method import F, Method, own, torch, with_epochs
from labelreg.methods.paper import plain, smoothed_loss, uniform

if TYPE_CHECKING:
    from torch import Tensor

NLS_ALPHA = own("number", "nls: weight of 1/K, below 0", -0.1, low=-10, high=0)
CP_WEIGHT = own("number", "cp: weight of the entropy that is rewarded", 0.1, low=0)
MAXSUP_WEIGHT = own("number", "maxsup: weight of max z - mean z", 0.1, low=0)
MAXSUP_END = own(
    "number",
    "maxsup: what the weight rises to over the epochs (published code: 0.2); none: constant",
    low=0,
    needed=False,
)
MBLS_WEIGHT = own("number", "mbls: weight of what lies beyond the margin", 0.1, low=0)
MBLS_MARGIN = own("number", "mbls: logits may lie this far below the largest", 10, low=0)
MBLS_OVER = own("text", "mbls: mean or sum over the classes", "mean", choices=("mean", "sum"), usual="mean")
FOCAL_GAMMA = own("number", "focal: exponent of 1 - p_y (Lin et al. 2, Mukhoti et al. 3)", 2, low=0)


def negative(logits: Tensor, labels: Tensor, teacher: Tensor | None, epoch: int, nls_alpha: float) -> Tensor:
    """H((1 - alpha) q + alpha/K, p) with alpha < 0: label smoothing the other way.

    Source: Wei et al. 2022 ("To smooth or not?").
    Trap: the loss has no lower bound, and asks for ever larger logits; the default, ls's 0.1 turned, is not theirs.
    """
    return smoothed_loss(logits, labels, uniform(labels, logits.shape[1]), nls_alpha, tau=1)


def confidence_penalty(logits: Tensor, labels: Tensor, teacher: Tensor | None, epoch: int, cp_weight: float) -> Tensor:
    """H(q, p) - beta H(p): a confident prediction costs more; beta is cp_weight.

    Source: Pereyra et al. 2017.
    Published code: MbLS's copy averages H(p) over the K classes too, so its weight is cp_weight times K.
    Trap: as the copy.
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    entropy = -(log_p.exp() * log_p).sum(dim=1).mean()
    return plain(logits, labels, None, epoch) - cp_weight * entropy


def max_suppression(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    epoch: int,
    maxsup_weight: float,
    maxsup_end: float | None = None,
    epochs: int = 1,
) -> Tensor:
    """H(q, p) + alpha (max z - mean z): label smoothing's penalty on the predicted class, not the true one.

    Source: Zhou et al. 2025 (NeurIPS).
    Published code: alpha rises linearly from 0.1 to 0.2 over the epochs (maxsup_end=0.2; the last epoch is one step
    short of it, as there).
    Trap: logits are not centred: a constant added to all changes nothing, but a weight decay on the head does.
    """
    weight = maxsup_weight
    if maxsup_end is not None:
        weight += (maxsup_end - maxsup_weight) * (epoch - 1) / epochs
    z = logits.float()
    return plain(logits, labels, None, epoch) + weight * (z.amax(dim=1) - z.mean(dim=1)).mean()


def margin(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None,
    epoch: int,
    mbls_weight: float,
    mbls_margin: float,
    mbls_over: str,
) -> Tensor:
    """H(q, p) + lambda mean_k max(0, max z - z_k - m): only what lies beyond the margin m is pulled up.

    Source: Liu et al. 2022 (MbLS, CVPR).
    Published code: the mean over batch and classes, as here; the paper's formula has the sum over classes
    (mbls_over=sum, K times the weight).
    Trap: at m = 10 a fine-tuned model of few epochs seldom has a logit to pull: then it is finetune.
    """
    z = logits.float()
    beyond = F.relu(z.amax(dim=1, keepdim=True) - z - mbls_margin)
    over = beyond.mean(dim=1) if mbls_over == "mean" else beyond.sum(dim=1)
    return plain(logits, labels, None, epoch) + mbls_weight * over.mean()


def focal(logits: Tensor, labels: Tensor, teacher: Tensor | None, epoch: int, focal_gamma: float) -> Tensor:
    """-(1 - p_y)^gamma log p_y, a mean over the batch: what is known already counts less.

    Source: Lin et al. 2017 (gamma 2); Mukhoti et al. 2020 for calibration (gamma 3).
    Published code: Mukhoti et al.'s sums over the batch, which is a learning rate times the batch size.
    Trap: the learning rate that suits a sum does not suit a mean.
    """
    if focal_gamma == 0:
        return plain(logits, labels, None, epoch)
    log_true, log_rest = one_against_rest(logits.float(), labels)[0].unbind(dim=1)
    return -((focal_gamma * log_rest).exp() * log_true).mean()


def one_against_rest(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log (p_y, 1 - p_y) [batch, 2] and the logits of the other classes [batch, classes - 1]; exact where p_y is 1."""
    nth = torch.arange(z.shape[1] - 1, device=z.device)
    others = z.gather(1, nth + (nth >= labels[:, None]).long())
    two = torch.stack([z.gather(1, labels[:, None])[:, 0], others.logsumexp(dim=1)], dim=1)
    return F.log_softmax(two, dim=1), others


LOGITS = {
    "nls": Method("negative label smoothing", negative, {"nls_alpha": NLS_ALPHA}),
    "cp": Method("confidence penalty", confidence_penalty, {"cp_weight": CP_WEIGHT}),
    "maxsup": Method(
        "MaxSup",
        max_suppression,
        {"maxsup_weight": MAXSUP_WEIGHT, "maxsup_end": MAXSUP_END},
        complete=with_epochs,
    ),
    "mbls": Method(
        "margin-based label smoothing",
        margin,
        {"mbls_weight": MBLS_WEIGHT, "mbls_margin": MBLS_MARGIN, "mbls_over": MBLS_OVER},
    ),
    "focal": Method("focal loss", focal, {"focal_gamma": FOCAL_GAMMA}),
}
