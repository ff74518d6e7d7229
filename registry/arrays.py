"""The axis vocabulary, declared once.

Letters: `n` images, `c` channels, `y x` pixels, `d` embedding, `u` units, `k` classes.
Quantities carry their unit in the name: `pixel_size_um`, `area_um2`, `latency_ms`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: (c, y, x), dtype as stored
Pixels = NDArray[Any]
#: (n, c, y, x) float32, raw intensities
PixelBatch = NDArray[np.float32]
#: (n, d) float32
Embedding = NDArray[np.float32]
#: float64 of any shape
Floats = NDArray[np.float64]
#: int64 of any shape
Ints = NDArray[np.int64]
#: bool of any shape
Mask = NDArray[np.bool_]
