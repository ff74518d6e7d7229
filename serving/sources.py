"""What an image is made of before it is decoded: the bytes of a file, or a tensor that came as one."""

from __future__ import annotations

from dataclasses import dataclass

from registry.arrays import Pixels
from registry.images import Image, decode_image


@dataclass(frozen=True)
class FileSource:
    """The bytes of an image file.

    Attributes:
        data: the file.
        name: what it is called in messages.
    """

    data: bytes
    name: str = "the image"

    def image(self, max_pixels: int) -> Image:
        """Decode it.

        Raises:
            ImageError: see `registry.images.decode_image`.
        """
        return decode_image(self.data, self.name, max_pixels)


@dataclass(frozen=True)
class TensorSource:
    """Pixels that came as a tensor.

    Attributes:
        pixels: (c, y, x) raw intensities.
        name: what it is called in messages.
    """

    pixels: Pixels
    name: str = "the image"

    def image(self, max_pixels: int) -> Image:
        """The pixels as an image; the size of a tensor was bounded when it was read.

        Raises:
            ImageError: not finite, or of a dtype that is not read.
        """
        del max_pixels
        return Image(self.pixels, (), None, self.name)


Source = FileSource | TensorSource
