"""What an encoder and a control have in common: batches in, vectors out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from registry.arrays import Embedding, PixelBatch
from registry.cards import EncoderCard
from registry.images import ImageSpec

if TYPE_CHECKING:
    from torch import nn

#: arrays by name: what a fitted representation has learned from training images
State = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Batch:
    """Images that travel together, in index order.

    Attributes:
        image_ids: n ids.
        pixels: (n, c, y, x) float32 raw intensities, conformed to the benchmark's ImageSpec.
        metadata: n rows of the index's `Metadata_*` columns.
        nuclei: n tables (nucleus, x_um, y_um, area_um2, type), or None where the benchmark has no nuclei.
        elsewhere: the same pixels on a device, by its name: copied by the first representation that wants them there, for all.
    """

    image_ids: tuple[str, ...]
    pixels: PixelBatch
    metadata: pd.DataFrame
    nuclei: tuple[pd.DataFrame, ...] | None = None
    elsewhere: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Facts:
    """What a representation may know of a benchmark before it sees an image.

    Attributes:
        benchmark: its name.
        modality: "cells", "tissue" or "natural".
        image: what every image looks like.
        metadata: names of the `Metadata_*` columns there are.
        nuclei: whether there is a table of nuclei.
        nuclear_types: the types in it, sorted; () where they are not told apart.
        cells_per_image: "one" for crops of single cells, "many" for fields, "unknown".
    """

    benchmark: str
    modality: str
    image: ImageSpec
    metadata: tuple[str, ...] = ()
    nuclei: bool = False
    nuclear_types: tuple[str, ...] = ()
    cells_per_image: str = "unknown"


class Representation(Protocol):
    """One member of one row. Every encoder and every control implements this and nothing else is extracted.

    `fitted` says whether `fit` learns anything; a fitted representation is made anew for each fold and sees that
    fold's training images only.
    """

    card: EncoderCard
    fitted: bool

    def fit(self, batches: Iterable[Batch]) -> None:
        """Learn from training images, without labels."""

    def embed(self, batch: Batch) -> Embedding:
        """(n, d) float32, the same d for every batch; NaN is an error, missing structure is an indicator column."""

    def state(self) -> dict[str, NDArray[np.float32]]:
        """What `fit` learned; {} if nothing."""

    def load_state(self, state: State) -> None:
        """Restore what `fit` learned."""

    def network(self) -> nn.Module | None:
        """The whole computation as a torch module on raw pixels (n, c, y, x) float32, for export; None if it cannot be one."""

    def unservable(self) -> str:
        """Why `network` is None, in words; "" if it is not None."""
