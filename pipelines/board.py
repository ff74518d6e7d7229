"""All scores of one benchmark, as verdicts, bundles and the report read them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.benchmarks.card import Task
from pipelines.benchmarks.index import Benchmark
from pipelines.embeddings import Row, read_rows
from pipelines.metrics.statistic import Statistic
from pipelines.scores import Scored, read_scores
from pipelines.workspace import Workspace

#: a pure confound: compared and shown, decides nothing
CONFOUND = "layout"
ORACLE = "oracle"
_DRAW = re.compile(r"-\d+$")


@dataclass(frozen=True)
class Board:
    """All scores of one benchmark.

    Attributes:
        benchmark: the benchmark.
        rows: extracted rows by name.
        roles: role of each row, `oracle` included.
        scored: every statistic.
    """

    benchmark: Benchmark
    rows: Mapping[str, Row]
    roles: Mapping[str, str]
    scored: Sequence[Scored]

    def statistics(self, row: str, task: str, metric: str) -> dict[str, list[Statistic]]:
        """Statistics of one row by variant ("main", "fresh", ...), members in order."""
        found: dict[str, list[Statistic]] = {}
        for s in self.scored:
            if (s.row, s.task, s.metric) == (row, task, metric):
                found.setdefault(variant(s.member), []).append(s.statistic)
        return found

    def names(self, role: str) -> list[str]:
        """Rows of one role that have scores, in order."""
        scored = {s.row for s in self.scored}
        return [name for name, its in self.roles.items() if its == role and name in scored]


def variant(member: str) -> str:
    """The kind of draw a member is: "fresh-03" is "fresh"."""
    return _DRAW.sub("", member)


def read_board(workspace: Workspace, benchmark: str) -> Board:
    """Read rows and scores of one benchmark."""
    rows = read_rows(workspace.embeddings(benchmark))
    # dvc keeps a .gitignore beside its outputs, a run that was ended what it has scored so far
    cells = sorted(path for path in workspace.scores(benchmark).iterdir() if path.is_dir() and not path.name.startswith("."))
    scored = [s for folder in cells for s in read_scores(folder)]
    scored += read_scores(workspace.oracle(benchmark))
    roles = {name: str(row.manifest.card["role"]) for name, row in rows.items()}
    return Board(Benchmark.read(workspace.data(benchmark)), rows, {**roles, ORACLE: "positive"}, scored)


def questions(board: Board) -> list[Task]:
    """The tasks a verdict is about: a nuisance is decoded and shown, and decides nothing."""
    return [task for task in board.benchmark.card.tasks if not task.nuisance]
