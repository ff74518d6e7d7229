"""Protocol ids of what is asked beside the tasks: those that the tables of a benchmark record, and those that the code follows now."""

from __future__ import annotations

from pathlib import Path

from pipelines.beside import confounding, expression, knowledge, probing, replicates
from pipelines.metrics.expression import PROTOCOLS, protocol_ids
from pipelines.params import EvaluateParams
from pipelines.scores import read_confounds
from registry.files import read_json


def current(settings: EvaluateParams) -> dict[str, tuple[str, ...]]:
    """Every id that an answer may carry now, by what was asked; which of several it is hangs on the design of the benchmark.

    Args:
        settings: of the flow.
    """
    rules = knowledge.Rules.of(settings)
    return {
        "confounds": (confounding.PROTOCOL,),
        "probing": (probing.PROTOCOL,),
        "replicates": (replicates.PROTOCOL,),
        "knowledge": knowledge.protocol_ids(rules),
        **{name: protocol_ids(name) for name in PROTOCOLS},
    }


def asked_of(folder: Path) -> tuple[str, ...]:
    """What is asked of every row with vectors of a benchmark, whatever its wells and counts: evidence without that is of unknown rules.

    Args:
        folder: of the benchmark, with its card.
    """
    tasks = read_json(folder / "card.json").get("tasks", [])
    return ("confounds", "probing") if any(not task.get("nuisance") for task in tasks) else ("confounds",)


def recorded(folder: Path) -> dict[str, dict[str, list[str]]]:
    """The ids that answers of one benchmark carry, by row and by what was asked, sorted.

    Args:
        folder: `W/out/scores/<benchmark>`.
    """
    answers = [
        *(("confounds", one.row, one.protocol_id) for one in read_confounds(folder)),
        *(("probing", one.row, one.protocol_id) for one in probing.read_all(folder)),
        *(("replicates", one.row, one.protocol_id) for one in replicates.read_all(folder)),
        *(("knowledge", one.row, one.protocol_id) for one in knowledge.read_all(folder)),
        *((one.protocol, one.row, one.protocol_id) for one in expression.read_scores(folder)),
    ]
    found: dict[str, dict[str, set[str]]] = {}
    for asked, row, followed in answers:
        found.setdefault(row, {}).setdefault(asked, set()).add(followed)
    return {row: {asked: sorted(ids) for asked, ids in each.items()} for row, each in found.items()}
