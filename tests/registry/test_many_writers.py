"""Registration by many processes at once and by processes that are killed: no error, no duplicate, nothing lost."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest

from registry import tags
from registry.bundle import Bundle, Golden, read_bundle, write_bundle
from registry.registration import register
from registry.store import Store
from tests.registry import workers
from tests.registry.scorecards import make_bundle, scorecard
from tests.registry.test_store import counts

PROCESSES = 8


@pytest.fixture(scope="module")
def forks() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.registry.workers"])
    return context


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`same` for everybody, one encoder for each, one version of a common encoder for each, `same` on another benchmark."""
    folder = tmp_path_factory.mktemp("bundles")
    make_bundle(folder / "same")
    make_bundle(folder / "same-tissue", card=scorecard(benchmark="tissue", modality="tissue"))
    for i in range(PROCESSES):
        make_bundle(folder / f"own-{i}", row=f"own-{i}")
        make_bundle(folder / f"common-{i}", row="common", seed=i)
    return folder


def everybody_registers(forks: ForkServerContext, uri: str, artifacts: str, bundles: Path) -> Store:
    barrier, failures = forks.Barrier(PROCESSES), forks.Queue()
    started = []
    for i in range(PROCESSES):
        folders = [str(bundles / name) for name in ("same", f"own-{i}", f"common-{i}", *(["same-tissue"] if i < 3 else []))]
        order = folders if i % 2 else folders[::-1]
        started.append(forks.Process(target=workers.register_all, args=(uri, artifacts, order, barrier, failures)))
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=240)
    said = []
    while not failures.empty():
        said.append(failures.get())
    assert said == []
    assert [process.exitcode for process in started] == [0] * PROCESSES
    return Store(uri, artifacts)


def check_whole(store: Store, tmp_path: Path) -> None:
    """Everything is there once, finished, and comes back verified."""
    assert store.models() == sorted(["simclr", "common", *(f"own-{i}" for i in range(PROCESSES))])
    found = counts(store)
    assert found["model_versions"] == found["logged_models"] == 1 + 2 * PROCESSES
    assert found["runs"] == 2 + 2 * PROCESSES
    assert found["experiments"] == 3  # MLflow's own "Default", culture, tissue
    (same,) = store.versions("simclr")
    assert same.aliases == same.benchmarks == ("culture", "tissue")
    common = store.versions("common")
    assert len({v.identity for v in common}) == PROCESSES
    assert [v.number for v in common] == list(range(1, PROCESSES + 1))
    assert sum("culture" in v.aliases for v in common) == 1
    for name in store.models():
        for version in store.versions(name):
            assert store.model(version.model_id).ready
            for benchmark in version.benchmarks:
                assert store.fetch_bundle(str(version), tmp_path / "fetched", benchmark).identity == version.identity


@pytest.mark.slow
def test_eight_processes_fill_an_empty_sqlite_store(forks: ForkServerContext, bundles: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    check_whole(everybody_registers(forks, uri, "", bundles), tmp_path)


@pytest.mark.slow
def test_eight_processes_fill_an_empty_postgresql_store(forks: ForkServerContext, bundles: Path, postgresql_uri: str, tmp_path: Path) -> None:
    check_whole(everybody_registers(forks, postgresql_uri, str(tmp_path / "artifacts"), bundles), tmp_path)


def killed(forks: ForkServerContext, target: object, *arguments: object) -> None:
    process = forks.Process(target=target, args=arguments)  # type: ignore[arg-type]
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL


def fresh(empty_database: Path, folder: Path) -> str:
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"


@dataclass(frozen=True)
class Undisturbed:
    """What a registration that nobody kills leaves in the store, and its writes in order."""

    bundle: Bundle
    counts: dict[str, int]
    writes: list[str]


@pytest.fixture(scope="module")
def undisturbed(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    bundle = make_bundle(folder / "simclr")
    store = Store(fresh(empty_database, folder / "store"))
    watched = workers.Mortal(store._client, "never")
    store._client = watched  # type: ignore[assignment]
    register(store, bundle)
    return Undisturbed(bundle, counts(store), watched.writes)


def check_completed(forks: ForkServerContext, undisturbed: Undisturbed, uri: str, dies_before: int | str, tmp_path: Path) -> None:
    """Kill a registration, register again, compare with one that was not killed."""
    bundle = undisturbed.bundle
    killed(forks, workers.register_and_die, uri, str(bundle.folder), dies_before)
    store = Store(uri)
    # nobody is shown half a version: an alias is there only after the files are
    for version in store.versions("simclr"):
        assert not version.aliases or store.fetch_bundle(str(version), tmp_path / "half", "culture")
    register(store, bundle)
    assert counts(store) == undisturbed.counts
    assert not register(store, bundle).added
    assert store.fetch_bundle("simclr@culture", tmp_path / "fetched").digest == bundle.digest
    assert store.models() == ["simclr"]
    assert store._client.get_registered_model("simclr").tags["beats_controls.cells"] == "true"


@pytest.mark.parametrize(
    "write",
    ["create_logged_model", "create_model_version", "set_registered_model_alias", "set_terminated"],
)
def test_a_registration_killed_before_a_step_is_completed_by_the_next(
    forks: ForkServerContext, undisturbed: Undisturbed, sqlite_uri: str, tmp_path: Path, write: str
) -> None:
    assert write in undisturbed.writes
    check_completed(forks, undisturbed, sqlite_uri, write, tmp_path)


def test_a_killed_process_leaves_no_lock_in_postgresql(forks: ForkServerContext, postgresql_uri: str, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "killed", row="killed")
    artifacts = str(tmp_path / "artifacts")
    killed(forks, workers.register_and_die, postgresql_uri, str(bundle.folder), "create_model_version", artifacts)
    store = Store(postgresql_uri, artifacts)
    assert store.versions("killed") == []
    assert register(store, bundle).added
    assert store.fetch_bundle("killed@culture", tmp_path / "fetched").digest == bundle.digest
    assert [v.number for v in store.versions("killed")] == [1]


@pytest.mark.slow
def test_a_registration_killed_before_any_of_its_writes_is_completed_by_the_next(
    forks: ForkServerContext, undisturbed: Undisturbed, empty_database: Path, tmp_path: Path
) -> None:
    assert len(undisturbed.writes) > 25
    for n in range(1, len(undisturbed.writes) + 1):
        check_completed(forks, undisturbed, fresh(empty_database, tmp_path / f"killed-{n}"), n, tmp_path)


def test_a_registration_killed_in_the_middle_of_a_file_is_completed_by_the_next(forks: ForkServerContext, sqlite_uri: str, tmp_path: Path) -> None:
    small = make_bundle(tmp_path / "small")
    golden = small.golden
    assert golden is not None
    pixels = np.random.default_rng(0).integers(0, 4000, (400_000, *golden.pixels.shape[1:])).astype(np.uint16)
    probabilities = {task: np.resize(p, (len(pixels), p.shape[1])) for task, p in golden.probabilities.items()}
    golden = Golden(pixels, np.resize(golden.embedding, (len(pixels), golden.embedding.shape[1])), probabilities)
    bundle = write_bundle(tmp_path / "simclr", small.card, small.scorecard, onnx=small.onnx, golden=golden)
    artifacts = Path(sqlite_uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    killed(forks, workers.register_and_die_while_copying, sqlite_uri, str(bundle.folder), str(artifacts))
    (half,) = artifacts.rglob("golden.npz")
    assert 0 < half.stat().st_size < (bundle.folder / "golden.npz").stat().st_size
    store = Store(sqlite_uri)
    assert store.versions("simclr") == []
    register(store, bundle)
    assert store.fetch_bundle("simclr@culture", tmp_path / "fetched").digest == bundle.digest
    found = counts(store)
    assert (found["runs"], found["logged_models"], found["model_versions"]) == (1, 1, 1)


def test_of_two_hosts_without_a_common_lock_one_version_remains(bundles: Path, store: Store, tmp_path: Path) -> None:
    """What two hosts on one MLflow server may do: both look, neither finds a version, both make one."""
    bundle = read_bundle(bundles / "same")
    version = register(store, bundle).version
    run = store.run(version.tags["run.culture"])
    facts = tags.fixed_tags(bundle)
    second = store._client.create_logged_model(run.experiment, bundle.name, run.run_id, facts, {}, "encoder")
    made = store._client.create_model_version(bundle.name, f"models:/{second.model_id}", run.run_id, facts, model_id=second.model_id)
    assert [v.number for v in store.versions("simclr")] == [1, int(made.version)]
    found = store.find("simclr", bundle.identity)
    assert found is not None
    assert found.number == 1
    assert not register(store, bundle).added
    assert store.fetch_bundle("simclr@culture", tmp_path / "fetched").digest == bundle.digest
