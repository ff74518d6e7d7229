"""What evidence would be made with now in one workspace: its benchmarks, parameters and cards, the code's protocols, what is installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.params import Params
from pipelines.workspace import Workspace
from registry.bundle import Bundle
from registry.errors import BlankslideError, ParamsError
from registry.evidence import Scorecard
from registry.files import read_json, sha256_of_file, sha256_of_json
from registry.staleness import Current, Staleness, installed, staleness


def protocols(params: Params) -> dict[str, str]:
    """The protocol id of every score that `pipelines.evaluate` gives, by the first part of its metric's name."""
    from pipelines.metrics import few_shot, retrieval, ridge
    from pipelines.tasks import probe_settings

    rule = probe_settings(params.evaluate)
    ids = {kind: rule.protocol_id(kind) for kind in ("logistic", "knn")}
    return {**ids, "ridge": ridge.protocol_id(rule), "simpleshot": few_shot.PROTOCOL, "retrieval": retrieval.PROTOCOL}


class Judge:
    """Says of a scorecard whether it is what this workspace would compute now; facts are read once.

    Evidence on a benchmark that the workspace does not hold is not judged.

    Args:
        root: the workspace; one without a params.yaml holds no benchmark.
    """

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self._benchmarks: dict[str, Current | str] = {}

    @cached_property
    def params(self) -> Params | str:
        """The workspace's parameters, or why there are none."""
        try:
            return self.workspace.params()
        except ParamsError as error:
            return str(error)

    def __call__(self, scorecard: Scorecard, card_hash: str = "") -> Staleness:
        """Judge one scorecard.

        Args:
            scorecard: of the registry or of the workspace.
            card_hash: of the row's card, where it is known.
        """
        found = self.current(scorecard.benchmark, card_hash)
        return Staleness(unchecked=found) if isinstance(found, str) else staleness(scorecard, found)

    def bundle(self, bundle: Bundle) -> Staleness:
        """Judge the evidence in a bundle."""
        return self(bundle.scorecard, sha256_of_json(bundle.card.card.as_dict()))

    def current(self, benchmark: str, card_hash: str = "") -> Current | str:
        """Facts of now about a benchmark, or why nothing is known about it here."""
        if benchmark not in self._benchmarks:
            self._benchmarks[benchmark] = self._read(benchmark)
        found = self._benchmarks[benchmark]
        return found if isinstance(found, str) or not card_hash else replace(found, card_hash=card_hash)

    def cards(self, benchmark: str) -> dict[str, str]:
        """Hashes of the cards of a benchmark's networks as params.yaml and their weights say now, by row.

        The card of a hand-made control is code, which DVC follows. A card that cannot be made now is left out.
        """
        from pipelines.rows import cards_of

        found: dict[str, str] = {}
        for cell in self.params.cells_of(benchmark) if isinstance(self.params, Params) else ():
            try:
                found |= {row: sha256_of_json(card.as_dict()) for row, card in cards_of(cell, self.workspace.root).items()}
            except (BlankslideError, OSError):
                continue
        return found

    def scorecards(self, benchmark: str) -> dict[str, Scorecard]:
        """The scorecards that lie in the workspace, by row."""
        paths = sorted(self.workspace.verdicts(benchmark).glob("*.scorecard.json"))
        return {card.row: card for card in (Scorecard.from_dict(read_json(path)) for path in paths)}

    def _read(self, benchmark: str) -> Current | str:
        if isinstance(self.params, str):
            return "this folder is no workspace"
        folder = self.workspace.data(benchmark)
        if benchmark not in self.params.compare or not all((folder / name).is_file() for name in ("index.parquet", "card.json")):
            return f"`{benchmark}` is not in this workspace"
        return facts_of(self.workspace, self.params, benchmark)


def facts_of(workspace: Workspace, params: Params, benchmark: str) -> Current:
    """Facts of now about a benchmark of a workspace."""
    from pipelines.beside import protocols as beside
    from pipelines.beyond import information_settings
    from pipelines.brightness import PROTOCOL
    from pipelines.metrics.retrieval import OTHER_WELLS
    from pipelines.metrics.verdicts import PROTOCOL as VERDICT
    from pipelines.sensitivity import METRICS, common_rule

    folder, narrow = workspace.data(benchmark), common_rule(params)
    return Current(
        data_hash=sha256_of_file(folder / "index.parquet"),
        benchmark_card=sha256_of_file(folder / "card.json"),
        protocols=protocols(params),
        common_dim={kind: narrow.protocol_id(kind) for kind in sorted({metric.partition(".")[0] for metric in METRICS})},
        beyond=information_settings(params).protocol_id if params.diagnose.beyond else "",
        shortcut=PROTOCOL,
        other_wells=OTHER_WELLS,
        verdict=VERDICT,
        beside=beside.current(params.evaluate),
        asked=beside.asked_of(folder),
        versions=installed(),
        settings={"evaluate": asdict(params.evaluate), "diagnose": asdict(params.diagnose), "seed": params.seed},
    )


def metric_facts(workspace: Workspace, params: Params, benchmark: str) -> dict[str, dict[str, Any]]:
    """What the values of all metrics hang on, as plain values: the benchmark, protocols, settings and libraries."""
    from pipelines.beyond import information_settings

    now = facts_of(workspace, params, benchmark)
    beside = {asked: ", ".join(ids) for asked, ids in now.beside.items()}
    return {
        "data": {benchmark: now.data_hash},
        "protocols": {**now.protocols, **beside, "bits": information_settings(params).protocol_id, "shortcut": now.shortcut},
        "settings": {"evaluate": now.settings["evaluate"], "seed": now.settings["seed"], "diagnose.alpha": params.diagnose.alpha},
        "versions": dict(now.versions),
    }


def differences(was: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What of `metric_facts` is another one now, in words.

    Args:
        was: as it was recorded.
        now: as it is.
    """
    words = {"data": "the index of `{}`", "protocols": "the protocol of `{}`", "settings": "`{}` of params.yaml", "versions": "{}"}
    return [
        form.format(name)
        for part, form in words.items()
        for name in sorted({*was.get(part, {}), *now[part]})
        if was.get(part, {}).get(name) != now[part].get(name)
    ]
