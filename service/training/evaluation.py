"""Accuracy on val: every image exactly once, whatever the number of workers."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from data_pipeline.loader import Batch
from service.training.world import World

Classifier = Callable[[Tensor], Tensor]


class Accuracy(NamedTuple):
    """Shares (0 to 1) of right answers among the first and first five, and mean cross-entropy."""

    top1: float
    top5: float
    loss: float
    num_images: int

    def as_metrics(self, prefix: str) -> dict[str, float]:
        """Metric values by name, such as ``val_top1``."""
        return {
            f"{prefix}_top1": self.top1,
            f"{prefix}_top5": self.top5,
            f"{prefix}_loss": self.loss,
        }


@torch.inference_mode()
def evaluate(classify: Classifier, batches: Iterable[Batch], world: World) -> Accuracy:
    """Measure ``classify`` (uint8 pixels [B, H, W, 3] to logits [B, K]) over all workers.

    ``batches`` are this worker's share; sums and counts, not means, are added up, so unequal
    shares and short last batches weigh what they should. Every rank must call it.
    """
    device = world.device
    totals = torch.zeros(4, dtype=torch.float64, device=device)
    for batch in batches:
        labels = batch.labels.to(device, non_blocking=True)
        logits = classify(batch.images.to(device, non_blocking=True)).float()
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
        right = ranked == labels[:, None]
        # Summed per sample in float64: the order of summation does not show in the figure.
        losses = F.cross_entropy(logits, labels, reduction="none").double()
        totals += torch.stack(
            [
                right[:, 0].sum().double(),
                right.any(dim=1).sum().double(),
                losses.sum(),
                torch.tensor(float(len(labels)), dtype=torch.float64, device=device),
            ]
        )
    if world.size > 1:
        dist.all_reduce(totals)
    top1, top5, loss, count = totals.tolist()
    return Accuracy(top1 / count, top5 / count, loss / count, round(count))
