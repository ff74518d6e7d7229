"""What the registry holds, as values: references in words, versions, runs, logged models. Read and written by `registry.store`."""

from __future__ import annotations

from dataclasses import dataclass

from registry.cards import NAME
from registry.errors import NotFoundError
from registry.tags import IDENTITY


@dataclass(frozen=True)
class Reference:
    """A version in words: `NAME`, `NAME@ALIAS` or `NAME/VERSION`."""

    name: str
    alias: str = ""
    version: int = 0

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference.

        Raises:
            NotFoundError: not of one of the three forms.
        """
        name, at, alias = text.partition("@")
        name, slash, number = name.partition("/")
        if not NAME.fullmatch(name) or (slash and (at or not number.isdigit())) or (at and not alias):
            raise NotFoundError("form of reference", text, ("NAME", "NAME@ALIAS", "NAME/VERSION"))
        return cls(name, alias, int(number or 0))


@dataclass(frozen=True)
class Version:
    """One version of a registered model.

    Attributes:
        name: of the registered model.
        number: 1, 2, ...
        model_id: its logged model.
        tags: of the version.
        aliases: that point to it, sorted.
    """

    name: str
    number: int
    model_id: str
    tags: dict[str, str]
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"

    @property
    def identity(self) -> str:
        """Hash of card, weights and preprocessing."""
        return self.tags.get(IDENTITY, "")

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """Benchmarks whose evidence is completely registered, sorted."""
        return tuple(sorted(key.removeprefix("registered.") for key in self.tags if key.startswith("registered.")))

    def evidence(self, benchmark: str) -> str:
        """Hash of its current evidence on a benchmark; "" if there is none."""
        return self.tags.get(f"registered.{benchmark}", "").partition(":")[0]

    def digest(self, benchmark: str) -> str:
        """Hex SHA-256 of the manifest of its bundle on a benchmark; "" if there is none."""
        return self.tags.get(f"registered.{benchmark}", "").partition(":")[2]

    def benchmark_of(self, reference: str, benchmark: str = "") -> str:
        """Whose heads and scores a reference to this version means.

        Args:
            reference: `NAME`, `NAME@ALIAS` or `NAME/VERSION`.
            benchmark: the one that is asked for; default: the alias, if it is one, or the only one there is.

        Raises:
            NotFoundError: the version has no evidence on it, or several benchmarks are meant.
        """
        alone = self.benchmarks[0] if len(self.benchmarks) == 1 else ""
        name = next((b for b in (benchmark, Reference.parse(reference).alias, alone) if b in self.benchmarks), "")
        if not name or (benchmark and name != benchmark):
            raise NotFoundError(f"benchmark of `{self}`", benchmark or reference, self.benchmarks)
        return name


@dataclass(frozen=True)
class RunRecord:
    """One run: what was measured of one row on one benchmark.

    Attributes:
        run_id: MLflow's.
        experiment: MLflow's id of the benchmark's experiment.
        started_ms: milliseconds since 1970; the time of everything logged to it.
        tags: of the run.
        models: ids of logged models it is linked to.
    """

    run_id: str
    experiment: str
    started_ms: int
    tags: dict[str, str]
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelRecord:
    """One logged model: its id, whether its files are complete, the run that made it."""

    model_id: str
    ready: bool
    source_run: str
