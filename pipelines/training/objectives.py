"""What networks are trained for: telling instances apart without labels, or telling labels apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from registry.arrays import Ints

#: class index of an image without a label
UNLABELLED = -1


class Projection(nn.Module):
    """SimCLR's projection head, dropped after training (Chen et al. 2020, arXiv 2002.05709, section 4.2)."""

    def __init__(self, dim: int, hidden: int = 128, out: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out))

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, d) to (n, out) of length 1."""
        return functional.normalize(self.layers(vectors), dim=1)


def contrastive_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent: each view must find the other view of its image among all views of the batch.

    Args:
        first: (n, k) unit vectors of one view.
        second: (n, k) unit vectors of the other, in the same order.
        temperature: of the softmax.

    Returns:
        The mean cross-entropy over the 2n views, in nats.
    """
    views = torch.cat([first, second])
    logits = views @ views.T / temperature
    logits = logits.masked_fill(torch.eye(len(views), dtype=torch.bool), float("-inf"))
    partner = torch.arange(len(views)).roll(len(first))
    return functional.cross_entropy(logits, partner)


class Heads(nn.Module):
    """One linear classifier per question on a shared vector.

    Args:
        dim: d.
        classes: number of classes by question.
    """

    def __init__(self, dim: int, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(dim, count) for count in classes.values()])

    def loss(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """Mean over the questions that have a label in the batch of the cross-entropy over its labelled images, in nats.

        Args:
            vectors: (n, d).
            labels: (n, questions) class indices, UNLABELLED where an image does not take part.
        """
        losses = [
            functional.cross_entropy(head(vectors), column, ignore_index=UNLABELLED)
            for head, column in zip(self.heads, labels.T, strict=True)
            if bool((column != UNLABELLED).any())
        ]
        return torch.stack(losses).mean()


def batches(groups: Ints, groups_per_batch: int, batch_images: int, rng: np.random.Generator) -> Iterator[Ints]:
    """One epoch: every image at most once, in random order; a last incomplete batch is left out.

    Args:
        groups: (n,) a number for each image.
        groups_per_batch: how many different groups share a batch, each with the same number of images, so that what is
            common to a group cannot tell the images of a batch apart; 0 mixes all images.
        batch_images: images of one batch.
        rng: draws the order.

    Yields:
        (batch_images,) positions in `groups`.
    """
    if not groups_per_batch:
        order = rng.permutation(len(groups))
        for start in range(0, len(order) - batch_images + 1, batch_images):
            yield order[start : start + batch_images]
        return
    size = batch_images // groups_per_batch
    waiting = {group: list(_chunks(rng.permutation(np.flatnonzero(groups == group)), size)) for group in np.unique(groups).tolist()}
    while True:
        # the fullest groups first, ties at random, so that groups run out together
        ranked = sorted((group for group in waiting if waiting[group]), key=lambda group: (-len(waiting[group]), rng.random()))
        if len(ranked) < groups_per_batch:
            return
        yield np.concatenate([waiting[group].pop() for group in ranked[:groups_per_batch]])


def _chunks(order: Ints, size: int) -> Iterator[Ints]:
    for start in range(0, len(order) - size + 1, size):
        yield order[start : start + size]
