"""Which libraries made vectors and scores, written beside them by the step that made them.

A scorecard is written later than the numbers in it: what is installed when a verdict is reached says nothing about vectors that
DVC found done. So each step records its own, and `diagnose` gathers them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipelines.embeddings import Manifest, Row
from pipelines.workspace import Workspace
from registry.files import read_json, write_json
from registry.staleness import FORMULA, NETWORK, SCORES, TIMM_NETWORK, versions_of

NAME = "made_by.json"
#: what made one row: {"vectors": {library: version}, "scores": {library: version}}
MadeBy = Mapping[str, Mapping[str, str]]


def vector_versions(architecture: str) -> dict[str, str]:
    """Versions of the libraries that vectors of a row come from, by the architecture of its card."""
    kind = architecture.partition(":")[0]
    # vectors of any other kind were given as they are
    return versions_of({"formula": FORMULA, "timm": TIMM_NETWORK, "cnn": NETWORK}.get(kind, ("numpy",)))


def write_made_by(folder: Path, rows: Iterable[Row], name: str = "") -> None:
    """Publish what made the scores in `folder`.

    Args:
        folder: beside `scores.parquet`.
        rows: whose vectors were scored.
        name: of the one row that was made from all of them; "" where each row has scores of its own.
    """
    manifests = [row.manifest for row in rows]
    made: dict[str, Any] = {name: _together(m.versions for m in manifests)} if name else {m.row: dict(m.versions) for m in manifests}
    write_json(folder / NAME, {"vectors": made, "scores": versions_of(SCORES)})


def read_made_by(workspace: Workspace, benchmark: str, manifests: Iterable[Manifest]) -> dict[str, dict[str, Any]]:
    """What made each row of a benchmark; {} for one whose scores were made before this was recorded."""
    folders = [workspace.oracle(benchmark), *sorted(path for path in workspace.scores(benchmark).iterdir() if path.is_dir())]
    made: dict[str, dict[str, Any]] = {manifest.row: {} for manifest in manifests}
    for path in (folder / NAME for folder in folders):
        if path.is_file():
            value = read_json(path)
            for row, vectors in value["vectors"].items():
                made[row] = {"vectors": vectors, "scores": value["scores"]} if vectors else {}
    return made


def of_row(made: Mapping[str, Mapping[str, Any]], row: str, role: str) -> dict[str, Any]:
    """The part of a scorecard's provenance that says what made it: `made_by`, and for what hangs on other rows `compared_with`."""
    if not made.get(row):
        return {}
    own = made[row]
    if role == "positive":
        # made from all rows, so of possibly several versions
        return {"made_by": {"vectors": {}, "scores": own["scores"]}, "compared_with": own["vectors"]}
    if role != "encoder":
        return {"made_by": own}
    others = [part for name, each in made.items() if name != row for part in each.values()]
    return {"made_by": own, "compared_with": _together(others)}


def _together(parts: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Every version of each library, sorted."""
    found: dict[str, set[str]] = {}
    for part in parts:
        for library, version in part.items():
            found.setdefault(library, set()).update([version] if isinstance(version, str) else version)
    return {library: sorted(versions) for library, versions in sorted(found.items())}
