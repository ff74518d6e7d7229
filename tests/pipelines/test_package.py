"""From images to the registry through the real files of every stage: what gets a bundle, and what the oracle's bundle is."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pillow

from pipelines.benchmarks.index import Benchmark, write_benchmark
from pipelines.diagnose import diagnose
from pipelines.embeddings import Row
from pipelines.evaluate import evaluate_cell, evaluate_oracle
from pipelines.extract import extract_cell
from pipelines.package import GOLDEN_IMAGES, SAME, Part, check_same, companions, oracle_part, package
from pipelines.params import CellParams, DiagnoseParams, EncoderParams, EvaluateParams, ExtractParams, Params
from pipelines.references import References
from pipelines.workspace import Workspace
from registry.appearance import appearance
from registry.bundle import Bundle, read_arrays, read_bundle
from registry.drawn import drawn_images
from registry.errors import ParityError
from registry.evidence import Scorecard
from registry.files import read_json
from registry.heads import heads_of
from registry.receipts import read_receipts, sync
from registry.store import Store
from serving.scoring import Scorer
from tests.pipelines.folder import write_images
from tests.serving.bundles import evidence

CELL = CellParams("tiny", "controls", ["intensity", "layout", "random", "composition"], "registry/controls")
PARAMS = Params(
    seed=0,
    threads=1,
    cells={"tiny--controls": CELL},
    compare=["tiny"],
    extract=ExtractParams(device="cpu"),
    evaluate=EvaluateParams(max_dim=16, neighbours=5, permutations=20),
    diagnose=DiagnoseParams(beyond=False),
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(tmp_path_factory.mktemp("packaged"))
    benchmark = write_images(made.data("tiny"), plates=24, wells=4)
    run_flow(made, benchmark, CELL, PARAMS)
    return made


def run_flow(workspace: Workspace, benchmark: Benchmark, cell: CellParams, params: Params) -> None:
    """From images to bundles, with one cell."""
    extract_cell(benchmark, cell, params, workspace)
    evaluate_cell(benchmark, workspace.embeddings("tiny") / cell.cell, params, workspace.scores("tiny") / cell.cell)
    evaluate_oracle(benchmark, workspace.embeddings("tiny"), params, workspace.oracle("tiny"))
    diagnose(workspace, params, "tiny")
    package(workspace, params, "tiny")


@pytest.fixture(scope="module")
def oracle(workspace: Workspace) -> Bundle:
    return read_bundle(workspace.bundles("tiny") / "oracle")


def test_every_row_that_applies_has_a_bundle_and_one_that_does_not_has_a_scorecard(workspace: Workspace) -> None:
    receipts = {r.row: r.role for r in read_receipts(workspace.receipts("tiny"))}
    assert receipts == {"intensity": "negative", "layout": "negative", "oracle": "positive", "random": "negative"}
    card = Scorecard.from_dict(read_json(workspace.verdicts("tiny") / "composition.scorecard.json"))
    assert card.not_applicable
    assert card.scores == []


def test_the_oracle_says_what_it_is_and_why_it_is_not_served(oracle: Bundle) -> None:
    assert oracle.onnx is None
    assert "chosen with the labels" in oracle.card.unservable
    assert oracle.card.card.training["chosen"]["bright"] == {"0": "intensity"}
    assert {e.task for e in oracle.scorecard.scores} == {"bright", "half"}


def test_the_oracles_probes_give_its_offline_predictions(workspace: Workspace, oracle: Bundle) -> None:
    benchmark = Benchmark.read(workspace.data("tiny"))
    row = Row.read(workspace.embeddings("tiny") / "controls" / oracle.card.card.training["chosen"]["bright"]["0"])
    vectors = row.embedding("main", 0, benchmark.index["image_id"].tolist())
    table = pd.read_parquet(workspace.oracle("tiny") / "predictions.parquet")
    mine = table[(table["task"] == "bright") & (table["probe"] == "logistic")].set_index("image_id")
    tested = benchmark.index["image_id"].isin(mine.index).to_numpy()
    expected = np.stack(mine.loc[benchmark.index["image_id"][tested]]["probabilities"].tolist())
    np.testing.assert_allclose(heads_of(oracle.heads)["bright"].predict_proba(vectors[tested]), expected, atol=1e-6)


class TestReferences:
    """What of the training images travels with a bundle."""

    def test_are_training_images_with_what_is_known_of_them(self, workspace: Workspace) -> None:
        bundle = read_bundle(workspace.bundles("tiny") / "intensity")
        found, index = bundle.reference, Benchmark.read(workspace.data("tiny")).index.set_index("image_id")
        assert found is not None
        assert found.image_id is not None
        assert found.unit is not None
        assert found.appearance is not None
        mine = index.loc[found.image_id.tolist()]
        assert (mine["fold"] == -1).all()
        assert len(mine) == (index["fold"] == -1).sum()
        assert mine["label_half"].fillna("").tolist() == found.labels["half"].tolist()
        assert pd.Series(found.unit).groupby(mine["unit"].to_numpy()).nunique().eq(1).all()
        benchmark = Benchmark.read(workspace.data("tiny"))
        row = benchmark.index["image_id"].tolist().index(str(found.image_id[3]))
        np.testing.assert_allclose(found.appearance[3], appearance(benchmark.pixels(row), benchmark.card.image), rtol=1e-6)
        assert bundle.golden is not None

    def test_are_as_little_handed_out_as_the_golden_images_where_no_licence_is_stated(self, workspace: Workspace) -> None:
        scorer = Scorer.open(workspace.bundles("tiny") / "intensity")
        assert scorer.example() is None
        assert scorer.withheld == "the benchmark's card does not state a licence of the images"

    def test_are_calibrated_on_units_that_the_row_has_not_learned_from(self, workspace: Workspace) -> None:
        found = read_bundle(workspace.bundles("tiny") / "intensity").reference
        assert found is not None
        assert found.limits is not None
        # not fitted: the 12 plates that are held out and the 12 of training, each as seen from the others
        assert (found.limits.units, found.limits.unit, found.limits.rate) == (24, "plate", 0.05)

    def test_are_read_by_a_service(self, workspace: Workspace) -> None:
        scorer = Scorer.open(workspace.bundles("tiny") / "intensity")
        benchmark = Benchmark.read(workspace.data("tiny"))
        train = int(np.flatnonzero(benchmark.folds[0].train)[5])
        reading = scorer.read(benchmark.paths(train)[0].read_bytes())
        assert reading.nearest[0].image_id == benchmark.index["image_id"][train]
        assert reading.nearest[0].distance == pytest.approx(0, abs=1e-3)
        assert reading.distance is not None
        assert reading.distance.unlike is False
        stream = io.BytesIO()
        np.save(stream, np.full(benchmark.card.image.shape, 60_000, np.uint16))
        strange = scorer.read(stream.getvalue()).distance
        assert strange is not None
        assert strange.unlike is True
        assert strange.sentence.startswith("Unlike anything scored before: ")

    def test_have_no_pictures_where_the_licence_does_not_allow_them(self, workspace: Workspace) -> None:
        found = read_bundle(workspace.bundles("tiny") / "intensity").reference
        assert found is not None
        assert found.thumbnails is None
        assert found.terms == "There are no pictures: the benchmark's card does not state a licence of the images."

    def test_have_pictures_where_the_licence_allows_them(self, workspace: Workspace) -> None:
        benchmark = Benchmark.read(workspace.data("tiny"))
        free = replace(benchmark, card=replace(benchmark.card, licence="CC-BY-4.0", citation="A. Author 2020", source="https://example.org"))
        one, two = (References.of(free, workers) for workers in (1, 2))
        assert one.terms == "Pictures made smaller from images of `tiny`, CC-BY-4.0: A. Author 2020; https://example.org."
        assert one.thumbnails is not None
        assert len(one.thumbnails.files) == len(one.rows)
        assert all(Pillow.open(io.BytesIO(data)).size == (16, 16) for data in one.thumbnails.files)
        # the same whatever the number of workers
        assert one.thumbnails == two.thumbnails
        np.testing.assert_array_equal(one.appearance[1], two.appearance[1])

    def test_are_left_out_of_what_cannot_be_served(self, workspace: Workspace) -> None:
        assert read_bundle(workspace.bundles("tiny") / "layout").reference is None


class TestGolden:
    """The images with known answers, by which another machine is checked."""

    def test_are_drawn_where_the_licence_does_not_let_images_be_passed_on(self, workspace: Workspace) -> None:
        benchmark = Benchmark.read(workspace.data("tiny"))
        bundle = read_bundle(workspace.bundles("tiny") / "intensity")
        golden = bundle.golden
        assert golden is not None
        assert (golden.licence, golden.terms) == ("", "")
        assert golden.withheld == "the benchmark's card does not state a licence of the images"
        np.testing.assert_array_equal(golden.pixels, drawn_images(benchmark.card.image, GOLDEN_IMAGES))
        assert golden.pixels.dtype == benchmark.card.image.dtype
        # eight real ones and eight drawn ones
        assert bundle.card.parity["images"] == 2 * GOLDEN_IMAGES
        # what is said of them is what the network of the bundle computes: a scorer refuses anything else
        assert Scorer.open(bundle.folder).checked == "its golden images agree"
        mine = [benchmark.image(i).pixels.tobytes() for i in range(len(benchmark.index))]
        packed = [array.tobytes() for name in bundle.files if name.endswith(".npz") for array in read_arrays(bundle.folder / name).values()]
        assert not [pixels for pixels in mine for array in packed if pixels in array]

    def test_are_images_of_the_benchmark_where_it_does(self, workspace: Workspace, tmp_path: Path) -> None:
        made = Workspace(tmp_path)
        shutil.copytree(workspace.root, made.root, dirs_exist_ok=True)
        benchmark = Benchmark.read(made.data("tiny"))
        replace(benchmark.card, licence="CC-BY-4.0", citation="A. Author 2020").write(made.data("tiny"))
        package(made, PARAMS, "tiny")
        golden = read_bundle(made.bundles("tiny") / "intensity").golden
        assert golden is not None
        assert (golden.withheld, golden.licence, golden.terms) == ("", "CC-BY-4.0", "Image of `tiny`, CC-BY-4.0: A. Author 2020.")
        mine = {benchmark.image(int(i)).pixels.tobytes() for i in np.flatnonzero(benchmark.folds[0].test)}
        assert len(golden.pixels) == GOLDEN_IMAGES
        assert {pixels.tobytes() for pixels in golden.pixels} <= mine


def test_companions_travel_with_what_their_sources_say_of_the_golden_images(workspace: Workspace) -> None:
    bundle = read_bundle(workspace.bundles("tiny") / "intensity")
    assert bundle.golden is not None
    part = Part(bundle.card, bundle.onnx, bundle.heads, bundle.golden, None)
    card = replace(bundle.scorecard, tasks=[evidence("phase")])
    twin, control = companions(card, {"untrained-tiny": part, "intensity": part})
    assert twin.golden is not None
    assert control.golden is not None
    np.testing.assert_array_equal([twin.golden, control.golden], [bundle.golden.embedding] * 2)


def test_another_split_makes_another_oracle(workspace: Workspace, oracle: Bundle, tmp_path: Path) -> None:
    benchmark = Benchmark.read(workspace.data("tiny"))
    assert oracle_part(workspace, benchmark).card.identity == oracle.identity
    units = sorted(benchmark.index["unit"].unique())
    moved = benchmark.index.assign(fold=np.where(benchmark.index["unit"].isin(units[::2]), 0, -1))
    again = write_benchmark(tmp_path / "data" / "tiny", benchmark.card, moved)
    evaluate_oracle(again, workspace.embeddings("tiny"), PARAMS, Workspace(tmp_path).oracle("tiny"))
    assert oracle_part(Workspace(tmp_path), again).card.identity != oracle.identity
    renamed = replace(benchmark, card=replace(benchmark.card, name="other"))
    evaluate_oracle(renamed, workspace.embeddings("tiny"), PARAMS, Workspace(tmp_path).oracle("other"))
    assert oracle_part(Workspace(tmp_path), renamed).card.identity != oracle.identity


def test_the_oracle_is_registered_as_a_positive_control(workspace: Workspace, oracle: Bundle, tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert sync(store, workspace.root).registered == ("intensity/1", "layout/1", "oracle/1", "random/1")
    version = store.version("oracle@tiny")
    assert (version.tags["role"], version.tags["servable"]) == ("positive", "false")
    assert store.fetch_bundle("oracle@tiny", tmp_path / "fetched").digest == oracle.digest
    run = store._client.get_run(version.tags["run.tiny"])
    entry = next(e for e in oracle.scorecard.scores if (e.task, e.metric) == ("bright", "logistic.balanced_accuracy"))
    assert run.data.metrics["bright/logistic.balanced_accuracy"] == entry.value


def test_what_was_extracted_in_mixed_precision_is_packaged_as_it_is_served(tmp_path: Path) -> None:
    card = EncoderParams("net", "drawn fresh", "timm:resnet18", "random", role="twin", channel_strategy="native", input_px=32)
    cell = CellParams("tiny", "net", ["net"], "registry/encoders", card)
    params = replace(PARAMS, cells={"tiny--net": cell}, extract=ExtractParams(device="cpu", precision="amp-bfloat16", twin_seeds=1))
    made = Workspace(tmp_path)
    written = write_images(made.data("tiny"), plates=6, wells=4)
    benchmark = write_benchmark(made.data("tiny"), replace(written.card, licence="CC0-1.0"), written.index)
    run_flow(made, benchmark, cell, params)
    bundle = read_bundle(made.bundles("tiny") / "net")
    scored = Row.read(made.embeddings("tiny") / "net" / "net").embedding(bundle.card.member, 0, benchmark.index["image_id"].tolist())
    assert bundle.golden is not None
    served = bundle.golden.embedding
    nearest = np.abs(scored[:, None] - served).max(axis=2).min(axis=0) / np.sqrt(np.mean(scored**2))
    # mixed precision did round, and the bundle holds the float32 that will be served
    assert (nearest > SAME).all()
    assert (nearest < 0.2).all()


def test_another_network_than_was_scored_is_refused_under_any_precision() -> None:
    rng = np.random.default_rng(0)
    scored = rng.normal(size=(4, 32)).astype(np.float32)
    check_same("net", scored, scored * (1 + 1e-4))
    check_same("net", scored, scored + 0.03 * rng.normal(size=(4, 32)).astype(np.float32), "amp-bfloat16")
    check_same("net", 0 * scored, 0 * scored, "amp-bfloat16")
    with pytest.raises(ParityError, match="cosine 0"):
        check_same("net", 0 * scored, scored, "amp-bfloat16")
    with pytest.raises(ParityError, match="differs from what was scored by"):
        check_same("net", scored, scored * 1.01)
    with pytest.raises(ParityError, match=r"points elsewhere .* under `amp-bfloat16` \(cosine 0\.[0-8]"):
        check_same("net", scored, scored + rng.normal(size=(4, 32)).astype(np.float32), "amp-bfloat16")
