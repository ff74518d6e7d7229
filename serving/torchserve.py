"""Starting and stopping a real TorchServe on loopback, tokens on.

TorchServe is a Java process behind a Python wrapper. What this module adds is what it lacks: private folders (its process
file and sockets lie in the temporary folder, and two servers sharing one clash), readiness by the worker's own state
(`/ping` is healthy while no worker can start), and an end that leaves nothing behind (a signal to the wrapper orphans Java).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import httpx

from registry.errors import BundleError, ParamsError, ProviderError
from serving.archive import ArchiveFacts, Inside, copy_trusted, make_archive
from serving.client import TorchServeClient
from serving.settings import Settings
from serving.torchserve_log import CONFIGURATION, CONSOLE, is_whole, logging_configuration, story, worker_failed

HOST = "127.0.0.1"
KEYS = "key_file.json"
#: what a worker needs of the caller's environment; everything else, secrets included, stays out of it
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "JAVA_HOME", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
_STOP_S = 20.0
#: the name of a worker's socket follows
LONGEST_FOLDER = 85
#: a log is written line by line: it is whole when it has not grown for `_QUIET_S`; a traceback is waited for that long
_QUIET_S, _LOG_S = 0.5, 15.0
#: TorchServe's own hour would end a session in the middle of a day's work
TOKEN_MINUTES = 24 * 60


@dataclass(frozen=True)
class Ports:
    """Loopback ports; 0 chooses a free one."""

    inference: int = 8080
    management: int = 8081
    metrics: int = 8082
    grpc_inference: int = 7070
    grpc_management: int = 7071

    @classmethod
    def free(cls) -> Ports:
        """All chosen by the system."""
        return cls(0, 0, 0, 0, 0)

    @classmethod
    def beside(cls, port: int) -> Ports:
        """Inference on `port`, management and metrics on the next two, the rest chosen by the system; all of them if `port` is 0."""
        return cls(port, port + 1, port + 2, 0, 0) if port else cls.free()

    def chosen(self) -> Ports:
        """Every 0 replaced by a free port.

        Raises:
            ParamsError: a port is taken.
        """
        found: dict[str, int] = {}
        with contextlib.ExitStack() as stack:
            # All are held until all are chosen, so that no two are the same.
            for name in (field.name for field in fields(self)):
                listener = stack.enter_context(socket.socket())
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                wanted = getattr(self, name)
                try:
                    listener.bind((HOST, wanted))
                    listener.listen()
                except OSError as error:
                    raise ParamsError(f"The {name} port {wanted} cannot be used ({error.strerror}). Choose others, or 0 for free ones.") from error
                found[name] = listener.getsockname()[1]
        return Ports(**found)


class TorchServe:
    """A running TorchServe; use it in a `with` block.

    Args:
        archives: `.mar` files made by `serving.archive.make_archive`, or others.
        ports: free ones unless given.
        settings: provider and limits; handed to the workers.
        start_s: how long the workers may take to become ready.
        trust_handlers: whether archives with other code than this version's own handler are started too; TorchServe runs that code.

    Raises:
        BundleError: no archive, not one, or two of one name; one with other code, which is not to be trusted.
        ParamsError: a port is taken.
        ProviderError: no Java, or the server or a worker did not start; quotes the worker's traceback.
    """

    def __init__(
        self,
        archives: Sequence[Path],
        ports: Ports | None = None,
        settings: Settings | None = None,
        start_s: float = 120.0,
        trust_handlers: bool = False,
    ) -> None:
        found = [(ArchiveFacts.read(archive), archive.resolve()) for archive in archives]
        self.archives = {facts.name: archive for facts, archive in found}
        self._versions = {facts.name: facts.version for facts, _ in found}
        if not archives or len(self.archives) < len(archives):
            raise BundleError(f"Expected archives of different models, got {[facts.name for facts, _ in found]}. Serve each name once.")
        self.settings = settings or Settings()
        self._ports = ports or Ports.free()
        self._start_s = start_s
        self._trust_handlers = trust_handlers

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="torchserve-", ignore_cleanup_errors=True)
        self.home = Path(self._folder.name)
        if len(str(self.home / "tmp")) > LONGEST_FOLDER:
            self._folder.cleanup()
            raise ProviderError(
                f"`{self.home}` is too long for the sockets of TorchServe's workers, whose paths are at most 107 bytes."
                " Set TMPDIR to a shorter folder."
            )
        try:
            self.ports = self._ports.chosen()
            self._process = self._start()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where images are sent."""
        return f"http://{HOST}:{self.ports.inference}"

    def prediction_url(self, name: str) -> str:
        """Where images for one model are sent."""
        return f"{self.url}/predictions/{name}"

    @property
    def keys(self) -> Path:
        """The file that holds the tokens, readable by this user only."""
        return self.home / KEYS

    @property
    def process_group(self) -> int:
        """Of the wrapper, Java, the workers and the guard."""
        return self._process.pid

    def token(self, kind: str) -> str:
        """The "management", "inference" or "API" token."""
        return str(json.loads(self.keys.read_text())[kind]["key"])

    def client(self, timeout_s: float = 60.0) -> TorchServeClient:
        """A client with the inference token."""
        return TorchServeClient(self.url, self.token("inference"), timeout_s)

    def wait(self) -> int:
        """Block until the server ends; its exit status."""
        return self._process.wait()

    def stop(self) -> None:
        """End Java first, then whatever is left of the process group; remove the private folder."""
        process: subprocess.Popen[bytes] | None = getattr(self, "_process", None)
        if process is not None:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError, ValueError):
                os.kill(int((self.home / "tmp" / ".model_server.pid").read_text()), signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        guard: subprocess.Popen[bytes] | None = getattr(self, "_guard", None)
        if guard is not None and guard.stdin is not None:
            guard.stdin.close()
            guard.wait()
        self._folder.cleanup()

    def _start(self) -> subprocess.Popen[bytes]:
        java_home = os.environ.get("JAVA_HOME")
        if shutil.which(f"{java_home}/bin/java" if java_home else "java") is None:
            raise ProviderError("TorchServe needs Java 17, which is not there. On Debian: `apt-get install openjdk-17-jre-headless`.")
        for name in ("tmp", "logs", "store"):
            (self.home / name).mkdir()
        for name, archive in self.archives.items():
            copy = shutil.copyfile if self._trust_handlers else copy_trusted
            copy(archive, self.home / "store" / f"{name}.mar")
        (self.home / "config.properties").write_text(self._configuration())
        (self.home / CONFIGURATION).write_text(logging_configuration())
        # --ncs: no configuration is written down, so none is taken up again
        command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs", "--log-config", CONFIGURATION]
        command += ["--ts-config", "config.properties", "--model-store", "store"]
        kept: dict[str, Any] = {"cwd": self.home, "env": self._environment(os.environ)}
        with (self.home / "logs" / CONSOLE).open("wb") as log:
            process = subprocess.Popen(command, **kept, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0)
            # Reads a pipe that ends with this process, however that ends, and then takes the group with it.
            guard = ["/bin/sh", "-c", "read -r _; kill -KILL 0"]
            self._guard = subprocess.Popen(guard, **kept, stdin=subprocess.PIPE, stdout=log, stderr=log, process_group=process.pid)
        return process

    def _environment(self, caller: Mapping[str, str]) -> dict[str, str]:
        kept = {name: caller[name] for name in _ENVIRONMENT if name in caller}
        temporary, logs = str(self.home / "tmp"), str(self.home / "logs")
        folders = {"TMPDIR": temporary, "TEMP": temporary, "LOG_LOCATION": logs, "METRICS_LOCATION": logs}
        # from a checkout that is not installed the workers could not import what the handler does
        source = Path(__file__).resolve().parents[1]
        packages = {} if source.name == "site-packages" else {"PYTHONPATH": str(source)}
        return kept | folders | packages | self.settings.as_environment()

    def _configuration(self) -> str:
        values = {
            "inference_address": f"http://{HOST}:{self.ports.inference}",
            "management_address": f"http://{HOST}:{self.ports.management}",
            "metrics_address": f"http://{HOST}:{self.ports.metrics}",
            "grpc_inference_address": HOST,
            "grpc_inference_port": self.ports.grpc_inference,
            "grpc_management_address": HOST,
            "grpc_management_port": self.ports.grpc_management,
            "disable_token_authorization": "false",
            "token_expiration_min": TOKEN_MINUTES,
            "enable_model_api": "false",
            "enable_envvars_config": "false",
            "allowed_urls": "file://nothing-is-loaded-from-elsewhere",
            "install_py_dep_per_model": "false",
            "disable_system_metrics": "true",
            "metrics_mode": "prometheus",
            "number_of_netty_threads": 2,
            "max_request_size": self.settings.max_body_bytes,
            "max_response_size": self.settings.max_body_bytes,
            "job_queue_size": self.settings.queue_length,
            "default_startup_timeout": round(self._start_s),
            "load_models": ",".join(f"{name}.mar" for name in self.archives),
            "models": json.dumps({name: {version: self._model(name)} for name, version in self._versions.items()}),
        }
        return "".join(f"{name}={value}\n" for name, value in values.items())

    def _model(self, name: str) -> dict[str, Any]:
        return {
            "defaultVersion": True,
            "marName": f"{name}.mar",
            "minWorkers": 1,
            "maxWorkers": 1,
            "batchSize": self.settings.batch,
            "maxBatchDelay": 5,
            "responseTimeout": math.ceil(self.settings.answer_timeout_s),
        }

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._start_s
        waiting = dict.fromkeys(self.archives, "")
        while waiting := {name: state for name in waiting if (state := self._worker_state(name)) != "READY"}:
            names = ", ".join(f"`{name}`" for name in waiting)
            if self._process.poll() is not None or worker_failed(self._logs):
                raise ProviderError(f"TorchServe could not start {names}. Its log says:\n{self._told()}")
            if time.monotonic() > deadline:
                raise ProviderError(f"No worker of {names} was ready after {self._start_s:g} s. TorchServe's log says:\n{self._told()}")
            time.sleep(0.1)

    @property
    def _logs(self) -> Path:
        return self.home / "logs"

    def _told(self) -> str:
        """What the log says, once that is whole."""
        deadline, before = time.monotonic() + _LOG_S, None
        while True:
            text = story(self._logs)
            settled = text == before and (is_whole(text) or not self._expected())
            if settled or time.monotonic() > deadline:
                return text
            before = text
            time.sleep(_QUIET_S)

    def _expected(self) -> bool:
        """Whether there will be a traceback: TorchServe may end a worker before it has read all the worker said, and starts another."""
        return self._process.poll() is None and worker_failed(self._logs)

    def _worker_state(self, name: str) -> str:
        """The worker's own state by the management interface; "" while that does not answer."""
        try:
            headers = {"Authorization": f"Bearer {self.token('management')}"}
            found: Any = httpx.get(f"http://{HOST}:{self.ports.management}/models/{name}", headers=headers, timeout=5).json()
            return str(found[0]["workers"][0]["status"])
        except (httpx.HTTPError, FileNotFoundError, ValueError, LookupError):
            return ""


def run(
    models: Sequence[Path],
    port: int = 8080,
    settings: Settings | None = None,
    say: Callable[[str], None] = print,
    inside: Inside = "onnx",
    trust_handlers: bool = False,
) -> None:
    """Serve bundles or archives with TorchServe until SIGINT or SIGTERM.

    Args:
        models: bundle directories or `.mar` files.
        port: of the inference interface, management and metrics on the two after it; 0 chooses free ones.
        settings: from the environment unless given.
        say: prints a line for people.
        inside: what runs the networks of bundles; an archive says that itself.
        trust_handlers: see `TorchServe`.

    Raises:
        BundleError: a bundle cannot be archived, or two have one name; an archive holds code that is not to be trusted.
        ProviderError: see `TorchServe`.
        ParamsError: a port is taken.
    """
    settings = settings or Settings.from_environment()

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        with tempfile.TemporaryDirectory(prefix="store-") as store:
            archives = [make_archive(model, Path(store), inside) if model.is_dir() else model for model in models]
            say(f"Starting TorchServe with {', '.join(f'`{archive.stem}`' for archive in archives)}; Java and the workers take some seconds.")
            with TorchServe(archives, Ports.beside(port), settings, trust_handlers=trust_handlers) as server:
                _introduce(server, say)
                status = server.wait()
                raise ProviderError(f"TorchServe ended by itself with status {status}.")
    except KeyboardInterrupt:
        say("TorchServe has stopped.")
    finally:
        signal.signal(signal.SIGTERM, before)


def _introduce(server: TorchServe, say: Callable[[str], None]) -> None:
    say(f"Serving {len(server.archives)} model{'s' if len(server.archives) > 1 else ''} on {server.url}. Stop with Ctrl-C.")
    say(f"Tokens are in {server.keys} (readable by you only) and last a day. With IMAGE.tif as the image:")
    # by a pipe: what stands in a command's arguments, every user of the machine can read
    header = f"print('Authorization: Bearer', json.load(open('{server.keys}'))['inference']['key'])"
    for name in server.archives:
        url = server.prediction_url(name)
        say(f'{sys.executable} -c "import json; {header}" | curl -H @- -H "Content-Type: application/octet-stream" --data-binary @IMAGE.tif {url}')
