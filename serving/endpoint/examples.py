"""Shell lines for the OpenAPI document: each block runs as it stands, against the service that gave it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from registry.images import ImageSpec
from serving.endpoint.tensors import DATATYPES, HEADER_LENGTH, INPUT


@dataclass(frozen=True)
class Examples:
    """Examples for one service.

    Attributes:
        url: where it is reached.
        model: name of a served model.
        image: what the model takes.
        token: whether it asks for one; it is then taken from `BLANKSLIDE_TOKEN`.
    """

    url: str
    model: str
    image: ImageSpec
    token: bool

    def get(self, path: str) -> dict[str, Any]:
        """A request without a body."""
        return _sample(self._curl(path))

    def fetch(self) -> dict[str, Any]:
        """Fetching the example image."""
        return _sample(self._fetched())

    def post(self, path: str) -> dict[str, Any]:
        """Sending the example image."""
        return _sample(self._fetched(), self._curl(f"{path}?model={self.model}", "--data-binary @example.npy"))

    def infer(self) -> dict[str, Any]:
        """Sending the example image as a tensor: the numbers of an npy file are its last bytes."""
        size = int(np.prod(self.image.shape)) * np.dtype(self.image.dtype).itemsize
        tensor = {
            "name": INPUT,
            "datatype": DATATYPES[self.image.dtype],
            "shape": [1, *self.image.shape],
            "parameters": {"binary_data_size": size},
        }
        return _sample(
            self._fetched(),
            f"printf '%s' '{json.dumps({'inputs': [tensor]})}' > request.bin",
            "LENGTH=$(wc -c < request.bin)",
            f"tail -c {size} example.npy >> request.bin",
            self._curl(f"/v2/models/{self.model}/infer", f'-H "{HEADER_LENGTH}: $LENGTH" --data-binary @request.bin'),
        )

    def _fetched(self) -> str:
        return self._curl(f"/v1/example?model={self.model}", "-o example.npy")

    def _curl(self, path: str, more: str = "") -> str:
        token = '-H "Authorization: Bearer $BLANKSLIDE_TOKEN"' if self.token else ""
        return " ".join(part for part in ("curl -sSf", token, more, f"'{self.url}{path}'") if part)


def _sample(*lines: str) -> dict[str, Any]:
    return {"x-codeSamples": [{"lang": "Shell", "source": "\n".join(lines)}]}
