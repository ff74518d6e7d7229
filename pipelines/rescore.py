"""Stale evidence, listed and made again: the stages of exactly the stale rows, then the registry, then the gate.

DVC sees that an index, a parameter or code has changed, and would run everything that depends on it; of a library it sees nothing.
So the stages are chosen here, by what the scorecards record, and each runs alone (`dvc repro --single-item --force`). Which stages
are done is written down after each: what a killed run finished is not done again, and its scorecards read stale until all is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from filelock import FileLock, Timeout

from pipelines.board import ORACLE
from pipelines.current import Judge
from pipelines.params import CellParams, Params
from pipelines.workspace_files import await_dvc, dvc
from registry.errors import BenchmarkError, NotFoundError
from registry.evidence import Scorecard
from registry.files import read_json, sha256_of_file, sha256_of_json, write_json
from registry.gates import Decision
from registry.promote import outdated, review
from registry.receipts import sync
from registry.staleness import STEPS, Staleness
from registry.upkeep import Standing, look, mark

if TYPE_CHECKING:
    from registry.store import Store

Say = Callable[[str], None]


@dataclass(frozen=True)
class Line:
    """One row on one benchmark whose evidence is stale.

    Attributes:
        row: its name.
        benchmark: name.
        found: why.
        where: "workspace" and the versions of the registry that show this evidence.
        obstacle: why it cannot be made again here; "" if it can.
    """

    row: str
    benchmark: str
    found: Staleness
    where: tuple[str, ...]
    obstacle: str = ""

    def __str__(self) -> str:
        said = f"{self.row}@{self.benchmark} ({', '.join(self.where)}): {self.found}"
        return f"{said}. It cannot be made again here: {self.obstacle}" if self.obstacle else said


@dataclass(frozen=True)
class Survey:
    """What is stale.

    Attributes:
        lines: by benchmark and row.
        unfinished: benchmarks whose stages an earlier run left unfinished, or whose bundles are not of their scorecards.
        promoted: versions that carry the alias `promoted` and need another decision.
        unchecked: why evidence of the registry was not checked, by benchmark.
    """

    lines: tuple[Line, ...] = ()
    unfinished: tuple[str, ...] = ()
    promoted: tuple[Standing, ...] = ()
    unchecked: Mapping[str, str] = field(default_factory=dict)

    @property
    def anything(self) -> bool:
        """Whether there is something to do or to say."""
        return bool(self.lines or self.unfinished or self.promoted)

    @property
    def benchmarks(self) -> list[str]:
        """Benchmarks on which something can be made again."""
        return sorted({*(line.benchmark for line in self.lines if not line.obstacle), *self.unfinished})


@dataclass(frozen=True)
class Rescored:
    """What was done.

    Attributes:
        stages: that ran, in order.
        registered: versions that got new evidence, or are new.
        decisions: of the gate about promoted versions, by version.
        left: what is stale now.
    """

    stages: tuple[str, ...]
    registered: tuple[str, ...]
    decisions: Mapping[str, Decision]
    left: Survey


def survey(judge: Judge, standings: Sequence[Standing], targets: Sequence[str] = ()) -> Survey:
    """What is stale in a workspace and in the registry.

    Args:
        judge: of the workspace.
        standings: of all versions of the registry.
        targets: `NAME` or `NAME@BENCHMARK`: benchmarks on which those are stale, and all that is stale there, because one table holds
            a benchmark's rows; none = everything.

    Raises:
        NotFoundError: a target that neither the workspace nor the registry has.
    """
    benchmarks = list(judge.params.compare) if isinstance(judge.params, Params) else []
    known: set[tuple[str, str]] = {(s.version.name, name) for s in standings for name in s.found}
    lines: list[Line] = []
    for benchmark in benchmarks:
        found = _in_workspace(judge, benchmark)
        known |= {(row, benchmark) for row in found}
        lines += _lines(judge, benchmark, {row: each for row, each in found.items() if each.stale}, standings)
    unchecked = {name: each.unchecked for s in standings for name, each in s.current.items() if each.unchecked}
    # evidence that only the registry's tags say something about
    lines += [
        Line(s.version.name, name, each, (_shown(s),), f"`{name}` is not in this workspace.")
        for s in standings
        for name, each in s.current.items()
        if each.stale and name not in benchmarks
    ]
    unfinished = [name for name in benchmarks if _unfinished(judge, name)]
    # about evidence that another workspace must make again, that one asks the gate
    here = {name for name in benchmarks if not isinstance(judge.current(name), str)}
    promoted = [s for s in standings if s.promoted and here & {*outdated(s.version), *(name for name, each in s.found.items() if each.stale)}]
    whole = Survey(tuple(lines), tuple(unfinished), tuple(promoted), unchecked)
    return _only(whole, targets, known) if targets else whole


def plan(judge: Judge, benchmark: str) -> list[str]:
    """The stages that make a benchmark's stale evidence again, in order; [] where nothing is stale."""
    params = _params(judge)
    found = _in_workspace(judge, benchmark)
    stale = {row: each for row, each in found.items() if each.stale}
    trains, extracts, evaluates = [], [], []
    if stale:
        for cell in params.cells_of(benchmark):
            # a row that was never scored belongs into the table that is made again
            steps = [reason.step for row in cell.rows if row in stale for reason in stale[row].reasons]
            steps += ["extract" for row in cell.rows if row not in found]
            first = min(map(STEPS.index, steps), default=len(STEPS))
            if first <= STEPS.index("extract") and (key := _to_train(judge, params, cell)):
                trains.append(f"train@{key}")
            if first <= STEPS.index("extract"):
                extracts.append(f"extract@{benchmark}--{cell.cell}")
            if first <= STEPS.index("evaluate"):
                evaluates.append(f"evaluate@{benchmark}--{cell.cell}")
    own = [STEPS.index(reason.step) for reason in stale[ORACLE].reasons] if ORACLE in stale else []
    oracle = [f"oracle@{benchmark}"] if extracts or min(own, default=len(STEPS)) <= STEPS.index("evaluate") else []
    diagnose = [f"diagnose@{benchmark}"] if stale else []
    package = [f"package@{benchmark}"] if stale or _unpackaged(judge, benchmark) else []
    return [*trains, *extracts, *evaluates, *oracle, *diagnose, *package]


def rescore(store: Store, root: Path, targets: Sequence[str] = (), say: Say = print) -> Rescored:
    """Make all stale evidence again that can be made here, register it, and ask the gate again about promoted versions.

    Args:
        store: the registry.
        root: the workspace.
        targets: as for `survey`.
        say: told what is done, a line at a time.

    Raises:
        BenchmarkError: a stage failed; what was finished is not done again by the next run.
        NotFoundError: a target that is not there.
        StoreError: the store refused.
    """
    with _alone(root, say):
        judge = Judge(root)
        before = survey(judge, mark(store, judge), targets)
        for line in before.lines:
            say(str(line))
        # for the others the workspace is ahead of the registry
        work = [benchmark for benchmark in before.benchmarks if _journal(judge, benchmark) or plan(judge, benchmark)]
        ran = [stage for benchmark in work for stage in _run(judge, benchmark, benchmark == work[-1], say)]
        registered: tuple[str, ...] = ()
        if before.benchmarks:
            registered = sync(store, root, say).registered
        judge = Judge(root)
        standings = mark(store, judge)
        after, waiting = survey(judge, standings, targets), survey(judge, standings).benchmarks
        params, decisions = _params(judge), {}
        for standing in after.promoted:
            if left := [name for name in waiting if name in standing.found and standing.found[name].stale]:
                say(f"`{standing.version}` keeps its alias until its evidence on {', '.join(f'`{name}`' for name in left)} is made again too")
                continue
            decisions[str(standing.version)] = review(store, standing.version, params.gate.max_loss, params.diagnose.alpha, judge)
        if decisions:
            after = survey(judge, look(store, judge), targets)
    return Rescored(tuple(ran), registered, decisions, after)


# ---------------------------------------------------------------------------------------------- what is stale


def _params(judge: Judge) -> Params:
    """The workspace's parameters, or the error that says why there are none."""
    return judge.params if isinstance(judge.params, Params) else judge.workspace.params()


def _in_workspace(judge: Judge, benchmark: str) -> dict[str, Staleness]:
    """What is known of each scorecard of the workspace on one benchmark."""
    scorecards = judge.scorecards(benchmark)
    cards = judge.cards(benchmark) if scorecards else {}
    return {row: judge(card, cards.get(row, "")) for row, card in scorecards.items()}


def _lines(judge: Judge, benchmark: str, stale: Mapping[str, Staleness], standings: Sequence[Standing]) -> Iterator[Line]:
    """Lines of one benchmark: a version whose evidence is the workspace's stands beside it."""
    packed = {row: judge.workspace.bundles(benchmark) / row / "scorecard.json" for row in stale}
    hashes = {row: sha256_of_file(path) for row, path in packed.items() if path.is_file()}
    shown = {
        row: [s for s in standings if s.version.name == row and s.version.evidence(benchmark) == hashes.get(row) and benchmark in s.current]
        for row in stale
    }
    for row, found in stale.items():
        yield Line(row, benchmark, found, ("workspace", *map(_shown, shown[row])))
    for s in standings:
        each = s.current.get(benchmark)
        if each is not None and each.stale and s not in shown.get(s.version.name, []):
            yield Line(s.version.name, benchmark, each, (_shown(s),), _obstacle(judge, s, benchmark))


def _shown(standing: Standing) -> str:
    return f"{standing.version}{' promoted' if standing.promoted else ''}"


def _obstacle(judge: Judge, standing: Standing, benchmark: str) -> str:
    """Why the evidence of a version of the registry cannot be made again in this workspace."""
    if _unfinished(judge, benchmark):
        return ""
    if not list(_scorecard_files(judge, benchmark)):
        return f"the workspace has no scorecards of `{benchmark}`. Run `dvc repro` or `dvc pull`."
    card = judge.workspace.bundles(benchmark) / standing.version.name / "card.json"
    if not card.is_file() or read_json(card)["identity"] != standing.version.identity:
        return "the workspace makes another version of it, or none."
    return ""


def _scorecard_files(judge: Judge, benchmark: str) -> Iterator[Path]:
    yield from sorted(judge.workspace.verdicts(benchmark).glob("*.scorecard.json"))


def _only(whole: Survey, targets: Sequence[str], known: set[tuple[str, str]]) -> Survey:
    """The part of a survey that is about the benchmarks on which the targets are stale."""
    wanted: set[str] = set()
    for target in targets:
        name, _, benchmark = target.partition("@")
        found = {b for row, b in known if row == name and benchmark in ("", b)}
        if not found:
            raise NotFoundError("scored row", target, {f"{row}@{b}" for row, b in known})
        promoted = any(s.version.name == name for s in whole.promoted)
        wanted |= {b for b in found if promoted or b in whole.unfinished or any((line.row, line.benchmark) == (name, b) for line in whole.lines)}
    return Survey(
        tuple(line for line in whole.lines if line.benchmark in wanted),
        tuple(b for b in whole.unfinished if b in wanted),
        tuple(s for s in whole.promoted if wanted & s.found.keys()),
        {b: why for b, why in whole.unchecked.items() if b in wanted},
    )


def _unpackaged(judge: Judge, benchmark: str) -> bool:
    """Whether bundles are not of the scorecards that lie beside them, or not all there: a run ended between the two."""
    files = list(_scorecard_files(judge, benchmark))
    if files and not judge.workspace.receipts(benchmark).is_file():
        return True
    for path in files:
        packed = judge.workspace.bundles(benchmark) / path.name.removesuffix(".scorecard.json") / "scorecard.json"
        if packed.is_file() and Scorecard.from_dict(read_json(packed)) != Scorecard.from_dict(read_json(path)):
            return True
    return False


# ---------------------------------------------------------------------------------------------- making it again


def _to_train(judge: Judge, params: Params, cell: CellParams) -> str:
    """Key of the network of a cell that must be trained again: its training images may be test images now; "" if none."""
    key = f"{cell.benchmark}--{cell.card.name}" if cell.card is not None else ""
    if cell.card is None or cell.card.weights != "trained" or key not in params.train:
        return ""
    path = judge.workspace.weights(cell.benchmark, cell.card.name) / "card.json"
    trained_on = read_json(path).get("training", {}).get("data", "") if path.is_file() else ""
    return key if trained_on != sha256_of_file(judge.workspace.data(cell.benchmark) / "index.parquet") else ""


@dataclass(frozen=True)
class Journal:
    """The stages of one benchmark that are to run, and those that are done, under certain facts; a file while there is something to do.

    Attributes:
        path: of the file.
        facts: hash of what the stages were chosen by.
        stages: in order.
        done: of those.
    """

    path: Path
    facts: str
    stages: tuple[str, ...]
    done: tuple[str, ...] = ()

    @property
    def left(self) -> list[str]:
        """What is still to be done, in order."""
        return [stage for stage in self.stages if stage not in self.done]

    def write(self) -> None:
        """Publish it; remove the file when all is done."""
        if self.left:
            write_json(self.path, {"facts": self.facts, "stages": list(self.stages), "done": list(self.done)})
        else:
            self.path.unlink(missing_ok=True)


def _journal(judge: Judge, benchmark: str) -> Journal | None:
    """What an earlier run left, if it was chosen by the same facts as now and `dvc repro` has not done it since."""
    path = _journal_file(judge, benchmark)
    if not path.is_file():
        return None
    value, facts = read_json(path), _facts(judge, benchmark)
    found = Journal(path, facts, tuple(value["stages"]), tuple(value["done"]))
    # dvc removes what a stage makes before it runs it: a stage that was killed may have left nothing at all
    undone = found.left == ["report"] or plan(judge, benchmark) or not list(_scorecard_files(judge, benchmark))
    return found if value["facts"] == facts and undone else None


def _journal_file(judge: Judge, benchmark: str) -> Path:
    return judge.workspace.root / "out" / f".rescore-{benchmark}.json"


def _facts(judge: Judge, benchmark: str) -> str:
    current = judge.current(benchmark)
    return sha256_of_json([current if isinstance(current, str) else asdict(current), judge.cards(benchmark)])


def _unfinished(judge: Judge, benchmark: str) -> bool:
    return _journal(judge, benchmark) is not None or _unpackaged(judge, benchmark)


def _run(judge: Judge, benchmark: str, last: bool, say: Say) -> Iterator[str]:
    """Run the stages of one benchmark that are not done, after those of the last one the report; yields each after it has run.

    Raises:
        BenchmarkError: a stage failed.
    """
    earlier = _journal(judge, benchmark)
    stages = (*plan(judge, benchmark), *(_report(judge.workspace.root) if last else []))
    journal = earlier or Journal(_journal_file(judge, benchmark), _facts(judge, benchmark), stages)
    if earlier:
        say(f"{benchmark}: {len(earlier.done)} of {len(earlier.stages)} stages are done, going on")
    journal.write()
    for stage in journal.left:
        say(f"running `{stage}`")
        _force(judge.workspace.root, stage)
        # training gives other weights, and so another card: facts are those of after it
        done = (*journal.done, stage)
        journal = Journal(journal.path, _facts(judge, benchmark), journal.stages, done)
        journal.write()
        yield stage


def _report(root: Path) -> list[str]:
    """The stage that makes the page of all scorecards, where the flow has one."""
    return ["report"] if "report" in yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"] else []


def _force(root: Path, stage: str) -> None:
    await_dvc(root)
    dvc(root, "repro", "--single-item", "--force", "--no-run-cache", stage)


@contextmanager
def _alone(root: Path, say: Say) -> Iterator[None]:
    """One rescore of a workspace at a time; the kernel frees the lock of one that is killed."""
    if not (root / "params.yaml").is_file() or not (root / "dvc.yaml").is_file():
        raise BenchmarkError(f"Expected `params.yaml` and `dvc.yaml` in `{root}`: evidence is made again where its flow lies.")
    (root / "out").mkdir(exist_ok=True)
    lock = FileLock(root / "out" / ".rescore.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("another rescore of this workspace is running; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
