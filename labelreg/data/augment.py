"""Random crop, flip and rotation of whole batches, each image with its own: tensor operations on any device.

What is drawn are vectors over the examples of a split, once per epoch from a seeded generator on the CPU: an image
is cut the same whatever its batch, its device or the method. Followed: RandomCrop(32, padding=4),
RandomHorizontalFlip and RandomRotation(15) of torchvision, in that order, with its nearest pixel and black corners
(Yuan et al. 2020 train so). torchvision.transforms.v2 on a batch would draw one crop, flip and angle for all of it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING_SHARE = 8  # 4 black pixels around an image of 32
DEGREES = 15.0


@dataclass(frozen=True)
class Drawn:
    """What was drawn for each example: `top`, `left` [examples] the crop's corner in the padded image, 0..2 padding;
    `flipped` [examples] bool; `angle` [examples] degrees, counter-clockwise. `padding` in pixels."""

    top: Tensor
    left: Tensor
    flipped: Tensor
    angle: Tensor
    padding: int

    def to(self, device: torch.device) -> "Drawn":
        top, left, flipped, angle = (each.to(device) for each in (self.top, self.left, self.flipped, self.angle))
        return Drawn(top, left, flipped, angle, self.padding)


def draw(examples: int, augment: str, size: int, chance: torch.Generator) -> Drawn | None:
    """Crops, flips and angles for every example of a split; None where nothing is augmented.

    Args:
        augment: one of settings.AUGMENTATIONS.
        size: the side of the images, in pixels.
    """
    if augment == "none":
        return None
    padding = size // PADDING_SHARE
    top, left = torch.randint(2 * padding + 1, (2, examples), generator=chance)
    flipped = torch.rand(examples, generator=chance) < 0.5
    angle = DEGREES * (2 * torch.rand(examples, generator=chance) - 1)
    return Drawn(top, left, flipped & ("flip" in augment), angle, padding)


def apply(images: Tensor, drawn: Drawn, batch: Tensor) -> Tensor:
    """Augmented copies of a batch.

    Args:
        images: [batch, channels, side, side], uint8 or floating point.
        batch: their numbers among the examples that `drawn` is for [batch].

    Returns:
        float32, of the same shape.
    """
    cut = crop_and_flip(images, drawn.top[batch], drawn.left[batch], drawn.flipped[batch], drawn.padding)
    return rotate(cut.float(), drawn.angle[batch])


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flipped: Tensor, padding: int) -> Tensor:
    """Crops of the padded images, then mirrored where `flipped`, by one gather; same shape and type."""
    examples, channels, height, width = images.shape
    across = torch.arange(width, device=images.device)
    rows = torch.arange(height, device=images.device) + top[:, None] - padding
    columns = torch.where(flipped[:, None], width - 1 - across, across) + left[:, None] - padding
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    at = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    at = at.flatten(1)[:, None].expand(-1, channels, -1)
    return images.flatten(2).gather(2, at).view_as(images) * inside[:, None]


def rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Square images turned about their centre, counter-clockwise, by their own angle in degrees [batch]."""
    cosine, sine, zero = angle.deg2rad().cos(), angle.deg2rad().sin(), torch.zeros_like(angle)
    back = torch.stack([torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, zero], 1)], 1)
    grid = F.affine_grid(back, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)
