"""The registry in a real MLflow: what is registered is found by the documented queries, once, and whole."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from registry.bundle import NO_PERMISSION, Bundle, read_bundle
from registry.drawn import drawn_images
from registry.errors import BundleError, NotFoundError, StoreError
from registry.provenance import Provenance
from registry.records import Reference
from registry.registration import Extras, register
from registry.store import Store, default_uri, stamp_run
from tests.registry.scorecards import controls, entry, make_bundle, scorecard, task

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "registry.md"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "simclr")


def client(store: Store):  # type: ignore[no-untyped-def]
    from mlflow import MlflowClient

    return MlflowClient(store.uri, store.uri)


def counts(store: Store) -> dict[str, int]:
    """How many of each kind of object there are, deleted ones included."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(store.uri)
    tables = ("experiments", "runs", "logged_models", "registered_models", "model_versions", "metrics", "logged_model_metrics", "inputs", "tags")
    with engine.connect() as connection:
        found = {t: int(connection.execute(sqlalchemy.text(f"SELECT count(*) FROM {t}")).scalar_one()) for t in tables}
    engine.dispose()
    return found


def test_a_bundle_comes_back_as_it_went_in(store: Store, bundle: Bundle, tmp_path: Path) -> None:
    done = register(store, bundle)
    assert done.added
    assert str(done.version) == "simclr/1"
    assert done.version.identity == bundle.identity
    assert done.version.benchmarks == ("culture",)
    assert done.version.aliases == ("culture",)
    for reference in ("simclr@culture", "simclr/1"):
        fetched = store.fetch_bundle(reference, tmp_path / "served" / "simclr")
        assert fetched.digest == bundle.digest
    assert [p.name for p in (tmp_path / "served").iterdir()] == ["simclr"]


def test_registering_twice_adds_nothing(store: Store, bundle: Bundle) -> None:
    register(store, bundle)
    before = counts(store)
    assert before["runs"] == before["model_versions"] == before["logged_models"] == 1
    again = register(store, bundle)
    assert not again.added
    assert counts(store) == before


def test_the_flavour_loads_anywhere_and_gives_the_golden_embedding(store: Store, bundle: Bundle) -> None:
    import mlflow
    import onnxruntime

    register(store, bundle)
    model = mlflow.onnx.load_model("models:/simclr@culture")
    golden = bundle.golden
    assert golden is not None
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    came = session.run(None, {"pixels": golden.pixels.astype(np.float32)})[0]
    np.testing.assert_allclose(came, golden.embedding, rtol=1e-5)
    info = mlflow.models.get_model_info("models:/simclr@culture")
    assert info.signature is not None
    assert info.signature.inputs.inputs[0].shape == (-1, 2, 6, 5)
    assert info.signature.outputs.inputs[0].shape == (-1, 2)
    loaded = mlflow.pyfunc.load_model("models:/simclr@culture")
    np.testing.assert_allclose(loaded.predict({"pixels": golden.pixels.astype(np.float32)})["embedding"], golden.embedding, rtol=1e-5)


@pytest.mark.parametrize("withheld", ["", "`CC-BY-NC-4.0` limits the purpose (NC)", NO_PERMISSION])
def test_the_input_example_is_a_golden_image_only_where_it_may_be_passed_on(store: Store, tmp_path: Path, withheld: str) -> None:
    import mlflow

    bundle = make_bundle(tmp_path / "simclr", withheld=withheld)
    register(store, bundle)
    folder = Path(mlflow.artifacts.download_artifacts("models:/simclr@culture", dst_path=str(tmp_path / "all")))
    golden, example = bundle.golden, mlflow.pyfunc.load_model("models:/simclr@culture").input_example["pixels"]
    assert golden is not None
    assert (example.shape, example.dtype) == ((1, *bundle.card.image.shape), np.float32)
    assert (example == golden.pixels[:1]).all() == (not withheld)
    said = mlflow.models.get_model_info("models:/simclr@culture").metadata["input_example"]
    assert said == (f"Drawn, shows nothing: {withheld}." if withheld else "Image of `culture`, CC-BY-4.0: A. Author 2020.")
    if withheld:
        # whole numbers within the range of intensity, the same each time; no row of a golden image is in any of MLflow's own files
        np.testing.assert_array_equal(example, drawn_images(bundle.card.image, 1))
        np.testing.assert_array_equal(example, np.rint(example))
        rows = [json.dumps(row.astype(float).tolist()) for image in golden.pixels for channel in image for row in channel]
        own = [path.read_text() for path in folder.glob("*.json")]
        assert len(own) == 2
        assert not [row for row in rows for text in own if row in text]


def test_what_is_stored_is_data_without_local_paths(store: Store, bundle: Bundle, tmp_path: Path) -> None:
    import mlflow

    register(store, bundle)
    folder = Path(mlflow.artifacts.download_artifacts("models:/simclr@culture", dst_path=str(tmp_path / "all")))
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {"MLmodel", "model.onnx", "input_example.json"} <= files
    assert f"bundles/culture/{bundle.digest[:16]}/manifest.json" in files
    assert [f for f in files if Path(f).suffix in (".py", ".pkl", ".pickle")] == []
    for name in files:
        data = (folder / name).read_bytes()
        assert str(ROOT).encode() not in data, name
        if name not in ("MLmodel", "registered_model_meta"):
            assert str(tmp_path).encode() not in data, name


def test_a_row_without_onnx_is_registered_as_data(store: Store, tmp_path: Path) -> None:
    layout = make_bundle(tmp_path / "layout", row="layout", role="negative", onnx=False, companion=False)
    version = register(store, layout).version
    assert version.tags["servable"] == "false"
    assert "plate layout" in client(store).get_model_version("layout", "1").description
    assert store.fetch_bundle("layout@culture", tmp_path / "back").digest == layout.digest
    import mlflow

    with pytest.raises(mlflow.exceptions.MlflowException, match="MLmodel"):
        mlflow.pyfunc.load_model("models:/layout@culture")


def test_scores_are_metrics_of_the_model_with_their_dataset(store: Store, bundle: Bundle) -> None:
    version = register(store, bundle).version
    found = {m.key: m for m in client(store).get_logged_model(version.model_id).metrics}
    score = found["chirality/logistic.balanced_accuracy"]
    assert (score.value, score.dataset_name, score.dataset_digest) == (0.7, "culture", bundle.scorecard.data_hash[:32])
    assert found["chirality/gain"].value == pytest.approx(0.12)
    assert found["chirality/beyond.bits"].value == pytest.approx(0.031)
    run = client(store).get_run(version.tags["run.culture"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["chirality/gain.low"] == pytest.approx(0.11)
    assert run.data.params["architecture"] == "cnn:tiny"
    assert [d.dataset.name for d in run.inputs.dataset_inputs] == ["culture"]
    assert [m.model_id for m in run.outputs.model_outputs] == [version.model_id]
    assert [f.path for f in client(store).list_artifacts(run.info.run_id)] == ["scorecard.json"]


def test_numbers_that_are_not_finite_are_left_out() -> None:
    from registry.tags import metrics

    card = scorecard()
    odd = [
        entry("chirality", value=float("nan")),
        entry("chirality", "knn.balanced_accuracy", low=None),
        entry("chirality", variant="fresh", value=0.4),
    ]
    card = replace(card, scores=[*odd, entry("chirality", "knn.balanced_accuracy", value=0.3, protocol_id="copairs", primary=False)])
    found = metrics(card)
    assert "chirality/logistic.balanced_accuracy" not in found
    assert "chirality/knn.balanced_accuracy.low" not in found
    assert found["chirality/logistic.balanced_accuracy.fresh"] == 0.4
    assert found["chirality/knn.balanced_accuracy"] == 0.7
    assert found["chirality/knn.balanced_accuracy.copairs"] == 0.3


def test_new_evidence_is_a_new_run_of_the_same_version_and_old_evidence_can_come_back(store: Store, bundle: Bundle, tmp_path: Path) -> None:
    register(store, bundle)
    second = make_bundle(tmp_path / "simclr", card=scorecard(tasks=(task("chirality", controls(0.0), word="undecided", twin_word="undecided"),)))
    assert second.identity == bundle.identity
    version = register(store, second).version
    assert (version.number, version.tags["verdict.culture.chirality"], version.tags["beats_controls.cells"]) == (1, "undecided", "false")
    assert store.fetch_bundle("simclr@culture", tmp_path / "back").digest == second.digest
    found = counts(store)
    assert (found["runs"], found["model_versions"], found["logged_models"]) == (2, 1, 1)
    version = register(store, bundle).version
    assert version.tags["beats_controls.cells"] == "true"
    assert store.fetch_bundle("simclr@culture", tmp_path / "back").digest == bundle.digest
    assert counts(store)["runs"] == 2
    assert client(store).get_registered_model("simclr").tags["beats_controls.cells"] == "true"


def test_another_benchmark_adds_to_the_same_version(store: Store, bundle: Bundle, tmp_path: Path) -> None:
    register(store, bundle)
    lost = (task("arrangement", controls(-0.1, twin=0.1), word="loses"),)
    other = make_bundle(tmp_path / "simclr", card=scorecard(benchmark="sections", modality="tissue", tasks=lost))
    version = register(store, other).version
    assert version.number == 1
    assert version.benchmarks == version.aliases == ("culture", "sections")
    assert version.tags["beats_controls.cells"] == "true"
    assert version.tags["beats_controls.tissue"] == "false"
    assert version.tags["beats_twins.tissue"] == "true"
    for name, expected in (("culture", bundle), ("sections", other)):
        assert store.fetch_bundle(f"simclr@{name}", tmp_path / "back").digest == expected.digest
        assert store.fetch_bundle("simclr/1", tmp_path / "back", name).digest == expected.digest
    with pytest.raises(NotFoundError, match=r"no benchmark of `simclr/1` `simclr/1`\. Known: `culture`, `sections`"):
        store.fetch_bundle("simclr/1", tmp_path / "back")
    datasets = {(m.key, m.dataset_name) for m in client(store).get_logged_model(version.model_id).metrics}
    assert {("chirality/gain", "culture"), ("arrangement/gain", "sections")} <= datasets


def test_other_weights_are_another_version_and_the_alias_moves(store: Store, bundle: Bundle, tmp_path: Path) -> None:
    register(store, bundle)
    version = register(store, make_bundle(tmp_path / "simclr", seed=1)).version
    assert (version.number, version.aliases) == (2, ("culture",))
    assert [v.aliases for v in store.versions("simclr")] == [(), ("culture",)]
    assert register(store, bundle).version.number == 1
    assert [v.aliases for v in store.versions("simclr")] == [("culture",), ()]


def documented(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def populated(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Store:
    """Two encoders and a control on two benchmarks: `graphnet` beats its controls on tissue, `simclr` on cells only."""
    folder = tmp_path_factory.mktemp("populated")
    shutil.copy(empty_database, folder / "mlflow.db")
    store = Store(f"sqlite:///{folder / 'mlflow.db'}")
    won, lost = (task("arrangement", controls(0.15)),), (task("arrangement", controls(-0.1, twin=0.1), word="loses"),)
    cards = [
        scorecard("simclr"),
        scorecard("simclr", benchmark="tissue", modality="tissue", tasks=lost),
        scorecard("graphnet", benchmark="tissue", modality="tissue", tasks=won),
        scorecard("density", role="negative", benchmark="tissue", modality="tissue"),
    ]
    for i, card in enumerate(cards):
        register(store, make_bundle(folder / str(i), row=card.row, role=card.role, seed=len(card.row), card=card))
    return store


def test_the_documented_python_queries_give_what_the_page_says(populated: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block of docs/registry.md runs as it stands; each `# -> ...` is what its last expression gives."""
    blocks = documented("python")
    assert len(blocks) >= 6
    names: dict[str, object] = {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", populated.uri)
    checked = 0
    for block in blocks:
        lines = block.strip().splitlines()
        pending: list[str] = []
        for line in lines:
            expected = line.removeprefix("# -> ") if line.startswith("# -> ") else None
            if expected is None:
                pending.append(line)
                continue
            *statements, expression = _statements("\n".join(pending))
            exec("\n".join(statements), names)
            assert repr(eval(expression, names)) == expected
            pending, checked = [], checked + 1
        exec("\n".join(pending), names)
    assert checked >= 6


def _statements(text: str) -> list[str]:
    import ast

    return [ast.unparse(node) for node in ast.parse(text).body]


def test_the_documented_filters_of_the_ui_are_accepted(populated: Store) -> None:
    """The search boxes of the MLflow pages send their text to these three searches."""
    found = {}
    for text in documented("text"):
        for line in text.strip().splitlines():
            page, _, query = line.partition(": ")
            if page == "Models":
                found[line] = [m.name for m in client(populated).search_registered_models(query.strip())]
            elif page == "Experiment, runs":
                experiment = client(populated).get_experiment_by_name("tissue").experiment_id
                found[line] = [r.info.run_name for r in client(populated).search_runs([experiment], query.strip())]
            elif page == "Experiment, models":
                experiment = client(populated).get_experiment_by_name("tissue").experiment_id
                found[line] = [m.name for m in client(populated).search_logged_models([experiment], query.strip())]
    assert len(found) >= 4
    assert [line for line, names in found.items() if "graphnet" not in names] == []
    assert [line for line, names in found.items() if "density" in names] == []


def test_references_are_read_strictly() -> None:
    assert Reference.parse("simclr") == Reference("simclr")
    assert Reference.parse("simclr@culture") == Reference("simclr", "culture")
    assert Reference.parse("simclr/3") == Reference("simclr", version=3)
    for bad in ("", "SimCLR", "simclr@", "simclr/", "simclr/x", "simclr/1@culture", "a b", "simclr' or '1'='1"):
        with pytest.raises(NotFoundError, match="NAME@ALIAS"):
            Reference.parse(bad)


def test_a_name_that_is_not_there_lists_what_is(populated: Store) -> None:
    with pytest.raises(NotFoundError, match=r"no registered model `nope`\. Known: `density`, `graphnet`, `simclr`"):
        populated.version("nope")
    with pytest.raises(NotFoundError, match=r"no version `simclr/9`\. Known: `simclr/1`, `simclr@culture`, `simclr@tissue`"):
        populated.version("simclr/9")
    with pytest.raises(NotFoundError, match="no version `simclr@promoted`"):
        populated.version("simclr")
    with pytest.raises(NotFoundError, match=r"no benchmark of `graphnet/1` `culture`\. Known: `tissue`"):
        populated.fetch_bundle("graphnet/1", Path("nowhere"), "culture")


def test_files_that_were_altered_in_the_store_are_not_handed_out(store: Store, bundle: Bundle, tmp_path: Path) -> None:
    version = register(store, bundle).version
    stored = next((Path(store.uri.removeprefix("sqlite:///")).parent / "mlartifacts").rglob(f"{version.tags['bundle.culture']}/encoder.onnx"))
    good = read_bundle(store.fetch_bundle("simclr@culture", tmp_path / "served").folder)
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="expected sha256"):
        store.fetch_bundle("simclr@culture", tmp_path / "served")
    assert read_bundle(tmp_path / "served").digest == good.digest
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_provenance_is_kept_with_the_evidence_and_a_better_one_replaces_it(store: Store, bundle: Bundle) -> None:
    first = Provenance("a" * 40, dirty=True, dvc_lock=b"stages: {}\n")
    version = register(store, bundle, first).version
    assert store.provenance(version, "culture") == first
    clean = Provenance("b" * 40, False, "sub", b"stages: {x: {}}\n")
    assert not register(store, bundle, clean).added
    assert store.provenance(version, "culture") == clean
    for worse in (Provenance(), first, Provenance("c" * 40, False, "", b"other")):
        register(store, bundle, worse)
        assert store.provenance(version, "culture") == clean


def test_plots_and_curves_are_added_once(store: Store, bundle: Bundle, tmp_path: Path) -> None:
    version = register(store, bundle).version
    run = version.tags["run.culture"]
    (tmp_path / "chirality.png").write_bytes(b"\x89PNG")
    extras = Extras(tmp_path, {"loss": [3.0, 2.0, 1.5]})
    register(store, bundle, extras=extras)
    assert [f.path for f in client(store).list_artifacts(run, "plots")] == ["plots/chirality.png"]
    assert [(m.step, m.value) for m in client(store).get_metric_history(run, "training/loss")] == [(0, 3.0), (1, 2.0), (2, 1.5)]
    before = counts(store)
    register(store, bundle, extras=extras)
    assert counts(store) == before


@pytest.mark.parametrize("name", ["promoted", "latest", "v1"])
def test_a_benchmark_whose_name_cannot_be_an_alias_is_refused_before_anything_is_made(store: Store, tmp_path: Path, name: str) -> None:
    before = counts(store)
    with pytest.raises(StoreError, match="Rename the benchmark"):
        register(store, make_bundle(tmp_path / "simclr", card=scorecard(benchmark=name)))
    assert counts(store) == before


def test_a_store_that_cannot_be_opened_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="cannot be locked"):
        Store("postgresql+psycopg://nobody@/nothing?host=/nowhere", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_run_can_be_stamped(store: Store, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    run = register(store, bundle).version.tags["run.culture"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    stamp_run(run, {"blankslide.stage": "extract"})
    assert store.run(run).tags["blankslide.stage"] == "extract"
