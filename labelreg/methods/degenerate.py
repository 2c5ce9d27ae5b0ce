"""Whether a method can do anything with so few classes: the gradient of what makes it is computed, not looked up."""

from __future__ import annotations

from labelreg.errors import UserError
from labelreg.methods.method import F, Method, Own, torch

LEAST = 1e-3  # of cross-entropy's gradient; rounding leaves 5e-6 of one that is 0; K = 1000 has 4e-2
EXAMPLES = 256


def share(method: Method, own: Own, classes: int) -> float:
    """The gradient's norm of what makes a method, over that of cross-entropy, at drawn logits of two models."""
    if method.core is None:
        return 1.0
    chance = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(EXAMPLES, classes, generator=chance) for _ in range(2))
    labels = torch.randint(classes, (EXAMPLES,), generator=chance)
    student.requires_grad_()
    (core,) = torch.autograd.grad(method.core.loss(student, labels, teacher, own), student)
    (whole,) = torch.autograd.grad(F.cross_entropy(student, labels), student)
    return float(core.norm() / whole.norm())


def check(name: str, method: Method, own: Own, classes: int, allowed: bool) -> None:
    """Refuse a method of which too little is left with so many classes.

    Raises:
        UserError: and it is not allowed.
    """
    if allowed or method.core is None or (found := share(method, own, classes)) >= LEAST:
        return
    raise UserError(
        f"method={name} with {classes} classes: {method.core.name} has no gradient ({found:.0e} of cross-entropy's), "
        f"which leaves {method.core.left}; allowed are tasks of more classes, or allow_degenerate=true"
    )
