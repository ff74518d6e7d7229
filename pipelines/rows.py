"""From a cell's parameters to the rows it makes: cards, and the members that are extracted and exported."""

from __future__ import annotations

from pathlib import Path

from pipelines.benchmarks.index import Benchmark
from pipelines.params import CellParams, EncoderParams
from registry.cards import TABLE, EncoderCard
from registry.errors import ParamsError
from registry.files import read_json, sha256_of_file
from registry.representation import Facts

SHUFFLED = "shuffled-"


def facts_of(benchmark: Benchmark) -> Facts:
    """What a representation may know of a benchmark before it sees an image."""
    types = sorted({str(t) for table in benchmark.nuclei.values() for t in table["type"].dropna().unique()})
    metadata = tuple(c for c in benchmark.index.columns if c.startswith("Metadata_"))
    card = benchmark.card
    return Facts(card.name, card.modality, card.image, metadata, card.structure, tuple(types))


def stated_card(facts: EncoderParams, weights: Path | None) -> EncoderCard:
    """The card of an encoder as params.yaml states it; of one trained here, its training facts too.

    Raises:
        ParamsError: `weights` is none of "trained", "random", "file:PATH", "hub:TAG".
    """
    kind = facts.weights.partition(":")[0]
    if kind not in ("trained", "random", "file", "hub"):
        raise ParamsError(f"`{facts.name}`: expected weights `trained`, `random`, `file:PATH` or `hub:TAG`, got `{facts.weights}`.")
    training = read_json(weights.parent / "card.json")["training"] if kind == "trained" and weights is not None else {}
    return EncoderCard(
        name=facts.name,
        role=facts.role,
        summary=facts.summary,
        architecture=facts.architecture,
        weights={"trained": "trained here", "file": f"file:{Path(facts.weights).name}"}.get(kind, facts.weights),
        weights_sha256=sha256_of_file(weights) if weights is not None else "",
        channel_strategy=facts.channel_strategy,
        input_px=facts.input_px,
        mean=tuple(facts.mean),
        std=tuple(facts.std),
        twins=tuple(facts.twins),
        licence=facts.licence,
        citation=facts.citation,
        training=training,
    )


def weights_file(cell: CellParams, root: Path) -> Path | None:
    """The weights a cell's encoder is loaded from; None for random weights and the hub's.

    Raises:
        ParamsError: the file is not there.
    """
    if cell.card is None or cell.card.weights.partition(":")[0] in ("random", "hub"):
        return None
    path = root / cell.made_from
    path = path / "weights.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise ParamsError(f"`cells.{cell.benchmark}--{cell.cell}`: there are no weights at `{cell.made_from}`. Run its train stage or mend the path.")
    return path


def cards_of(cell: CellParams, root: Path) -> dict[str, EncoderCard]:
    """Cards of the networks of a cell by row; {} for the panel of controls.

    Raises:
        ParamsError: a row that is neither the encoder of the card nor its shuffled twin.
    """
    if cell.card is None:
        return {}
    card = stated_card(cell.card, weights_file(cell, root))
    known = {card.name: card}
    if card.architecture != TABLE:
        from registry.encoders.rows import shuffled_card

        known[f"{SHUFFLED}{card.name}"] = shuffled_card(card)
    unknown = [row for row in cell.rows if row not in known]
    if unknown:
        raise ParamsError(f"`cells.{cell.benchmark}--{cell.cell}`: row `{unknown[0]}` is not of its encoder. Known: {', '.join(known)}.")
    return {row: known[row] for row in cell.rows}
