"""The catalogue of hand-made controls: their names, when they apply, and how one is made.

A module of a control is imported when the control is made: most need torch, scipy or scikit-image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from registry.errors import BenchmarkError, CardError, NotFoundError
from registry.representation import Facts, Representation


@dataclass(frozen=True)
class Entry:
    """One control.

    Attributes:
        name: its row.
        make: from the facts of a benchmark and a seed.
        obstacle: why it does not apply to a benchmark, "" if it does.
    """

    name: str
    make: Callable[[Facts, int], Representation]
    obstacle: Callable[[Facts], str]


class Catalogue:
    """Entries by name; refuses a name that is taken and lists the names on a miss."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        """Add one entry.

        Raises:
            CardError: the name is taken.
        """
        if entry.name in self._entries:
            raise CardError(f"There is a control `{entry.name}` already. Give the new one another name.")
        self._entries[entry.name] = entry

    def names(self) -> tuple[str, ...]:
        """All names in the order they were added."""
        return tuple(self._entries)

    def entry(self, name: str) -> Entry:
        """The entry of that name.

        Raises:
            NotFoundError: there is none; lists the names.
        """
        if name not in self._entries:
            raise NotFoundError("control", name, self._entries)
        return self._entries[name]


def control_names() -> tuple[str, ...]:
    """Names of all hand-made controls, those of tissue structure last."""
    return CONTROLS.names()


def not_applicable(name: str, facts: Facts) -> str:
    """Why a control does not apply to a benchmark, in words ("the index has no wells"); "" if it does.

    Raises:
        NotFoundError: no such control.
    """
    return CONTROLS.entry(name).obstacle(facts)


def make_control(name: str, facts: Facts, seed: int) -> Representation:
    """Make one control for one benchmark.

    Args:
        name: one of `control_names`.
        facts: what is known of the benchmark.
        seed: for `random`; the others do not depend on it.

    Raises:
        NotFoundError: no such control.
        BenchmarkError: it does not apply.
    """
    entry = CONTROLS.entry(name)
    obstacle = entry.obstacle(facts)
    if obstacle:
        raise BenchmarkError(f"`{name}` does not apply to `{facts.benchmark}`: {obstacle}. Ask `not_applicable` first.")
    return entry.make(facts, seed)


def _intensity(facts: Facts, _seed: int) -> Representation:
    from registry.controls.intensity import Intensity

    return Intensity(facts)


def _histogram(facts: Facts, _seed: int) -> Representation:
    from registry.controls.histogram import Histogram

    return Histogram(facts)


def _density(facts: Facts, _seed: int) -> Representation:
    from registry.controls.density import Density

    return Density(facts)


def _spectrum(facts: Facts, _seed: int) -> Representation:
    from registry.controls.spectrum import Spectrum

    return Spectrum(facts)


def _texture(facts: Facts, _seed: int) -> Representation:
    from registry.controls.texture import Texture

    return Texture(facts)


def _pixels_pca(facts: Facts, _seed: int) -> Representation:
    from registry.controls.pixels_pca import PixelsPca

    return PixelsPca(facts)


def _layout(facts: Facts, _seed: int) -> Representation:
    from registry.controls.layout import Layout

    return Layout(facts)


def _random(facts: Facts, seed: int) -> Representation:
    from registry.controls.random import Random

    return Random(facts, seed)


def _composition(facts: Facts, _seed: int) -> Representation:
    from registry.controls.composition import Composition

    return Composition(facts)


def _point_process(facts: Facts, _seed: int) -> Representation:
    from registry.controls.point_process import PointProcess

    return PointProcess(facts)


def _cell_graph(facts: Facts, _seed: int) -> Representation:
    from registry.controls.cell_graph import CellGraph

    return CellGraph(facts)


def _always(_facts: Facts) -> str:
    return ""


def _needs_images(facts: Facts) -> str:
    return "" if facts.image.present else "there are no images, only vectors made elsewhere"


def _needs_cells(facts: Facts) -> str:
    if not facts.image.present:
        return _needs_images(facts)
    if facts.modality == "natural":
        return "natural images hold no cells to count"
    return "every image is one cell" if facts.cells_per_image == "one" else ""


def _needs_wells(facts: Facts) -> str:
    from registry.controls.layout import has_positions

    return "" if has_positions(facts) else "the index has no wells"


def _needs_types(facts: Facts) -> str:
    if not facts.nuclei:
        return "the benchmark has no table of nuclei"
    if not facts.nuclear_types:
        return "the table of nuclei names no types"
    return "nuclei are of one type" if len(facts.nuclear_types) == 1 else ""


def _needs_window(facts: Facts) -> str:
    if not facts.nuclei:
        return "the benchmark has no table of nuclei"
    return "images vary in size, so the window of their nuclei is not known" if facts.image.resize == "linear" else ""


def _catalogue() -> Catalogue:
    catalogue = Catalogue()
    for entry in (
        Entry("intensity", _intensity, _needs_images),
        Entry("histogram", _histogram, _needs_images),
        Entry("density", _density, _needs_cells),
        Entry("spectrum", _spectrum, _needs_images),
        Entry("texture", _texture, _needs_images),
        Entry("pixels-pca", _pixels_pca, _needs_images),
        Entry("layout", _layout, _needs_wells),
        Entry("random", _random, _always),
        Entry("composition", _composition, _needs_types),
        Entry("point-process", _point_process, _needs_window),
        Entry("cell-graph", _cell_graph, _needs_window),
    ):
        catalogue.add(entry)
    return catalogue


CONTROLS = _catalogue()
