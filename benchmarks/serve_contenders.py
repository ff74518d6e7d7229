"""What `benchmarks/serve.py` compares: the bare network, the endpoint, TorchServe, and servers of others."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from serve_load import Target, closed_loop, post

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (5, 224, 224)
#: of a run that is about requests and not about networks
SMALL = (5, 64, 64)
NAME = "vit-tiny"


def make_bundle(folder: Path, architecture: str = "timm:vit_tiny_patch16_224", shape: tuple[int, int, int] = SHAPE) -> Path:
    """An untrained network as a bundle: how fast it is does not depend on what it has learned."""
    from registry.bundle import BundleCard, Golden, write_bundle
    from registry.cards import EncoderCard
    from registry.encoders.rows import encoder_members
    from registry.evidence import Scorecard
    from registry.export import export_onnx
    from registry.images import ImageSpec
    from registry.representation import Batch, Facts

    spec = ImageSpec(("dna", "er", "rna", "agp", "mito"), "uint16", *shape[1:], ((0.0, 4095.0),) * 5)
    card = EncoderCard(NAME, "negative", "An untrained network.", architecture, "random", input_px=shape[-1])
    member, *_ = encoder_members(card, Facts("bench", "cells", spec), seeds=1)
    representation = member.make()
    pixels = np.stack([image(seed, shape) for seed in range(2)]).astype(np.float32)
    import pandas as pd

    embedding = representation.embed(Batch(("0", "1"), pixels, pd.DataFrame(index=[0, 1]), None))
    network = representation.network()
    if network is None:
        raise RuntimeError("Expected a network that can be exported.")
    report = export_onnx(network, pixels, folder / "network.onnx")
    bundle = BundleCard(card, "bench", spec, embedding.shape[1], {}, report.sha256, member.name, "", report.as_dict())
    golden = Golden(pixels.astype(np.uint16), embedding)
    return write_bundle(
        folder / NAME, bundle, Scorecard(NAME, "negative", "bench", "Benchmark", "", "image"), onnx=folder / "network.onnx", golden=golden
    ).folder


def image(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray[Any, np.dtype[np.uint16]]:
    return np.random.default_rng(seed).integers(0, 4096, shape).astype(np.uint16)


def body(shape: tuple[int, int, int] = SHAPE) -> bytes:
    stream = io.BytesIO()
    np.save(stream, image(7, shape))
    return stream.getvalue()


class Bare:
    """ONNX Runtime in this process, without a server."""

    def __init__(self, bundle: Path, threads: int) -> None:
        from serving.embedders import OnnxEmbedder

        model = (bundle / "encoder.onnx").read_bytes()
        self.pixels = image(7).astype(np.float32)[None]
        self.wide = OnnxEmbedder(model, threads=threads)
        self.narrow = OnnxEmbedder(model, threads=1)
        self.threads = threads

    def alone(self, seconds: float) -> list[float]:
        latencies, end = [], time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            self.wide.embed(self.pixels)
            latencies.append(time.perf_counter() - start)
        return latencies

    def side_by_side(self, seconds: float) -> float:
        """Images per second."""
        counts = [0] * self.threads
        start = time.perf_counter()

        def run(i: int) -> None:
            while time.perf_counter() < start + seconds:
                self.narrow.embed(self.pixels)
                counts[i] += 1

        threads = [threading.Thread(target=run, args=(i,)) for i in range(self.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - start)

    def measure(self, seconds: float, found: dict[str, list[float]]) -> str:
        alone, together = self.alone(seconds), self.side_by_side(seconds)
        wide, latency = len(alone) / seconds, statistics.median(alone)
        found.setdefault("bare/alone", []).append(latency)
        found.setdefault("bare/full", []).append(max(together, wide))
        return f"bare: {1000 * latency:.1f} ms alone, {wide:.1f}/s by one session of all threads, {together:.1f}/s by threads side by side"


class Endpoint:
    """`blankslide serve`."""

    def __init__(self, bundle: Path, shape: tuple[int, int, int] = SHAPE, **settings: object) -> None:
        environment = {**os.environ, **{f"BLANKSLIDE_SERVE_{name.upper()}": str(value) for name, value in settings.items()}}
        command = [sys.executable, "-u", "-m", "pipelines.cli", "serve", "--bundle", str(bundle), "--port", "0"]
        start = time.perf_counter()
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.process.stdout or ():
            if line.startswith("Serving on "):
                self.started_s = time.perf_counter() - start
                port = int(line.split()[2].rpartition(":")[2])
                self.target = Target(port, post(f"/v1/embed?model={NAME}", body(shape), "Content-Type: application/octet-stream"), self.process.pid)
                return
        raise RuntimeError("The endpoint did not start: `blankslide serve --bundle` says why.")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def resident(self) -> int:
        """Bytes of the supervisor and its workers that are not shared."""
        import psutil

        own = psutil.Process(self.process.pid)
        return sum(process.memory_full_info().uss for process in (own, *own.children()))


@contextmanager
def endpoint(bundle: Path, **settings: object) -> Iterator[Target]:
    running = Endpoint(bundle, **settings)
    try:
        yield running.target
    finally:
        running.stop()


@contextmanager
def torchserve(bundle: Path) -> Iterator[Target]:
    """The product's own archive: ONNX inside, the same Scorer."""
    from serving.archive import make_archive
    from serving.torchserve import TorchServe

    with tempfile.TemporaryDirectory() as store, TorchServe([make_archive(bundle, Path(store))]) as server:
        token = f"Authorization: Bearer {server.token('inference')}"
        path = server.prediction_url(NAME).removeprefix(server.url)
        request = post(path, body(), "Content-Type: application/octet-stream", token)
        yield Target(server.ports.inference, request, server.process_group)


@contextmanager
def command(arguments: Sequence[str], target: Callable[[int], Target], folder: Path = ROOT, **environment: str) -> Iterator[Target]:
    """A peer as a process group of its own; yields when it answers its target."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    arguments = [part.replace("PORT", str(port)) for part in arguments]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(arguments, cwd=folder, env=os.environ | environment, stdout=log, stderr=log, start_new_session=True)
        try:
            for _ in range(240):
                with suppress(RuntimeError, OSError, asyncio.IncompleteReadError):
                    asyncio.run(closed_loop(target(port), 1, 0.01))
                    break
                time.sleep(0.5)
            else:
                log.seek(0)
                raise RuntimeError(f"{arguments[0]} does not answer: {log.read().decode(errors='replace')[-2000:]}")
            yield replace(target(port), pid=process.pid)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def in_json(path: str, **value: object) -> Callable[[int], Target]:
    request = post(path, json.dumps(value).encode(), "Content-Type: application/json")
    return lambda port: Target(port, request)


def environment_of(package: str) -> Path:
    """The interpreter of an environment that holds a peer."""
    folder = ROOT / ".bench" / package.partition("=")[0]
    python = folder / "bin" / "python"
    if not python.exists():
        uv = str(ROOT / ".uv" / "bin" / "uv")
        subprocess.run([uv, "venv", "--quiet", "--python", "3.11", str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), package, "onnxruntime==1.31.1", "numpy==2.4.6"], check=True)
    return python


def peers(bundle: Path, scratch: Path) -> dict[str, Any]:
    """Contenders by name, each a context manager that yields its target."""
    model, image64 = str(bundle / "encoder.onnx"), base64.b64encode(body()).decode()
    here = Path(__file__).parent / "peers"
    saved = scratch / "mlflow-model"
    subprocess.run([sys.executable, str(here / "mlflow_model.py"), model, str(saved)], check=True, capture_output=True)
    mlflow = shutil.which("mlflow") or "mlflow"
    bento = environment_of("bentoml==1.4.40").with_name("bentoml")
    return {
        "TorchServe": torchserve(bundle),
        "MLflow": command(
            [mlflow, "models", "serve", "-m", str(saved), "--env-manager", "local", "--host", "127.0.0.1", "--port", "PORT"],
            in_json("/invocations", dataframe_records=[{"image": image64}]),
        ),
        "LitServe": command(
            [str(environment_of("litserve==0.2.19")), str(here / "litserve_server.py"), model, "PORT"], in_json("/predict", image=image64)
        ),
        "BentoML": command(
            [str(bento), "serve", "bentoml_service:Encoder", "--host", "127.0.0.1", "--port", "PORT"],
            lambda port: Target(port, post("/embed", body(), "Content-Type: application/octet-stream")),
            folder=here,
            ENCODER=model,
            BENTOML_DO_NOT_TRACK="true",
        ),
    }
