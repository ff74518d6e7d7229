"""`random`: noise that belongs to an image's name, not to its pixels."""

from __future__ import annotations

import hashlib

import numpy as np

from registry.arrays import Floats
from registry.controls.base import FormulaControl, control_card
from registry.representation import Batch, Facts

NAME = "random"
DIM = 64


class Random(FormulaControl):
    """Standard normal noise, drawn anew for every image id: any score above chance is a fault of the instrument.

    Args:
        facts: not used.
        seed: another seed, other noise.
    """

    columns = tuple(f"noise {i}" for i in range(DIM))

    def __init__(self, facts: Facts, seed: int) -> None:
        card = control_card(NAME, "Gaussian noise drawn from a hash of the image id: no information at all.")
        super().__init__(card, facts, "its vector is drawn from the image's id, not from its pixels")
        self._seed = seed

    def describe(self, batch: Batch) -> Floats:
        """(n, 64) noise; the same id gives the same vector in any company and on any machine."""
        values = np.empty((len(batch.image_ids), DIM))
        for row, image_id in zip(values, batch.image_ids, strict=True):
            digest = hashlib.sha256(f"{self._seed}\n{image_id}".encode()).digest()
            row[:] = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big"))).standard_normal(DIM)
        return values
