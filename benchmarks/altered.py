"""Images of a benchmark, changed in ways that have a name: what `benchmarks/shifts.py` shows to bundles."""

from __future__ import annotations

import numpy as np

from pipelines.reporting.contact import is_rgb
from registry.images import ImageSpec, resize_linear

SEED = 1234
#: pictures that scikit-image carries
PHOTOGRAPHS = ("astronaut", "coffee", "cat", "rocket", "camera")
BLOCK_PX = 8

Stack = np.ndarray  # (n, c, y, x)


def stored(values: Stack, spec: ImageSpec) -> Stack:
    """In the dtype of the files."""
    if np.dtype(spec.dtype).kind == "u":
        values = np.clip(np.rint(values), 0, np.iinfo(spec.dtype).max)
    return values.astype(spec.dtype)


def as_channels(picture: np.ndarray, spec: ImageSpec) -> np.ndarray:
    """A picture (channels, y, x) in 0..1 as an image of the model: its channels in turn, its intensities over the whole range."""
    low, high = np.array(spec.intensity, np.float64).T[:, :, None, None]
    sized = resize_linear(picture.astype(np.float32), spec.height, spec.width)
    return stored(low + sized[np.arange(len(spec.channels)) % len(picture)] * (high - low), spec)


def stained(images: Stack, spec: ImageSpec, factor: float) -> Stack:
    """A stronger or weaker stain: optical density of RGB, light above the dark of everything else."""
    if is_rgb(spec):
        return stored(255 * (np.maximum(images, 1.0) / 255) ** factor, spec)
    low = np.array(spec.intensity)[None, :, :1, None]
    return stored(low + factor * (images - low), spec)


def turned(images: Stack, spec: ImageSpec, degrees: float) -> Stack:
    """Hues of RGB turned."""
    from skimage.color import hsv2rgb, rgb2hsv

    hsv = rgb2hsv(np.moveaxis(images, 1, -1) / 255)
    hsv[..., 0] = (hsv[..., 0] + degrees / 360) % 1
    return stored(np.moveaxis(255 * hsv2rgb(hsv), -1, 1), spec)


def blurred(images: Stack, spec: ImageSpec, sigma_px: float) -> Stack:
    from scipy.ndimage import gaussian_filter

    return stored(gaussian_filter(images.astype(np.float64), (0, 0, sigma_px, sigma_px)), spec)


def noisy(images: Stack, spec: ImageSpec, share: float) -> Stack:
    """Gaussian noise with a standard deviation that is a share of the intensity range."""
    low, high = np.array(spec.intensity)[None, :, :, None, None].transpose(2, 0, 1, 3, 4)
    return stored(images + share * (high - low) * np.random.default_rng(SEED).normal(size=images.shape), spec)


def shuffled(images: Stack) -> Stack:
    """Blocks of a few pixels change places: brightness, contrast and most fine detail stay, what is shown does not."""
    height, width = (side // BLOCK_PX * BLOCK_PX for side in images.shape[2:])
    rng, found = np.random.default_rng(SEED), images.copy()
    for image in found:
        blocks = image[:, :height, :width].reshape(len(image), height // BLOCK_PX, BLOCK_PX, width // BLOCK_PX, BLOCK_PX).swapaxes(2, 3)
        flat = blocks.reshape(len(image), -1, BLOCK_PX, BLOCK_PX)
        mixed = flat[:, rng.permutation(flat.shape[1])].reshape(blocks.shape).swapaxes(2, 3)
        image[:, :height, :width] = mixed.reshape(len(image), height, width)
    return found


def photographs(spec: ImageSpec, number: int) -> Stack:
    """Square pieces of photographs."""
    import skimage.data

    rng, pieces = np.random.default_rng(SEED), []
    pictures = [np.moveaxis(np.atleast_3d(getattr(skimage.data, name)()), -1, 0) / 255 for name in PHOTOGRAPHS]
    for i in range(number):
        picture = pictures[i % len(pictures)]
        side = int(rng.integers(96, min(picture.shape[1:]) + 1))
        y, x = (int(rng.integers(0, length - side + 1)) for length in picture.shape[1:])
        pieces.append(as_channels(picture[:, y : y + side, x : x + side], spec))
    return np.stack(pieces)


def flat(images: Stack, spec: ImageSpec) -> Stack:
    """Nothing but light: every channel at one of its usual intensities."""
    levels = np.quantile(images, np.linspace(0.1, 0.9, 9), axis=(0, 2, 3))
    return stored(np.broadcast_to(levels[:, :, None, None], (len(levels), *images.shape[1:])), spec)


def blank(spec: ImageSpec) -> Stack:
    """A slide without anything: white under transmitted light, dark otherwise."""
    ends = np.array(spec.intensity)[None, :, 1 if is_rgb(spec) else 0, None, None]
    return stored(np.broadcast_to(ends, (1, *spec.shape)), spec)


def foreign(images: Stack, of: ImageSpec, spec: ImageSpec) -> Stack:
    """Images of another benchmark in the model's channels and dtype."""
    low, high = np.array(of.intensity, np.float64).T[:, :, None, None]
    return np.stack([as_channels(np.clip((image - low) / (high - low), 0, 1), spec) for image in images])


def shifts(images: Stack, spec: ImageSpec, others: Stack | None, other: ImageSpec | None) -> dict[str, Stack]:
    """Named shifts of (n, c, y, x) images, mild ones first."""
    found = {
        "none": images,
        "stain x1.2": stained(images, spec, 1.2),
        "stain x0.5": stained(images, spec, 0.5),
        "stain x2": stained(images, spec, 2.0),
        "channels in another order": np.roll(images, 1, axis=1),
    }
    if is_rgb(spec):
        found["hues turned by 30 degrees"] = turned(images, spec, 30)
    found |= {f"blur of {sigma} px": blurred(images, spec, sigma) for sigma in (1, 2, 4)}
    found |= {f"noise of {100 * share:g} % of the range": noisy(images, spec, share) for share in (0.05, 0.2)}
    found["blocks shuffled"] = shuffled(images)
    if others is not None and other is not None:
        found["other modality"] = foreign(others, other, spec)
    return {**found, "photographs": photographs(spec, len(images)), "flat field": flat(images, spec), "blank": blank(spec)}
