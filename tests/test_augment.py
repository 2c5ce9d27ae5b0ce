"""Augmentation of whole batches against torchvision's transforms of one image after the other."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from labelreg.data import augment
from labelreg.data.batching import generator
from labelreg.settings import AUGMENTATIONS

ALL = "crop+flip+rotation"


def images(examples, side=32):
    chance = torch.Generator().manual_seed(0)
    return torch.randint(256, (examples, 3, side, side), generator=chance, dtype=torch.uint8)


def drawn(examples, kinds=ALL, size=32, seed=0, epoch=1):
    return augment.draw(examples, kinds, size, generator(seed, epoch, "augmentation"))


def test_each_image_is_cut_flipped_and_turned_as_torchvision_does_it():
    """With the same crop, flip and angle, pixel by pixel."""
    batch, found = images(40), drawn(40)
    own = augment.apply(batch, found, torch.arange(40))
    for number, image in enumerate(batch):
        padded = functional.pad(image, [4])
        cut = functional.crop(padded, int(found.top[number]), int(found.left[number]), 32, 32)
        cut = functional.horizontal_flip(cut) if found.flipped[number] else cut
        expected = functional.rotate(cut, float(found.angle[number])).float()
        agree = (own[number] == expected).float().mean().item()
        assert agree > 0.995, f"image {number}: {agree}"  # a pixel between two may go either way


def test_the_images_of_a_batch_differ():
    same = images(1).expand(64, -1, -1, -1)
    own = augment.apply(same, drawn(64), torch.arange(64))
    assert len({image.numpy().tobytes() for image in own}) > 60  # near angles can give the same pixels
    whole = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.RandomRotation(15)])(same)
    assert len({image.numpy().tobytes() for image in whole}) == 1  # why torchvision's are not used on a batch


def test_what_is_drawn_has_torchvisions_distributions():
    found, n = drawn(20_000), 4_000
    torch.manual_seed(0)
    crop, flip, turn = v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.RandomRotation(15)
    image = images(1)[0]
    crops = [crop.make_params([image]) for _ in range(n)]
    for own, key in ((found.top, "top"), (found.left, "left")):
        counts = [np.bincount(values, minlength=9) for values in (own.numpy(), [each[key] for each in crops])]
        assert len(counts[0]) == len(counts[1]) == 9
        assert chi2_contingency(counts).pvalue > 1e-4
    assert ks_2samp(found.angle.numpy(), [turn.make_params([image])["angle"] for _ in range(n)]).pvalue > 1e-4
    edge = torch.zeros(1, 1, 2, dtype=torch.uint8)
    edge[..., 0] = 1
    flips = sum(int(flip(edge)[0, 0, 1]) for _ in range(n))
    own_flips = int(found.flipped.sum())
    assert chi2_contingency([[own_flips, 20_000 - own_flips], [flips, n - flips]]).pvalue > 1e-4
    pairs = np.corrcoef([found.top, found.left, found.flipped, found.angle])
    assert np.abs(pairs - np.eye(4)).max() < 0.04  # and they are independent


def test_augmented_images_have_the_mean_and_deviation_of_torchvisions():
    image, n = images(1, 16)[0], 1500
    torch.manual_seed(0)
    one = v2.Compose([v2.RandomCrop(16, padding=2), v2.RandomHorizontalFlip(), v2.RandomRotation(15)])
    theirs = torch.stack([one(image) for _ in range(n)]).float()
    own = augment.apply(image.expand(n, -1, -1, -1), drawn(n, size=16), torch.arange(n))
    error = ((own.var(0) + theirs.var(0)) / n).sqrt().clamp(min=1)
    z = ((own.mean(0) - theirs.mean(0)) / error).abs()
    assert z.max() < 5 and z.mean() < 1.2
    assert own.std(0).mean().item() == pytest.approx(theirs.std(0).mean().item(), rel=0.05)


def test_an_image_is_augmented_the_same_whatever_its_batch():
    batch, found = images(20), drawn(20)
    whole = augment.apply(batch, found, torch.arange(20))
    picked = torch.tensor([7, 3, 19])
    assert torch.equal(augment.apply(batch[picked], found, picked), whole[picked])


@pytest.mark.parametrize(("change", "same"), [({}, True), ({"seed": 1}, False), ({"epoch": 2}, False)])
def test_seed_and_epoch_decide(change, same):
    one, two = drawn(50), drawn(50, **change)
    assert torch.equal(one.angle, two.angle) == same
    assert torch.equal(one.top, two.top) == same


def test_what_is_not_asked_for_is_not_done():
    assert drawn(9, "none") is None
    unflipped, all_of_it = drawn(500, "crop+rotation"), drawn(500)
    assert not unflipped.flipped.any() and all_of_it.flipped.any()
    assert torch.equal(unflipped.angle, all_of_it.angle)  # the others are drawn alike
    assert set(AUGMENTATIONS) == {"none", "crop+rotation", ALL}


def test_a_crop_in_the_middle_at_no_angle_changes_nothing():
    batch, still = images(3), torch.full((3,), 4)
    found = augment.Drawn(still, still, torch.zeros(3, dtype=torch.bool), torch.zeros(3), 4)
    assert torch.equal(augment.apply(batch, found, torch.arange(3)), batch.float())
