"""What a cell computes: its rows, and the members of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines.benchmarks.index import Benchmark
from pipelines.params import CellParams
from pipelines.rows import cards_of, facts_of, weights_file
from registry.cards import TABLE, EncoderCard
from registry.representation import Facts, Representation
from registry.table import TableEncoder, table_members


@dataclass(frozen=True)
class MemberPlan:
    """One draw of a row: its name, and what builds it (anew for each fold it is fitted to)."""

    name: str
    make: Callable[[], Representation]


@dataclass(frozen=True)
class RowPlan:
    """One row to compute.

    Attributes:
        card: its facts; its name is the row's.
        members: its draws; () where it does not apply.
        not_applicable: why it does not apply here; "" if it does.
        device: where it computes, "cpu" or "cuda:<name>".
        precision: "float32" or "amp-<dtype>".
    """

    card: EncoderCard
    members: tuple[MemberPlan, ...] = ()
    not_applicable: str = ""
    device: str = "cpu"
    precision: str = "float32"

    @property
    def name(self) -> str:
        """The row's name."""
        return self.card.name


@dataclass(frozen=True)
class Draw:
    """One member as fitted for one fold.

    Attributes:
        row: name of its row.
        member: its name.
        fold: the fold it is fitted to; None if it is not fitted, or there is one fold only.
        representation: images in, vectors out.
    """

    row: str
    member: str
    fold: int | None
    representation: Representation

    @property
    def key(self) -> str:
        """Names its vectors within a shard."""
        return f"{self.row}/{self.member}" + ("" if self.fold is None else f".fold{self.fold}")


def plan_cell(benchmark: Benchmark, cell: CellParams, root: Path, device: str, precision: str, seeds: int, seed: int) -> list[RowPlan]:
    """The rows of one cell of a workspace.

    Args:
        benchmark: whose images.
        cell: the panel of controls, or an encoder and its twins.
        root: the workspace.
        device: "cpu" or "cuda", for networks.
        precision: for networks.
        seeds: draws of each kind of twin.
        seed: of controls that draw.

    Raises:
        NotFoundError: an unknown control, architecture or timm model; lists the known.
        ParamsError: weights that are not there, or a row the cell's card does not describe.
        ProviderError: the device is not there.
    """
    facts = facts_of(benchmark)
    if cell.card is None:
        return [_control(name, facts, seed) for name in cell.rows]
    weights = weights_file(cell, root)
    if cell.card.architecture == TABLE and weights is not None:
        return [RowPlan(card, _table_members(card, weights)) for card in cards_of(cell, root).values()]
    from registry.encoders.encoder import Placement
    from registry.encoders.rows import encoder_members

    placement = Placement(device, precision)
    placement.resolve()
    rows = []
    for card in cards_of(cell, root).values():
        members = tuple(MemberPlan(member.name, member.make) for member in encoder_members(card, facts, weights, placement, seeds))
        rows.append(RowPlan(card, members, "", placement.describe(), precision))
    return rows


def _table_members(card: EncoderCard, path: Path) -> tuple[MemberPlan, ...]:
    return tuple(MemberPlan(name, partial(TableEncoder, card, path, name)) for name in table_members(path))


def _control(name: str, facts: Facts, seed: int) -> RowPlan:
    from registry.controls.catalogue import make_control, not_applicable

    reason = not_applicable(name, facts)
    if reason:
        return RowPlan(EncoderCard(name=name, role="negative", summary=f"Does not apply here: {reason}.", pooling="none"), (), reason)
    make = partial(make_control, name, facts, seed)
    return RowPlan(make().card, (MemberPlan("main", make),))
