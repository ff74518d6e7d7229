"""Shell lines for the OpenAPI document: each block runs as it stands, against the service that gave it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from registry.images import ImageSpec
from serving.endpoint.tensors import DATATYPES, HEADER_LENGTH, INPUT
from serving.settings import TOKEN


@dataclass(frozen=True)
class Examples:
    """Examples for one service.

    Attributes:
        url: where it is reached.
        model: name of a served model.
        image: what the model takes.
        token: whether it asks for one; it is then taken from `BLANKSLIDE_TOKEN`.
        given: whether it hands out an image of that model; else the examples make one of noise.
    """

    url: str
    model: str
    image: ImageSpec
    token: bool
    given: bool = True

    def get(self, path: str) -> dict[str, Any]:
        """A request without a body."""
        return _sample(self._curl(path))

    def fetch(self) -> dict[str, Any]:
        """Fetching the example image; {} where there is none."""
        return _sample(self._image()) if self.given else {}

    def post(self, path: str) -> dict[str, Any]:
        """Sending the example image."""
        return _sample(self._image(), self._curl(f"{path}?model={self.model}", "--data-binary @example.npy"))

    def infer(self) -> dict[str, Any]:
        """Sending the example image as a tensor: the numbers of an npy file are its last bytes."""
        size = self._bytes
        tensor = {
            "name": INPUT,
            "datatype": DATATYPES[self.image.dtype],
            "shape": [1, *self.image.shape],
            "parameters": {"binary_data_size": size},
        }
        return _sample(
            self._image(),
            f"printf '%s' '{json.dumps({'inputs': [tensor]})}' > request.bin",
            "LENGTH=$(wc -c < request.bin)",
            f"tail -c {size} example.npy >> request.bin",
            self._curl(f"/v2/models/{self.model}/infer", f'-H "{HEADER_LENGTH}: $LENGTH" --data-binary @request.bin'),
        )

    @property
    def _bytes(self) -> int:
        return int(np.prod(self.image.shape)) * np.dtype(self.image.dtype).itemsize

    def _image(self) -> str:
        """Leaves an image in `example.npy`."""
        if self.given:
            return self._curl(f"/v1/example?model={self.model}", "-o example.npy")
        descr, low, high = np.dtype(self.image.dtype).newbyteorder("<").str, *_noise(self.image)
        header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {self.image.shape}, }}"
        # a header of 118 bytes, and bytes by chance that are one of two
        start = r"printf '\223NUMPY\001\000v\000%-117s\n' " + f'"{header}"'
        numbers = rf"head -c {self._bytes} /dev/urandom | LC_ALL=C tr '\000-\377' '[\{low:03o}*128][\{high:03o}*]'"
        return f"{{ {start}; {numbers}; }} > example.npy"

    def _curl(self, path: str, more: str = "") -> str:
        # by a pipe from the shell itself: what stands in a command's arguments, every user of the machine can read
        said, token = (f"printf 'Authorization: Bearer %s' \"${TOKEN}\" |", "-H @-") if self.token else ("", "")
        return " ".join(part for part in (said, "curl -sSf", token, more, f"'{self.url}{path}'") if part)


def _noise(image: ImageSpec) -> tuple[int, int]:
    """Two bytes: numbers made of them, in any mixture, lie about a third and two thirds up the range of intensity."""
    dtype = np.dtype(image.dtype).newbyteorder("<")
    # of larger bytes a float is negative, and mixtures of the others grow with their last byte
    most = 128 if dtype.kind == "f" else 256
    numbers = np.frombuffer(bytes(b for b in range(most) for _ in range(dtype.itemsize)), dtype).astype(np.float64)
    low, high = np.mean(image.intensity, axis=0)
    first, second = (int(np.abs(numbers - (low + share * (high - low))).argmin()) for share in (1 / 3, 2 / 3))
    return first, second


def _sample(*lines: str) -> dict[str, Any]:
    return {"x-codeSamples": [{"lang": "Shell", "source": "\n".join(lines)}]}
