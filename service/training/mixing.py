"""Mixup and CutMix: pairs of training images are mixed, and their labels in the same proportion.

A pair is two neighbors in the epoch's order, and its random numbers depend on the seed, the
epoch and its first sample: neither the number of workers nor the size of a batch matters.
Sources: Zhang et al., arXiv 1710.09412; Yun et al., arXiv 1905.04899.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Tensor

from data_pipeline.batches import Batch
from data_pipeline.compiled.counter_rng import uniforms
from service.spec.data_sections import Mixing
from service.spec.job import JobSpec

MIXING_STREAM = 1002
NUM_UNIFORMS = 5


class PairParams(NamedTuple):
    """The mixture of each of P pairs.

    ``shares`` [P] of an image's own label after the mixture, 1 where nothing is mixed; ``is_cut``
    [P]; ``boxes`` [P, 4] that CutMix exchanges (top, left, bottom, right in pixels), else empty.
    """

    shares: NDArray[np.float64]
    is_cut: NDArray[np.bool_]
    boxes: NDArray[np.int64]


def random_pairs(
    mixing: Mixing, firsts: NDArray[np.int64], size: int, seed: int, epoch: int
) -> PairParams:
    """Random mixtures of pairs with first samples ``firsts`` [P]; ``size``: pixels of a side."""
    chance, choice, beta, row, column = uniforms(firsts, seed, epoch, MIXING_STREAM, NUM_UNIFORMS).T
    is_mixed = chance < mixing.probability
    is_cut = is_mixed & (choice < _cutmix_chance(mixing))
    shares = np.where(is_cut, _beta(mixing.cutmix_alpha, beta), _beta(mixing.mixup_alpha, beta))
    shares[~is_mixed] = 1.0
    # The box has the area of the partner's share and the image's shape, centered anywhere; it is
    # clipped to the image, and the share corrected.
    half = 0.5 * np.sqrt(1.0 - shares)
    corners = np.stack([row - half, column - half, row + half, column + half], axis=1)
    boxes = np.rint(size * corners.clip(0.0, 1.0)).astype(np.int64)
    boxes[~is_cut] = 0
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return PairParams(np.where(is_cut, 1.0 - areas / size**2, shares), is_cut, boxes)


def mixed_views(spec: JobSpec, batch: Batch, epoch: int) -> tuple[list[Tensor], Tensor]:
    """Images of each view of a batch, and their labels [B] or label distributions [B, K]."""
    mixing, seed, draw_epoch = spec.augmentation.mixing, spec.seed, spec.draw_epoch(epoch)
    views = [batch.images] if batch.strong_images is None else [batch.images, batch.strong_images]
    if mixing is None:
        return views, batch.labels
    images, targets = mix(
        mixing,
        batch.images,
        batch.labels,
        batch.draws,
        num_classes=spec.dataset.num_classes,
        seed=seed,
        epoch=draw_epoch,
    )
    others = [
        mix_other_view(mixing, view, batch.draws, seed=seed, epoch=draw_epoch) for view in views[1:]
    ]
    return [images, *others], targets


def mix(
    mixing: Mixing,
    images: Tensor,
    labels: Tensor,
    indices: NDArray[np.int64],
    *,
    num_classes: int,
    seed: int,
    epoch: int,
) -> tuple[Tensor, Tensor]:
    """Mixed uint8 images [B, S, S, 3] and label distributions [B, K]; an odd last one stays."""
    # Not F.one_hot, which looks at the largest label on the host.
    targets = torch.zeros(len(labels), num_classes, device=labels.device)
    targets.scatter_(1, labels[:, None], 1.0)
    pairs = random_pairs(mixing, indices[:-1:2], images.shape[1], seed, epoch)
    on_device = _to_device(pairs, images.device)
    shares = on_device[:, :1]
    mixed_targets = _blend(targets[: len(shares)], shares)
    return _mix_images(images, on_device), torch.cat([mixed_targets, targets[len(shares) :]])


def mix_other_view(
    mixing: Mixing, images: Tensor, indices: NDArray[np.int64], *, seed: int, epoch: int
) -> Tensor:
    """Another view's images [B, S, S, 3], mixed as ``mix`` mixes the samples' first view.

    Pairs, shares and boxes are the same, so both views have the labels that ``mix`` returns.
    """
    pairs = random_pairs(mixing, indices[:-1:2], images.shape[1], seed, epoch)
    return _mix_images(images, _to_device(pairs, images.device))


def _to_device(pairs: PairParams, device: torch.device) -> Tensor:
    """Share of the label, opacity of the pixels and box of each image of all pairs, [2 P, 6]."""
    opacities = np.where(pairs.is_cut, 1.0, pairs.shares)
    columns = np.column_stack([pairs.shares, opacities, pairs.boxes]).astype(np.float32)
    values = torch.from_numpy(columns.repeat(2, axis=0))
    # From pinned memory, a GPU copies while the host goes on.
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


def _mix_images(images: Tensor, pairs: Tensor) -> Tensor:
    num_paired = len(pairs)
    return torch.cat([_mix_pixels(images[:num_paired], pairs), images[num_paired:]])


def _mix_pixels(images: Tensor, pairs: Tensor) -> Tensor:
    device, size = images.device, images.shape[1]
    opacity = pairs[:, 1, None, None, None]
    blended = _blend(images.float(), opacity).round().to(torch.uint8)
    top, left, bottom, right = pairs[:, 2:, None].unbind(dim=1)
    places = torch.arange(size, device=device)[None]
    rows, columns = (places >= top) & (places < bottom), (places >= left) & (places < right)
    is_exchanged = (rows[:, :, None] & columns[:, None, :])[..., None]
    return torch.where(is_exchanged, _partners(images), blended)


def _partners(values: Tensor) -> Tensor:
    """The other of each pair."""
    return values.reshape(-1, 2, *values.shape[1:]).flip(1).reshape(values.shape)


def _blend(values: Tensor, shares: Tensor) -> Tensor:
    return shares * values + (1.0 - shares) * _partners(values)


def _cutmix_chance(mixing: Mixing) -> float:
    if mixing.mixup_alpha and mixing.cutmix_alpha:
        return 0.5
    return 1.0 if mixing.cutmix_alpha else 0.0


def _beta(alpha: float, quantiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers distributed as Beta(alpha, alpha), from uniform ones."""
    if alpha == 0.0:
        return np.ones_like(quantiles)
    return np.asarray(betaincinv(alpha, alpha, quantiles), np.float64)
