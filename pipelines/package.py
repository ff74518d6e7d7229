"""Rows to bundles: the network with its preprocessing as ONNX, the probes, the scorecard, and the controls a reading quotes."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.benchmarks.index import Benchmark
from pipelines.board import ORACLE, Board, questions, read_board, variant
from pipelines.embeddings import Row
from pipelines.parallel import in_parallel
from pipelines.params import CellParams, Params
from pipelines.references import References, terms_of_images
from pipelines.rows import cards_of, facts_of, weights_file
from pipelines.unlike import has_learned
from pipelines.workspace import Workspace
from registry.bundle import Arrays, BundleCard, CompanionParts, Golden, read_arrays, write_bundle
from registry.cards import EncoderCard
from registry.drawn import drawn_images
from registry.errors import ParityError
from registry.evidence import Scorecard
from registry.export import export_onnx
from registry.files import published, read_json, sha256_of_file
from registry.images import conform
from registry.licences import may_pass_on
from registry.reference import ReferenceSet
from registry.representation import Batch, Representation

#: test images of fold 0 that parity is computed on, and golden answers where they may be passed on
GOLDEN_IMAGES = 8
#: why a service has no oracle
ORACLE_UNSERVABLE = "it is the best row of each task, chosen with the labels of the training images; serve that row itself"
#: largest difference between the embedding computed again for the bundle and the one that was scored, relative to its scale
SAME = 1e-3
#: smallest cosine of the two where the scored one was computed in mixed precision, which keeps 8 to 11 bits
SAME_DIRECTION = 0.99


@dataclass(frozen=True)
class Job:
    """One row to be made ready.

    Attributes:
        row: its vectors.
        cell: where it was made.
        card: of a network; None for a hand-made control.
        heads: the probes of all rows of the cell.
    """

    row: Row
    cell: CellParams
    card: EncoderCard | None
    heads: Arrays


@dataclass(frozen=True)
class Part:
    """One row made ready for bundles.

    Attributes:
        card: what it is.
        onnx: its exported file, None if it cannot be served.
        heads: "<task>/<array>" of the served member.
        golden: images with known answers; None if it cannot be served.
        reference: training images of fold 0; None if it cannot be served.
    """

    card: BundleCard
    onnx: Path | None
    heads: Arrays
    golden: Golden | None
    reference: ReferenceSet | None


def package(workspace: Workspace, params: Params, benchmark: str) -> None:
    """Write a bundle for every row that applies and for the oracle, plots of every verdict, and the benchmark's receipts.

    Raises:
        ParityError: an exported network, or a row computed again, is not what was scored.
    """
    from registry.receipts import write_receipts

    board = read_board(workspace, benchmark)
    with tempfile.TemporaryDirectory() as temporary:
        packer = Packer(workspace, params, board, Path(temporary))
        jobs = [job for cell in params.cells_of(benchmark) for job in packer.jobs_of(cell)]
        importlib.import_module("torch.onnx")  # once, before the workers fork
        if any(not job.row.manifest.unservable for job in jobs):
            print(f"[package] {benchmark}: {len(packer.references.rows)} reference images", flush=True)  # made here, for the same reason
        parts = dict(zip([job.row.name for job in jobs], in_parallel(packer.part_of, jobs, params.threads), strict=True))
        parts[ORACLE] = oracle_part(workspace, board.benchmark)
        for name, part in parts.items():
            card = Scorecard.from_dict(read_json(workspace.verdicts(benchmark) / f"{name}.scorecard.json"))
            write_bundle(
                workspace.bundles(benchmark) / name,
                part.card,
                card,
                onnx=part.onnx,
                heads=part.heads,
                reference=part.reference,
                golden=part.golden,
                companions=companions(card, parts),
            )
            write_plots(workspace.plots(benchmark) / name, card, params.diagnose.margin)
    write_receipts(workspace.root, benchmark)


def oracle_part(workspace: Workspace, benchmark: Benchmark) -> Part:
    """The positive control as it was chosen: its probes are what it has learned, and it has no embedding of its own.

    Raises:
        BundleError: its heads are damaged.
    """
    folder = workspace.oracle(benchmark.card.name)
    card = EncoderCard.from_dict(read_json(folder / "card.json"))
    heads = _heads_of(read_arrays(folder / "heads.npz"), f"{ORACLE}/main")
    fitted_to = {"benchmark": benchmark.card.name, "data": benchmark.data_hash(), "fold": "0"}
    state = sha256_of_file(folder / "heads.npz")
    return Part(BundleCard(card, benchmark.card.name, benchmark.card.image, 0, fitted_to, state, "main", ORACLE_UNSERVABLE), None, heads, None, None)


def _heads_of(heads: Arrays, member: str) -> Arrays:
    """ "<task>/<array>" of one "<row>/<member>"."""
    return {name.removeprefix(f"{member}/"): array for name, array in heads.items() if name.startswith(f"{member}/")}


def companions(card: Scorecard, parts: Mapping[str, Part]) -> list[CompanionParts]:
    """What readings of an encoder quote: its twins, and the best servable control of each task."""
    twins = [c.control.partition("/")[0] for task in card.tasks for c in task.comparisons if c.role == "twin"]
    names = sorted({*twins, *(task.servable_control for task in card.tasks)} - {""})
    found = []
    for part in (parts[name] for name in names):
        if part.onnx is not None:
            found.append(CompanionParts(part.card, part.onnx, part.heads, part.golden.embedding if part.golden is not None else None))
    return found


def write_plots(folder: Path, card: Scorecard, margin: float) -> None:
    """A forest plot of every verdict, as the registry keeps them."""
    from pipelines.figures import forest

    for task in card.tasks:
        with published(folder / f"{task.task}.png") as path:
            path.write_bytes(forest(task, margin=margin))


@dataclass(frozen=True)
class Packer:
    """Makes parts of one benchmark's rows; exported files lie in `temporary`."""

    workspace: Workspace
    params: Params
    board: Board
    temporary: Path

    @property
    def benchmark(self) -> Benchmark:
        """The benchmark."""
        return self.board.benchmark

    @cached_property
    def ids(self) -> list[str]:
        """Image ids in index order."""
        return [str(i) for i in self.benchmark.index["image_id"]]

    @cached_property
    def references(self) -> References:
        """The images that readings are compared with."""
        return References.of(self.benchmark, self.params.threads)

    @cached_property
    def golden_rows(self) -> list[int]:
        """Test images of fold 0, evenly spread over the index."""
        test = np.flatnonzero(self.benchmark.folds[0].test)
        return [int(i) for i in test[np.unique(np.linspace(0, len(test) - 1, GOLDEN_IMAGES).astype(int))]]

    @cached_property
    def golden_batch(self) -> Batch:
        """The golden images as a representation sees them."""
        card, index = self.benchmark.card, self.benchmark.index.iloc[self.golden_rows]
        pixels = np.stack([conform(self.benchmark.image(i), card.image) for i in self.golden_rows])
        nuclei = tuple(self.benchmark.nuclei[i] for i in index["image_id"]) if card.structure else None
        return Batch(tuple(index["image_id"]), pixels, index.filter(like="Metadata_"), nuclei)

    @cached_property
    def drawn_batch(self) -> Batch:
        """Drawn images in place of the golden ones, for a benchmark whose images may not be passed on."""
        return replace(self.golden_batch, pixels=drawn_images(self.benchmark.card.image, len(self.golden_rows)), elsewhere={})

    def jobs_of(self, cell: CellParams) -> list[Job]:
        """The rows of one cell that apply."""
        cards = cards_of(cell, self.workspace.root)
        heads = read_arrays(self.workspace.scores(cell.benchmark) / cell.cell / "heads.npz")
        rows = [self.board.rows[name] for name in cell.rows]
        return [Job(row, cell, cards.get(row.name), heads) for row in rows if not row.manifest.not_applicable]

    def part_of(self, job: Job) -> Part:
        """One row made ready.

        Raises:
            ParityError: it is not what was scored, or its exported file is not what it is.
        """
        row, cell, card, heads = job.row, job.cell, job.card, job.heads
        member = self.served_member(row)
        print(f"[package] {cell.benchmark}/{row.name}: {member}", flush=True)
        mine = _heads_of(heads, f"{row.name}/{member}")
        offline = row.embedding(member, 0, self.ids)
        fitted_to = {"benchmark": cell.benchmark, "data": row.manifest.data_hash, "fold": "0"} if row.manifest.fitted else {}
        stated = EncoderCard.from_dict(row.manifest.card)
        if row.manifest.unservable:
            unserved = BundleCard(stated, cell.benchmark, self.benchmark.card.image, row.manifest.dim, fitted_to, "", member, row.manifest.unservable)
            return Part(unserved, None, mine, None, None)
        representation = self._representation(row, member, cell, card)
        embedding = representation.embed(self.golden_batch)
        check_same(row.name, offline[self.golden_rows], embedding, row.manifest.precision)
        network = representation.network()
        if network is None:
            raise ParityError(f"`{row.name}` was extracted as servable and now has no network. Extract it again.")
        # what is in a bundle goes wherever the bundle goes: to a registry, into an archive, to every endpoint
        permission, batch, compared = may_pass_on(self.benchmark.card.licence), self.golden_batch, self.golden_batch.pixels
        if not permission.allowed:
            batch = self.drawn_batch
            embedding, compared = representation.embed(batch), np.concatenate([compared, batch.pixels])
        path = self.temporary / f"{row.name}.onnx"
        report = export_onnx(network, compared, path)
        bundle_card = BundleCard(
            stated, cell.benchmark, self.benchmark.card.image, row.manifest.dim, fitted_to, report.sha256, member, "", report.as_dict()
        )
        stored = batch.pixels.astype(self.benchmark.card.image.dtype)
        if not np.array_equal(stored, batch.pixels):
            # resampled images lie between the stored values: they are kept as the network saw them
            stored = batch.pixels
        reference = self.references.of_row(offline, learned=has_learned(stated, fitted=row.manifest.fitted))
        said = {"withheld": permission.reason}
        if permission.allowed:
            said = {"withheld": "", "licence": self.benchmark.card.licence, "terms": terms_of_images("Image", self.benchmark.card)}
        golden = Golden(stored, embedding, probabilities(mine, embedding), **said)
        return Part(bundle_card, path, mine, golden, reference)

    def _representation(self, row: Row, member: str, cell: CellParams, card: EncoderCard | None) -> Representation:
        facts = facts_of(self.benchmark)
        if card is None:
            from registry.controls.catalogue import make_control

            made: Representation = make_control(row.name, facts, self.params.seed)
        else:
            from registry.encoders.rows import encoder_members

            members = encoder_members(card, facts, weights_file(cell, self.workspace.root), seeds=self.params.extract.twin_seeds)
            made = next(m for m in members if m.name == member).make()
        if made.fitted:
            made.load_state(row.state(member, 0))
        return made

    def served_member(self, row: Row) -> str:
        """`main`; of a twin the member in the middle of its stronger kind, by its mean primary score over the tasks."""
        members = row.manifest.members
        if members == ["main"]:
            return "main"
        primary = {task.name: task.metric for task in questions(self.board)}
        values: dict[str, list[float]] = {m: [] for m in members}
        for s in self.board.scored:
            if s.row == row.name and primary.get(s.task) == s.metric:
                values[s.member].append(s.statistic.value)
        return middle_member({member: float(np.mean(found)) for member, found in values.items()})


def middle_member(values: Mapping[str, float]) -> str:
    """The member at the (lower) median of the kind of draw with the higher mean."""
    kinds: dict[str, list[str]] = {}
    for member in values:
        kinds.setdefault(variant(member), []).append(member)
    strongest = max(kinds.values(), key=lambda members: float(np.mean([values[m] for m in members])))
    return sorted(strongest, key=lambda m: (values[m], m))[(len(strongest) - 1) // 2]


def check_same(name: str, scored: NDArray[np.float32], again: NDArray[np.float32], precision: str = "float32") -> None:
    """Refuse to package anything but what was scored.

    Args:
        name: of the row.
        scored: (n, d) as extracted.
        again: (n, d) in float32 on the CPU, as it will be served.
        precision: of the extraction. Mixed precision rounds every value, so only the directions of vectors are compared.

    Raises:
        ParityError: the embeddings differ by more than `SAME` of their scale, or in direction by more than `SAME_DIRECTION`.
    """
    if precision != "float32":
        one, other = scored.astype(np.float64), again.astype(np.float64)
        lengths = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
        # a vector of zeros points where only another one does
        same = np.where(np.maximum(*lengths) == 0, 1.0, np.sum(one * other, axis=1) / np.maximum(lengths[0] * lengths[1], np.finfo(float).tiny))
        cosine = float(same.min())
        if not cosine >= SAME_DIRECTION:
            raise ParityError(
                f"`{name}`: computed again in float32 it points elsewhere than what was scored under `{precision}` (cosine {cosine:.3f}, expected"
                f" at least {SAME_DIRECTION}). Extract and evaluate it again, with `extract.precision: float32` if it happens again."
            )
        return
    scale = float(np.sqrt(np.mean(scored.astype(np.float64) ** 2))) or 1.0
    difference = float(np.abs(scored - again).max()) / scale
    if not difference <= SAME:
        raise ParityError(
            f"`{name}`: computed again it differs from what was scored by {difference:.2g} of its scale. Extract and evaluate it again."
        )


def probabilities(heads: Arrays, embedding: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """(n, k) probabilities of every task by the served probes."""
    from registry.heads import heads_of

    return {task: head.predict_proba(embedding) for task, head in heads_of(heads).items()}
