"""The follower against a real registry: an alias that moves is followed, a bad bundle is not, and nothing it does is seen half done."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from pipelines import follower_process
from pipelines.cli import main
from pipelines.follow import Follower, follow, waiting_s
from pipelines.follower_process import followed
from registry.bundle import Bundle, Golden, read_bundle, write_arrays
from registry.errors import BundleError, NotFoundError, ParamsError, StoreError
from registry.export import INPUT, OUTPUT
from registry.files import sha256_of_file, write_json
from registry.registration import register
from registry.staleness import Staleness
from registry.store import PROMOTED, Store
from serving.live import Live, Refusal
from serving.scoring import Scorer
from tests.pipelines.killed import step_and_die
from tests.serving.bundles import CELLS, Exported, TinyBundle, embed, export_networks, make_bundle, npy, tiny_images
from tests.serving.service import service

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Bundles:
    """Three versions of `tiny`: two that are sound, and one whose golden images say something else than its network."""

    one: Bundle
    two: Bundle
    wrong: Bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    folder = tmp_path_factory.mktemp("bundles")
    exported = export_networks(tmp_path_factory.mktemp("exported"))

    def made(number: int, pixel_size_um: float, **changes: object) -> Bundle:
        tiny: TinyBundle = make_bundle(folder / str(number) / "tiny", exported, replace(CELLS, pixel_size_um=pixel_size_um), **changes)
        return read_bundle(tiny.folder)

    return Bundles(made(1, 0.65), made(2, 0.5), made(3, 0.4, golden=lying(exported)))


def lying(exported: dict[str, Exported]) -> Golden:
    images = tiny_images(4, 5)
    return Golden(images, embed(exported["encoder"].network, images) + 1)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schema") / "mlflow.db"
    Store(f"sqlite:///{path}")
    return path


@dataclass
class Followed:
    """A registry of its own, a folder that follows it, and what the follower said."""

    store: Store
    root: Path
    lines: list[str] = field(default_factory=list)

    @property
    def database(self) -> Path:
        return Path(self.store.uri.removeprefix("sqlite:///"))

    def add(self, bundle: Bundle) -> None:
        """Register a bundle and promote it past the gate."""
        self.store.move_alias(register(self.store, bundle).version, PROMOTED)

    def promote(self, number: int) -> None:
        self.store.move_alias(self.store.version(f"tiny/{number}"), PROMOTED)

    def stored(self, bundle: Bundle, name: str) -> Path:
        """A file of a bundle in the artifact store."""
        return next(self.database.parent.glob(f"mlartifacts/**/{bundle.digest[:16]}/{name}"))

    def live(self) -> Live:
        return Live.read(self.root, "tiny")

    def follower(self, reference: str = "tiny", **changes: object) -> Follower:
        return Follower(lambda: Store.watched(self.store.uri), reference, self.root, say=self.lines.append, **changes)

    def hidden(self) -> list[str]:
        return [path.name for path in self.root.iterdir() if path.name.startswith(".") and path.suffix != ".lock"]


@pytest.fixture
def here(empty_database: Path, tmp_path: Path) -> Followed:
    (tmp_path / "registry").mkdir()
    shutil.copy(empty_database, tmp_path / "registry" / "mlflow.db")
    return Followed(Store(f"sqlite:///{tmp_path / 'registry' / 'mlflow.db'}"), tmp_path / "live")


def test_a_moved_alias_is_a_new_pointer_and_the_way_back_needs_no_download(here: Followed, bundles: Bundles) -> None:
    here.add(bundles.one)
    with here.follower() as follower:
        assert follower.step() == "published"
        first = here.live()
        assert (first.digest, first.version, first.reference) == (bundles.one.digest, 1, "tiny@promoted")
        assert first.identity == bundles.one.identity
        assert first.evidence == "not checked: no workspace that holds the benchmark has looked yet"
        assert Scorer.open(first.bundle(here.root)).name == "tiny"
        assert follower.step() == "same"

        here.add(bundles.two)
        assert follower.step() == "published"
        assert (here.live().version, here.live().digest) == (2, bundles.two.digest)

        shutil.rmtree(here.database.parent / "mlartifacts")
        here.promote(1)
        assert follower.step() == "published"
        assert here.live() == first
    assert here.lines == [
        f"`tiny@promoted` is `tiny/1` {bundles.one.identity[:12]}, evidence {first.evidence}.",
        f"`tiny@promoted` is `tiny/2` {bundles.two.identity[:12]}, evidence {first.evidence}, `tiny/1` before.",
        f"`tiny@promoted` is `tiny/1` {bundles.one.identity[:12]}, evidence {first.evidence}, `tiny/2` before.",
    ]
    assert here.hidden() == []


def test_bundles_that_were_left_are_removed_but_the_last(here: Followed, bundles: Bundles) -> None:
    here.add(bundles.one)
    here.add(bundles.two)
    with here.follower(keep=0) as follower:
        follower.step()
        here.promote(1)
        follower.step()
    assert [path.name for path in (here.root / "tiny").iterdir()] == [bundles.one.digest]


def test_new_words_about_evidence_are_published_without_another_bundle(here: Followed, bundles: Bundles) -> None:
    here.add(bundles.one)
    said = [Staleness(unchecked="this folder is no workspace")]
    with here.follower(judge=lambda _bundle: said[0]) as follower:
        follower.step()
        assert here.live().evidence.startswith("not checked: ")
        here.store.tag_version(here.store.version("tiny/1"), {"stale.cells": "the plates are others"})
        assert follower.step() == "published"
        assert here.live().evidence == "stale: the plates are others"
        # a workspace that holds the benchmark knows better
        said[0] = Staleness()
        assert follower.step() == "published"
        assert here.live().evidence == "current"
        assert follower.step() == "same"


def test_a_bundle_that_was_altered_in_the_artifact_store_is_refused_once(here: Followed, bundles: Bundles) -> None:
    here.add(bundles.one)
    with here.follower() as follower:
        follower.step()
        before = here.live()
        here.add(bundles.two)
        heads = here.stored(bundles.two, "heads.npz")
        sound = heads.read_bytes()
        heads.write_bytes(sound[:-1] + b"x")
        assert follower.step() == "refused"
        assert here.live() == before
        refusal = Refusal.read(here.root, "tiny")
        assert refusal is not None
        assert (refusal.digest, refusal.version) == (bundles.two.digest, 2)
        assert "The file was altered" in refusal.reason
        assert len(here.lines) == 2
        assert here.lines[1].startswith("`tiny@promoted` at `tiny/2` is refused, `tiny/1` stays. ")

        # not tried again while the alias stays, and said once
        heads.write_bytes(sound)
        assert follower.step() == "refused"
        assert len(here.lines) == 2
        assert Refusal.read(here.root, "tiny") == refusal
        # it is when the alias comes back to it
        here.promote(1)
        assert follower.step() == "same"
        assert Refusal.read(here.root, "tiny") is None
        here.promote(2)
        assert follower.step() == "published"
    assert here.live().version == 2
    assert here.hidden() == []


def test_a_bundle_that_was_replaced_whole_is_not_the_registered_one(here: Followed, bundles: Bundles) -> None:
    here.add(bundles.one)
    manifest, heads = here.stored(bundles.one, "manifest.json"), here.stored(bundles.one, "heads.npz")
    shutil.copy(bundles.one.folder / "companions" / "intensity" / "heads.npz", heads)
    value = json.loads(manifest.read_text())
    value["files"]["heads.npz"] = sha256_of_file(heads)
    write_json(manifest, value)
    with here.follower() as follower:
        assert follower.step() == "refused"
        assert "another one than was registered there" in follower.refusal
    assert here.lines[0].startswith("`tiny@promoted` at `tiny/1` is refused, nothing is served. ")
    with pytest.raises(BundleError, match="There is no"):
        here.live()
    with pytest.raises(BundleError, match="another one than was registered there"):
        here.store.fetch_bundle("tiny", here.root / "elsewhere")


@pytest.mark.parametrize("odd", ["scorecard.json", "golden.npz", "reference.npz"])
def test_a_bundle_that_is_odd_inside_is_refused_and_not_tried_for_ever(here: Followed, bundles: Bundles, odd: str) -> None:
    here.add(bundles.one)
    with here.follower() as follower:
        follower.step()
        before = here.live()
        here.add(bundles.two)
        manifest, file = here.stored(bundles.two, "manifest.json"), here.stored(bundles.two, odd)
        if odd == "scorecard.json":
            file.write_text("[" * 100_000 + "]" * 100_000)
        else:
            write_arrays(file, {"embedding": np.ones((3, 9), np.float32)})
        value = json.loads(manifest.read_text())
        write_json(manifest, {**value, "files": {**value["files"], odd: sha256_of_file(file)}})
        lines: list[int] = []
        for _ in range(3):
            assert follower.step() == "refused"
            lines.append(len(here.lines))
        assert lines == [2, 2, 2]
        assert here.live() == before
    assert {"scorecard.json": "RecursionError", "golden.npz": "expected `pixels`", "reference.npz": "expected `embedding`"}[odd] in follower.refusal


def test_a_bundle_whose_golden_images_say_otherwise_is_refused(here: Followed, bundles: Bundles) -> None:
    here.add(bundles.one)
    with here.follower() as follower:
        follower.step()
        before = here.live()
        here.add(bundles.wrong)
        assert follower.step() == "refused"
        assert "Golden images: expected the embedding by `tiny` to agree with its source" in follower.refusal
        assert here.live() == before
        # what is served goes on to say what is known of it
        here.store.tag_version(here.store.version("tiny/1"), {"stale.cells": "the plates are others"})
        assert follower.step() == "refused"
        assert here.live() == replace(before, evidence="stale: the plates are others")
    # a new follower tries again, to the same end
    with here.follower() as follower:
        assert follower.step() == "refused"
    assert not (here.root / "tiny" / bundles.wrong.digest).exists()


def test_a_bundle_without_golden_images_is_not_followed(here: Followed, tmp_path: Path) -> None:
    (tmp_path / "exported").mkdir()
    unchecked = make_bundle(tmp_path / "tiny", export_networks(tmp_path / "exported"), golden=None)
    assert Scorer.open(unchecked.folder).checked == "it has no golden images to check"
    here.add(read_bundle(unchecked.folder))
    with here.follower() as follower:
        assert follower.step() == "refused"
        assert follower.refusal.startswith("It holds no golden images")


def endless(folder: Path) -> Bundle:
    """A bundle whose network goes round a loop 2^62 times."""
    exported = export_networks(folder)
    axes, trips, true = onnx.numpy_helper.from_array(np.array([2, 3]), "axes"), np.array(2**62), np.array(True)
    around = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["goes_on"]), helper.make_node("Identity", ["state"], ["next"])],
        "around",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [None, 6]),
        ],
        [helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []), helper.make_tensor_value_info("next", TensorProto.FLOAT, [None, 6])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", [INPUT, "axes"], ["means"], keepdims=0),
            helper.make_node("Concat", ["means", "means"], ["state"], axis=1),
            helper.make_node("Loop", ["trips", "true", "state"], [OUTPUT], body=around),
        ],
        "endless",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", *CELLS.shape])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", 6])],
        [axes, onnx.numpy_helper.from_array(trips, "trips"), onnx.numpy_helper.from_array(true, "true")],
    )
    path = folder / "endless.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString())
    encoder = exported["encoder"]
    report = replace(encoder.report, sha256=sha256_of_file(path))
    tiny = make_bundle(folder / "tiny", {**exported, "encoder": replace(encoder, onnx=path, report=report)})
    return read_bundle(tiny.folder)


def served_before_an_endless_one(here: Followed, bundles: Bundles, folder: Path) -> Live:
    """One bundle is served, and one that never gives its golden answers is promoted after it."""
    here.add(bundles.one)
    with here.follower(check_s=60) as follower:
        follower.step()
    served = here.live()
    folder.mkdir()
    here.add(endless(folder))
    return served


def test_a_bundle_that_never_ends_is_refused(here: Followed, bundles: Bundles, tmp_path: Path) -> None:
    before = served_before_an_endless_one(here, bundles, tmp_path / "endless")
    with here.follower(check_s=3) as follower:
        assert follower.step() == "refused"
        assert "`tiny` had not given its golden answers after 3 s" in follower.refusal
    assert here.live() == before
    assert trying(os.getpid()) == []


@pytest.mark.slow
def test_a_follower_that_tries_a_bundle_without_end_can_be_ended(here: Followed, bundles: Bundles, tmp_path: Path) -> None:
    before = served_before_an_endless_one(here, bundles, tmp_path / "endless")
    arguments = ["--workspace", str(here.database.parent), "follow", "tiny", "--into", str(here.root), "--tracking-uri", here.store.uri]
    for number in (signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen([sys.executable, "-m", "pipelines.cli", *arguments], cwd=ROOT) as process:
            try:
                wait_for(lambda pid=process.pid: sum(child.cpu_times().user for child in trying(pid)) > 3)
                children = trying(process.pid)
                process.send_signal(number)
                assert process.wait(30) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
                assert psutil.wait_procs(children, 30)[1] == []
            finally:
                process.kill()
    assert here.live() == before


def trying(parent: int) -> list[psutil.Process]:
    """Children of a process that try a bundle."""
    return [child for child in psutil.Process(parent).children() if "spawn_main" in " ".join(child.cmdline())]


def test_an_alias_that_is_taken_away_leaves_what_is_served(here: Followed, bundles: Bundles) -> None:
    here.add(bundles.one)
    with here.follower() as follower:
        follower.step()
        before = here.live()
        here.store.remove_alias(here.store.version("tiny/1"), PROMOTED)
        assert follower.step() == "refused"
        assert follower.step() == "refused"
        assert here.live() == before
        refusal = Refusal.read(here.root, "tiny")
        assert refusal is not None
        assert (refusal.digest, refusal.version) == ("", 0)
        assert "There is no version `tiny@promoted`" in refusal.reason
        assert len(here.lines) == 2
        here.promote(1)
        assert follower.step() == "same"
        assert Refusal.read(here.root, "tiny") is None


def test_a_registry_that_is_gone_is_waited_for(here: Followed, bundles: Bundles) -> None:
    here.add(bundles.one)
    away = here.database.with_name("away.db")
    with here.follower() as follower:
        follower.step()
        before = here.live()
        here.database.rename(away)
        with pytest.raises(StoreError, match="is not there"):
            follower.step()
        assert here.live() == before
        assert not here.database.exists()
        with running(follower):
            wait_for(lambda: any("cannot be looked up, what is served stays" in line for line in here.lines))
            away.rename(here.database)
            here.add(bundles.two)
            wait_for(lambda: here.live().version == 2)
    assert len([line for line in here.lines if "cannot be looked up" in line]) == 1
    assert here.lines.count("`tiny@promoted` is looked up again.") == 1


def test_files_that_are_gone_are_waited_for(here: Followed, bundles: Bundles) -> None:
    here.add(bundles.one)
    files = here.database.parent / "mlartifacts"
    files.rename(files.with_name("away"))
    with here.follower() as follower:
        with pytest.raises(StoreError, match="cannot be downloaded"):
            follower.step()
        assert Refusal.read(here.root, "tiny") is None
        files.with_name("away").rename(files)
        assert follower.step() == "published"


def test_it_asks_less_and_less_often() -> None:
    assert [waiting_s(10, failures) for failures in range(5)] == [10, 20, 40, 60, 60]
    assert [waiting_s(120, failures) for failures in (0, 1, 9)] == [120, 120, 120]
    assert waiting_s(0.01, 10_000) == 60
    with pytest.raises(ParamsError, match="Expected `--poll` above 0 seconds, got 0"):
        follow([], 0)


@pytest.mark.parametrize("moment", ["rename", "pointer"])
def test_killed_at_the_worst_moment_it_leaves_no_half_bundle_that_is_pointed_to(here: Followed, bundles: Bundles, moment: str) -> None:
    here.add(bundles.one)
    with here.follower() as follower:
        follower.step()
    before = here.live()
    here.add(bundles.two)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.pipelines.killed"])
    process = context.Process(target=step_and_die, args=(here.store.uri, "tiny", str(here.root), moment))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert here.live() == before
    read_bundle(here.live().bundle(here.root))
    assert len(here.hidden()) == (moment == "rename")
    assert sorted(path.name for path in (here.root / "tiny").iterdir()) == sorted(
        [bundles.one.digest, *([bundles.two.digest] if moment == "pointer" else [])]
    )
    for path in (here.root / "tiny").iterdir():
        read_bundle(path)
    with here.follower() as follower:
        assert here.hidden() == []
        assert follower.step() == "published"
    assert here.live().version == 2


def test_what_a_power_cut_left_is_fetched_again(here: Followed, bundles: Bundles) -> None:
    here.add(bundles.one)
    with here.follower() as follower:
        follower.step()
    live = here.live()
    (live.bundle(here.root) / "heads.npz").write_bytes(b"")
    with here.follower() as follower:
        assert follower.step() == "same"
    read_bundle(live.bundle(here.root))
    (here.root / "tiny.json").write_text("{")
    with here.follower() as follower:
        assert follower.step() == "published"
    assert here.live() == live


def test_one_follower_of_a_name_in_a_folder(here: Followed, bundles: Bundles) -> None:
    here.add(bundles.one)
    with here.follower(), pytest.raises(ParamsError, match="Another process follows `tiny` into"), here.follower("tiny@cells"):
        pass
    with here.follower("tiny@cells") as follower:
        follower.step()
    assert here.live().reference == "tiny@cells"


def test_what_does_not_move_is_not_followed(here: Followed) -> None:
    with pytest.raises(ParamsError, match="got `tiny/1`: a version stays what it is"):
        here.follower("tiny/1")
    with pytest.raises(NotFoundError, match="form of reference"):
        here.follower("../tiny")


# ---------------------------------------------------------------------------------------------- as a command


def command(here: Followed, *arguments: str) -> int:
    return main(["--workspace", str(here.database.parent), *arguments])


def test_the_command_looks_once(here: Followed, bundles: Bundles, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(ROOT / "params.yaml", here.database.parent)
    here.add(bundles.one)
    assert command(here, "follow", "tiny", "--into", str(here.root), "--once") == 0
    assert capsys.readouterr().out.startswith("[follow] `tiny@promoted` is `tiny/1`")
    assert (here.live().version, here.live().evidence) == (1, "not checked: `cells` is not in this workspace")
    here.add(bundles.wrong)
    assert command(here, "follow", "tiny", "--into", str(here.root), "--once") == 2
    assert "blankslide: Golden images: " in capsys.readouterr().err
    assert here.live().version == 1
    assert command(here, "follow", "tiny", "--into", str(here.root), "--once", "--tracking-uri", f"sqlite:///{here.root}/no.db") == 2
    assert "is not there" in capsys.readouterr().err
    assert not (here.root / "no.db").exists()


def test_a_server_waits_for_the_first_pointer_and_ends_its_follower(here: Followed, bundles: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_process, "_RESTART_S", 0.1)
    here.add(bundles.one)
    said: list[str] = []
    with followed(["tiny"], here.root, ["--workspace", str(here.database.parent)], ["--poll", "0.2", "--tracking-uri", here.store.uri], said.append):
        assert here.live().version == 1
        (child,) = followers()
        here.add(bundles.two)
        wait_for(lambda: here.live().version == 2)
        assert os.getsid(child.pid) != os.getsid(0)
        child.kill()
        here.promote(1)
        wait_for(lambda: here.live().version == 1)
        (child,) = followers()
    assert not child.is_running()
    assert said == ["Waiting for the registry: `tiny`.", "The follower ended with status -9; what is served stays, it is started again."]
    with (
        pytest.raises(BundleError, match="There is no registered model `nobody`"),
        followed(["nobody"], here.root, [], ["--tracking-uri", here.store.uri], said.append),
    ):
        pass
    assert followers() == []
    with pytest.raises(ParamsError, match="Expected names that differ"), followed(["tiny", "tiny@cells"], here.root):
        pass


def test_a_follower_ends_with_the_server_that_was_killed(here: Followed, bundles: Bundles) -> None:
    here.add(bundles.one)
    code = f"""
import sys, time
from pathlib import Path
from pipelines.follower_process import followed

if __name__ == "__main__":
    with followed(["tiny"], Path({str(here.root)!r}), [], ["--poll", "0.2", "--tracking-uri", {here.store.uri!r}]):
        heavy = {{"mlflow", "torch", "dvc"}} & set(sys.modules)
        print("ready", *heavy, flush=True)
        time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines = iter(server.stdout.readline, "")
        assert next(line for line in lines if not line.startswith(("[follow]", "Waiting"))) == "ready\n"
        (child,) = followers(server.pid)
        server.kill()
        wait_for(lambda: not child.is_running())


def followers(parent: int | None = None) -> list[psutil.Process]:
    """Children of a process that follow."""
    return [child for child in psutil.Process(parent).children() if "follow" in child.cmdline()]


@contextmanager
def running(follower: Follower) -> Iterator[None]:
    """Follow from a thread."""
    stop = threading.Event()
    thread = threading.Thread(target=follow, args=([follower], 0.05, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def wait_for(true: Callable[[], bool], patience_s: float = 60.0) -> None:
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_whole_way_from_a_moved_alias_to_another_answer_without_a_dropped_request(here: Followed, bundles: Bundles, tmp_path: Path) -> None:
    here.add(bundles.one)
    arguments = ["--follow", "tiny", "--poll", "0.2", "--tracking-uri", here.store.uri]
    statuses: list[int] = []
    ended = threading.Event()

    with service(arguments, tmp_path / "log", poll_s=0.1) as running, httpx.Client(base_url=running.url, timeout=20) as http:

        def client() -> None:
            with httpx.Client(base_url=running.url, timeout=20) as own:
                while not ended.is_set():
                    statuses.append(own.post("/v1/embed?model=tiny", content=npy(tiny_images(1, 5)[0])).status_code)

        def served() -> str:
            return str(http.get("/v1/models").json()["models"][0]["identity"])

        assert served() == bundles.one.identity
        load = threading.Thread(target=client)
        load.start()
        try:
            here.add(bundles.two)
            until(lambda: served() == bundles.two.identity)
            here.add(bundles.wrong)
            until(lambda: "blankslide_bundles_refused_total{" in http.get("/metrics").text)
            assert served() == bundles.two.identity
            here.promote(1)
            until(lambda: served() == bundles.one.identity)
        finally:
            ended.set()
            load.join()
        assert len(statuses) > 20
        assert set(statuses) == {200}
        for process in (psutil.Process(running.process.pid), *running.workers):
            held = {part for found in process.memory_maps() for part in Path(found.path).parts}
            assert held & {"torch", "mlflow", "dvc"} == set()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
