"""Images, what a model expects of them, and THE preprocessing: offline and online read a file through this module.

Every decoder checks the header (pages, shape, dtype) before it allocates pixels, because the same functions read
untrusted request bodies. Nothing is ever silently made 8-bit or RGB.
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.arrays import Pixels
from registry.errors import ImageError
from registry.jpeg import MAX_PASSES, read_jpeg
from registry.npy import MAGIC as NPY_MAGIC
from registry.npy import read_header
from registry.tiff import MAGIC as TIFF_MAGIC
from registry.tiff import decode_tiff

#: pixels of one image over all channels; a 5 x 2048 x 2048 image has 21 million
MAX_PIXELS = 64_000_000
DTYPES = ("uint8", "uint16", "float32")
#: samples per pixel by PNG colour type; palettes (3) are not read
PNG_SAMPLES = {0: 1, 2: 3, 4: 2, 6: 4}
PILLOW_MODES = ("L", "I;16", "LA", "RGB", "RGBA")
#: longest side that is resampled: the matrices that do it are dense
MAX_RESIZED_SIDE = 16_384
#: values of a matrix that is kept for the next image, 2 MiB; 2,300 pixels to 224
MAX_KEPT_MATRIX = 1 << 19


@dataclass(frozen=True)
class Image:
    """One image.

    Attributes:
        pixels: (c, y, x) uint8, uint16 or float32, finite.
        channel_names: one name per channel, () where the file does not say.
        pixel_size_um: micrometres per pixel, None where the file does not say.
        source: what the image is called in messages.
    """

    pixels: Pixels
    channel_names: tuple[str, ...] = ()
    pixel_size_um: float | None = None
    source: str = "image"

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3:
            raise ImageError(f"`{self.source}`: expected axes (c, y, x), got shape {self.pixels.shape}. Save one image, channels first.")
        if self.pixels.dtype.name not in DTYPES:
            raise ImageError(f"`{self.source}`: expected dtype {' or '.join(DTYPES)}, got {self.pixels.dtype.name}. Convert the file.")
        if 0 in self.pixels.shape:
            raise ImageError(f"`{self.source}`: the image is empty, shape {self.pixels.shape}. Save it again.")
        if self.pixels.dtype.kind == "f" and not np.isfinite(self.pixels).all():
            bad = int((~np.isfinite(self.pixels)).sum())
            raise ImageError(f"`{self.source}`: {bad} of {self.pixels.size} pixels are NaN or infinite. Repair or leave out the image.")
        if self.channel_names and len(self.channel_names) != self.pixels.shape[0]:
            raise ImageError(f"`{self.source}`: {len(self.channel_names)} channel names for {self.pixels.shape[0]} channels. Name each once.")


@dataclass(frozen=True)
class ImageSpec:
    """What a model expects of an image before its own preprocessing graph.

    Attributes:
        channels: channel names in order.
        dtype: dtype of the files ("uint8", "uint16", "float32").
        height: rows in pixels.
        width: columns in pixels.
        intensity: (low, high) per channel: the raw intensities that networks map to 0 and 1; (0, 255) for uint8 files.
        pixel_size_um: micrometres per pixel, None if the benchmark does not say.
        resize: "refuse" when every image of the benchmark has this size, "linear" when they vary
            and each is brought to it by antialiased linear resampling.
    """

    channels: tuple[str, ...]
    dtype: str
    height: int
    width: int
    intensity: tuple[tuple[float, float], ...]
    pixel_size_um: float | None = None
    resize: str = "refuse"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ImageError(f"expected dtype {' or '.join(DTYPES)}, got `{self.dtype}`.")
        if self.resize not in ("refuse", "linear"):
            raise ImageError(f"expected resize `refuse` or `linear`, got `{self.resize}`.")
        if not self.channels and self.height == self.width == 0:
            return
        if not self.channels or min(self.height, self.width) < 1:
            raise ImageError(f"expected at least one channel and one pixel, got {self}.")
        if len(self.intensity) != len(self.channels) or any(low >= high for low, high in self.intensity):
            raise ImageError(f"expected (low, high) intensities with low < high for each of {len(self.channels)} channels, got {self.intensity}.")

    @classmethod
    def none(cls) -> ImageSpec:
        """That of a benchmark without images, whose vectors were made elsewhere: shape (0, 0, 0)."""
        return cls((), "float32", 0, 0, ())

    @property
    def present(self) -> bool:
        """Whether there are images."""
        return bool(self.channels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, y, x)"""
        return len(self.channels), self.height, self.width

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a card."""
        return {
            "channels": list(self.channels),
            "dtype": self.dtype,
            "height": self.height,
            "width": self.width,
            "intensity": [list(pair) for pair in self.intensity],
            "pixel_size_um": self.pixel_size_um,
            "resize": self.resize,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> ImageSpec:
        """The inverse of `as_dict`."""
        return cls(
            **{**value, "channels": tuple(value["channels"]), "intensity": tuple((float(low), float(high)) for low, high in value["intensity"])}
        )


def conform(image: Image, spec: ImageSpec, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Bring one image to what `spec` expects: channel order by name, size by the spec's rule, float32, raw intensities.

    Args:
        image: as decoded.
        spec: what is expected.
        out: (c, y, x) float32 that is filled in; None for new memory.

    Returns:
        (c, y, x) float32: `out`, if it was given.

    Raises:
        ImageError: other channels, dtype, size (under `refuse`) or pixel size than expected; says both.
    """
    pixels = ordered_channels(image, spec)
    if image.pixels.dtype.name != spec.dtype:
        raise other_dtype(image, spec)
    if image.pixel_size_um and spec.pixel_size_um and not math.isclose(image.pixel_size_um, spec.pixel_size_um, rel_tol=0.05):
        raise ImageError(
            f"`{image.source}`: expected {spec.pixel_size_um:g} um per pixel, got {image.pixel_size_um:g}."
            " Resample the image to the expected pixel size."
        )
    if pixels.shape[1:] != (spec.height, spec.width):
        if spec.resize == "refuse":
            larger = pixels.shape[1] >= spec.height and pixels.shape[2] >= spec.width
            raise ImageError(
                f"`{image.source}`: expected {spec.height} x {spec.width} pixels (y, x), got {pixels.shape[1]} x {pixels.shape[2]}."
                f" {'Crop the image to that field.' if larger else 'Take an image of a larger field.'}"
            )
        if max(pixels.shape[1:]) > MAX_RESIZED_SIDE:
            raise ImageError(
                f"`{image.source}`: expected sides of at most {MAX_RESIZED_SIDE} pixels, got {pixels.shape[1]} x {pixels.shape[2]} (y, x)."
                " Crop the image."
            )
        pixels = resize_linear(pixels.astype(np.float32), spec.height, spec.width)
    # always memory of its own: what a decoder gives may be a view of the file's bytes
    conformed = np.empty(spec.shape, np.float32) if out is None else out
    conformed[:] = pixels
    return conformed


def other_dtype(image: Image, spec: ImageSpec) -> ImageError:
    """What is said of an image of another dtype than expected."""
    return ImageError(
        f"`{image.source}`: expected dtype {spec.dtype}, got {image.pixels.dtype.name}. Intensities would mean something else:"
        f" save the image as {spec.dtype}, on the scale of the model's images."
    )


def ordered_channels(image: Image, spec: ImageSpec) -> Pixels:
    """(c, y, x) with the channels in the order of `spec`: by name where the file names them.

    Raises:
        ImageError: other channels than expected.
    """
    if image.pixels.shape[0] != len(spec.channels):
        raise ImageError(
            f"`{image.source}`: expected {len(spec.channels)} channels ({', '.join(spec.channels)}), got {image.pixels.shape[0]}"
            + (f" ({', '.join(image.channel_names)})." if image.channel_names else ".")
            + " Save these channels, and no others, in one file."
        )
    if not image.channel_names or image.channel_names == spec.channels:
        return image.pixels
    if sorted(image.channel_names) != sorted(spec.channels):
        raise ImageError(
            f"`{image.source}`: expected channels {', '.join(spec.channels)}, got {', '.join(image.channel_names)}."
            " If they are the same, name them so in the file; otherwise take an image of these channels."
        )
    return image.pixels[[image.channel_names.index(name) for name in spec.channels]]


def resize_linear(pixels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Antialiased linear resampling of (..., y, x) by two matrix products (triangle filter widened when shrinking, as Pillow's BILINEAR)."""
    rows = resampling_matrix(pixels.shape[-2], height)
    columns = resampling_matrix(pixels.shape[-1], width)
    return np.ascontiguousarray(rows @ pixels @ columns.T, dtype=np.float32)


def resampling_matrix(source: int, target: int) -> NDArray[np.float32]:
    """(target, source) float32, rows sum to 1: the triangle filter of Pillow's BILINEAR resize."""
    return (_kept_matrix if source * target <= MAX_KEPT_MATRIX else _new_matrix)(source, target)


def _new_matrix(source: int, target: int) -> NDArray[np.float32]:
    scale = source / target
    support = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    positions = np.arange(source) + 0.5
    weights = np.clip(1.0 - np.abs(positions[None, :] - centres[:, None]) / support, 0.0, None)
    matrix: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    matrix.setflags(write=False)
    return matrix


#: the images of a benchmark have few sides; who sends others makes it anew, and what is kept is bounded
_kept_matrix = lru_cache(maxsize=16)(_new_matrix)


def read_image(path: Path) -> Image:
    """Read one file (TIFF, OME-TIFF, PNG, JPEG, npy).

    Raises:
        ImageError: missing, unreadable, truncated, not finite, or of a kind that is not read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"`{path}`: cannot be read ({error.strerror}).") from error
    return decode_image(data, source=str(path))


def read_channels(paths: list[Path], channel_names: tuple[str, ...] = ()) -> Image:
    """Read an image whose channels lie in one file each; the files must agree in size and dtype."""
    images = [read_image(path) for path in paths]
    if len(images) == 1:
        return images[0]
    shapes = {(image.pixels.shape[1:], image.pixels.dtype.name) for image in images}
    if len(shapes) > 1:
        raise ImageError(f"`{paths[0]}` and the other channel files differ: {sorted(map(str, shapes))}. Expected one size and dtype.")
    return Image(np.concatenate([image.pixels for image in images]), channel_names, images[0].pixel_size_um, str(paths[0]))


def decode_image(data: bytes, source: str = "body", max_pixels: int = MAX_PIXELS) -> Image:
    """Decode the bytes of one TIFF, OME-TIFF, PNG, JPEG or npy file, told apart by their first bytes.

    Args:
        data: the file's bytes.
        source: what to call it in messages.
        max_pixels: refuse a header that announces more pixels over all channels.

    Raises:
        ImageError: as `read_image`.
    """
    if data[:4] in TIFF_MAGIC:
        return _decode_tiff(data, source, max_pixels)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _decode_png(data, source, max_pixels)
    if data[:3] == b"\xff\xd8\xff":
        return _decode_jpeg(data, source, max_pixels)
    if data[:6] == NPY_MAGIC:
        return _decode_npy(data, source, max_pixels)
    raise ImageError(
        f"`{source}`: expected TIFF, OME-TIFF, PNG, JPEG or npy, got {len(data)} bytes starting {data[:8]!r}. Save the image as one of these."
    )


def _check_size(count: int, source: str, max_pixels: int) -> None:
    if count > max_pixels:
        raise ImageError(f"`{source}`: expected at most {max_pixels} pixels over all channels, the header announces {count}. Crop the image.")


def _decode_tiff(data: bytes, source: str, max_pixels: int) -> Image:
    tiff = decode_tiff(data, source, max_pixels)
    return Image(tiff.pixels, tiff.channel_names, tiff.pixel_size_um, source)


def _decode_png(data: bytes, source: str, max_pixels: int) -> Image:
    # IHDR comes first (PNG specification, 11.2.2): width, height, bit depth, colour type.
    if len(data) < 26 or data[12:16] != b"IHDR":
        raise ImageError(f"`{source}`: the PNG header cannot be read. The file is truncated or damaged: save it again.")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    samples = PNG_SAMPLES.get(colour)
    if samples is None or depth not in (8, 16):
        raise ImageError(
            f"`{source}`: expected a PNG of 8 or 16 bit grey or RGB, got {depth} bit of colour type {colour}. Save it without a palette."
        )
    _check_size(width * height * samples, source, max_pixels)
    if b"acTL" in data[:4096].partition(b"IDAT")[0]:
        raise ImageError(f"`{source}`: expected one image, got an animated PNG. Save one frame.")
    if depth == 16 and samples > 1:
        return _from_samples(_decode_deep_png(data, source), source)  # Pillow would silently make it 8 bit
    return _from_samples(_decode_pillow(data, "PNG", source, max_pixels), source)


def _decode_deep_png(data: bytes, source: str) -> NDArray[Any]:
    import imagecodecs

    try:
        pixels: NDArray[Any] = imagecodecs.png_decode(data)
    except (RuntimeError, ValueError) as error:
        raise ImageError(f"`{source}`: the PNG cannot be decoded. The file is truncated or damaged: save it again.") from error
    return pixels


def _decode_jpeg(data: bytes, source: str, max_pixels: int) -> Image:
    try:
        jpeg = read_jpeg(data)
    except ValueError as error:
        raise ImageError(f"`{source}`: the JPEG has {error}. The file is truncated or damaged: save it again, as baseline JPEG.") from error
    _check_size(jpeg.height * jpeg.width * jpeg.components, source, max_pixels)
    if jpeg.passes > MAX_PASSES * max_pixels:
        most = MAX_PASSES * max_pixels // (jpeg.passes // max(1, jpeg.scans))
        raise ImageError(f"`{source}`: expected at most {most} scans of a JPEG of that size, got {jpeg.scans}. Save it as baseline JPEG.")
    return _from_samples(_decode_pillow(data, "JPEG", source, max_pixels), source)


def _decode_pillow(data: bytes, kind: str, source: str, max_pixels: int) -> NDArray[Any]:
    """(y, x) or (y, x, samples)"""
    from PIL import Image as Pillow
    from PIL import ImageFile

    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ImageError("Pillow was told to accept truncated images; images could be half empty without notice.")
    try:
        with Pillow.open(io.BytesIO(data), formats=(kind,)) as picture:
            _check_size(picture.width * picture.height * len(picture.getbands()), source, max_pixels)
            if picture.mode not in PILLOW_MODES:
                raise ImageError(f"`{source}`: expected grey or RGB, got mode `{picture.mode}`. Convert the file.")
            return np.asarray(picture)
    except ImageError:
        raise
    except Exception as error:  # the decoders raise what they like on damaged bytes
        raise ImageError(
            f"`{source}`: the {kind} cannot be decoded ({type(error).__name__}). The file is truncated or damaged: save it again."
        ) from error


def _from_samples(pixels: NDArray[Any], source: str) -> Image:
    """Grey, grey with alpha, RGB or RGB with alpha; an opaque alpha channel is dropped, another one refused."""
    if pixels.ndim == 2:
        return Image(np.ascontiguousarray(pixels[None]), (), None, source)
    samples = np.moveaxis(pixels, -1, 0)
    if len(samples) in (2, 4):
        if not (samples[-1] == np.iinfo(samples.dtype).max).all():
            raise ImageError(f"`{source}`: has a transparent alpha channel, whose meaning is not known. Save it as grey or RGB.")
        samples = samples[:-1]
    return Image(np.ascontiguousarray(samples), ("red", "green", "blue") if len(samples) == 3 else (), None, source)


def _decode_npy(data: bytes, source: str, max_pixels: int) -> Image:
    try:
        header = read_header(data)
    except ValueError as error:
        raise ImageError(
            f"`{source}`: the npy header cannot be read. The file is truncated, damaged, or of no plain array: save it again."
        ) from error
    shape, dtype = header.shape, header.dtype
    if dtype.hasobject or dtype.name not in DTYPES:
        raise ImageError(f"`{source}`: expected dtype {' or '.join(DTYPES)}, got {dtype}. Convert the array.")
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ImageError(f"`{source}`: expected shape (c, y, x) or (y, x), got {shape}. Save one image, channels first.")
    _check_size(math.prod(shape), source, max_pixels)
    expected = math.prod(shape) * dtype.itemsize
    if len(data) - header.start != expected:
        raise ImageError(
            f"`{source}`: the npy header announces {expected} bytes of pixels, got {len(data) - header.start}. The file is truncated: save it again."
        )
    pixels = (
        np.frombuffer(data, dtype, offset=header.start)
        .reshape(shape, order="F" if header.fortran else "C")
        .astype(dtype.newbyteorder("="), copy=False)
    )
    return Image(np.ascontiguousarray(pixels if pixels.ndim == 3 else pixels[None]), (), None, source)
