"""The follower: a process of its own that keeps a folder's pointers at what the registry's aliases name.

A look resolves `NAME@ALIAS`. Where version, bundle or evidence changed, the bundle is fetched beside the others, verified
(every file's hash; the golden images, in a process of their own) and renamed into place; the pointer is replaced last. So an
endpoint that reads the pointer (`serving.live`) never sees half a bundle, whatever kills the follower. It talks to MLflow, the
endpoint does not.

A bundle that fails is refused: the pointer stays, `<NAME>.refused.json` and one line of the log say why, and it is not tried
again until the alias moves or the follower is started again. A registry that does not answer is asked again, less and less
often; what is served stays.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from filelock import FileLock, Timeout

from registry.bundle import Bundle, read_bundle
from registry.errors import BlankslideError, BundleError, NotFoundError, ParamsError, StoreError
from registry.files import sync_tree
from registry.records import Reference, Version
from registry.staleness import Staleness, from_tags
from serving.live import Live, Refusal, clear_refusal, pointer_path, retire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.store import Store

POLL_S = 10.0
#: between looks at a registry that does not answer; never less than the poll
LONGEST_WAIT_S = 60.0
#: bundles that stay beside the live one, so that going back needs no download
KEEP = 2
#: a bundle that is not through its golden images by then is refused: a network may hold a loop without end
CHECK_S = 300.0
#: nobody looks at what is followed before it is served
NO_GOLDEN = "It holds no golden images, by which it could be checked on this machine. Package the benchmark again."
#: what a workspace says about the evidence in a bundle
EvidenceJudge = Callable[[Bundle], Staleness]
#: what a look came to: nothing new, a pointer replaced, or something that is not served
Step = Literal["same", "published", "refused"]


@dataclass(frozen=True)
class Target:
    """What a reference names now.

    Attributes:
        version: of the registry.
        benchmark: whose heads and scores.
        digest: hex SHA-256 of the bundle's manifest, as registered.
    """

    version: Version
    benchmark: str
    digest: str

    @property
    def whole(self) -> bool:
        """Whether its registration is complete: another process may be in the middle of one."""
        return self.digest.startswith(self.version.tags[f"bundle.{self.benchmark}"].rpartition("/")[2])


class StoppedError(BlankslideError):
    """A look was ended before it came to anything."""


def name_followed(reference: str) -> str:
    """The name of `NAME` or `NAME@ALIAS`.

    Raises:
        NotFoundError: not a reference.
        ParamsError: a version, which does not move.
    """
    wanted = Reference.parse(reference)
    if wanted.version:
        raise ParamsError(f"Expected NAME or NAME@ALIAS to follow, got `{reference}`: a version stays what it is. Serve it by `blankslide serve`.")
    return wanted.name


class Follower:
    """Follows one reference; use it in a `with` block, which keeps a second follower of that name out of the folder.

    Args:
        store: opens the registry; called again after it did not answer.
        reference: `NAME@ALIAS`; `NAME` alone means its alias `promoted`.
        root: folder of pointers and bundles (`serving.live`), made if it is not there.
        judge: says whether evidence is stale; what it cannot check is as the registry's tags say.
        keep: bundles that stay beside the live one.
        say: prints a line for people.
        going: asked again and again while a bundle is tried; False ends the look.
        check_s: how long that may take.

    Raises:
        NotFoundError: not a reference.
        ParamsError: it names a version, which does not move; or another process follows that name into `root`.
    """

    def __init__(
        self,
        store: Callable[[], Store],
        reference: str,
        root: Path,
        judge: EvidenceJudge | None = None,
        keep: int = KEEP,
        say: Callable[[str], None] = print,
        going: Callable[[], bool] = lambda: True,
        check_s: float = CHECK_S,
    ) -> None:
        from registry.store import PROMOTED

        self.name = name_followed(reference)
        self.reference = f"{self.name}@{Reference.parse(reference).alias or PROMOTED}"
        self.root = root
        self._open = store
        self._judge = judge
        self._keep = keep
        self._say_line = say
        self._going = going
        self._check_s = check_s
        self._said = ""
        self._failing = False
        self._store: Store | None = None
        self._bundle: Bundle | None = None
        self._digest = ""
        self._refused: tuple[int, str] | None = None
        self._lock = FileLock(root / f".{self.name}.lock", timeout=0)

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ParamsError(f"Another process follows `{self.name}` into `{self.root}`. End it, or choose another folder.") from error
        for left in self.root.glob(f".{self.name}.*.part"):
            # of a follower that was killed: nobody else may be here
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.release()

    @property
    def refusal(self) -> str:
        """Why what the reference names is not served; "" if it is."""
        found = Refusal.read(self.root, self.name)
        return found.reason if found else ""

    def step(self) -> Step:
        """One look.

        Raises:
            StoreError: the registry or its files do not answer; the pointer is as it was.
            StoppedError: it was ended; the pointer is as it was.
            OSError: the folder cannot be written to.
        """
        try:
            done = self._look(self._opened())
        except StoreError:
            # a new one sees what there is by then
            self._store = None
            raise
        if self._failing:
            self._say(f"`{self.reference}` is looked up again.")
            self._failing = False
        return done

    def failed(self, error: Exception) -> None:
        """Say that a look failed, and after the next one that did not, that it did not."""
        self._failing = True
        what = str(error) if isinstance(error, BlankslideError) else f"{type(error).__name__}: {error}"
        self._say(f"`{self.reference}` cannot be looked up, what is served stays: {what}")

    def _look(self, store: Store) -> Step:
        live = self._pointer()
        target: Target | None = None
        try:
            target = self._resolve(store)
            if not target.whole:
                self._say(f"`{target.version}` is being registered; it is looked at again.")
                return "same"
            if self._refused != (target.version.number, target.digest):
                return self._publish(target, self._bring(store, target), live)
        except (BundleError, NotFoundError) as error:
            self._refuse(target, str(error), live)
        if live is not None:
            self._renew_evidence(store, live)
        return "refused"

    def _opened(self) -> Store:
        if self._store is None:
            self._store = self._open()
        self._store.require()
        return self._store

    def _pointer(self) -> Live | None:
        """The pointer as it lies there; None if there is none that can be used, which the next publication mends."""
        try:
            return Live.read(self.root, self.name)
        except BundleError as error:
            if pointer_path(self.root, self.name).exists():
                self._say(str(error))
            return None

    def _resolve(self, store: Store) -> Target:
        version = store.version(self.reference)
        benchmark = version.benchmark_of(self.reference)
        return Target(version, benchmark, version.digest(benchmark))

    def _bring(self, store: Store, target: Target) -> Bundle:
        """The target's bundle in its place, verified: as it was in the look before, as it lies there, or fetched."""
        folder = self.root / self.name / target.digest
        if self._bundle is not None and self._digest == target.digest and (folder / "manifest.json").is_file():
            return self._bundle
        with self._scratch() as scratch:
            bundle = self._kept(folder, target)
            if bundle is not None:
                self._check(bundle, target)
            else:
                bundle = store.fetch(target.version, target.benchmark, scratch / "bundle")
                self._check(bundle, target)
                sync_tree(bundle.folder)
                folder.parent.mkdir(exist_ok=True)
                if folder.exists():
                    os.replace(folder, scratch / "replaced")
                os.replace(bundle.folder, folder)
        self._bundle, self._digest = read_bundle(folder), target.digest
        return self._bundle

    def _check(self, bundle: Bundle, target: Target) -> None:
        """Refuse a bundle that is not the registered one, or that does not compute here what it should.

        Raises:
            BundleError: says what was found.
            StoppedError: nobody waits for it any more.
        """
        came = (bundle.name, bundle.identity, bundle.digest)
        if came != (target.version.name, target.version.identity, target.digest):
            raise BundleError(
                f"Expected the bundle of `{target.version}` with identity {target.version.identity[:12]} and digest {target.digest[:12]},"
                f" got `{bundle.name}` with {bundle.identity[:12]} and {bundle.digest[:12]}. The artifact store does not hold what was registered."
            )
        # a process of its own gives its memory back, and what makes ONNX Runtime crash or never end does not do so to the follower
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_open_bundle, args=(bundle.folder, theirs), daemon=True)
        child.start()
        theirs.close()
        deadline = time.monotonic() + self._check_s
        try:
            while not ours.poll(0.2):
                if not self._going():
                    raise StoppedError(f"`{target.version}` was being tried.")
                if time.monotonic() > deadline:
                    raise BundleError(
                        f"`{bundle.name}` had not given its golden answers after {self._check_s:g} s, and may never do so: it is not served."
                        " If the machine was only busy, start the follower again."
                    )
            fault = str(ours.recv())
        except EOFError:
            child.join()
            fault = f"The process that opened it died (status {child.exitcode})."
        finally:
            ours.close()
            # it has answered, or is not waited for
            child.kill()
            child.join()
        if fault:
            raise BundleError(fault)

    def _kept(self, folder: Path, target: Target) -> Bundle | None:
        """The target's bundle if it lies there whole, from an earlier look or an earlier follower."""
        if not folder.exists():
            return None
        try:
            bundle = read_bundle(folder)
        except BundleError as error:
            self._say(f"`{folder.name}` of `{self.name}` is fetched again: {error}")
            return None
        return bundle if bundle.digest == target.digest else None

    def _publish(self, target: Target, bundle: Bundle, live: Live | None) -> Step:
        version = target.version
        wanted = Live(
            folder=f"{self.name}/{target.digest}",
            digest=target.digest,
            reference=self.reference,
            version=version.number,
            identity=bundle.identity,
            evidence=self._evidence(version, bundle),
        )
        self._refused = None
        if wanted != live:
            if live is None or live.digest != wanted.digest:
                # `retire` keeps what was live last
                os.utime(bundle.folder)
            wanted.write(self.root)
            before = f", `{self.name}/{live.version}` before" if live and live.version != wanted.version else ""
            self._say(f"`{self.reference}` is `{version}` {bundle.identity[:12]}, evidence {wanted.evidence}{before}.")
        clear_refusal(self.root, self.name)
        retire(self.root, self.name, self._keep)
        return "same" if wanted == live else "published"

    def _refuse(self, target: Target | None, reason: str, live: Live | None) -> None:
        number, digest = (target.version.number, target.digest) if target else (0, "")
        self._refused = (number, digest) if target else None
        stays = f"`{self.name}/{live.version}` stays." if live else "nothing is served."
        self._say(f"`{self.reference}`{f' at `{target.version}`' if target else ''} is refused, {stays} {reason}")
        refusal = Refusal(digest, number, reason, datetime.now(UTC).isoformat(timespec="seconds"))
        try:
            known = Refusal.read(self.root, self.name)
        except BundleError:
            known = None
        if known is None or replace(known, time=refusal.time) != refusal:
            refusal.write(self.root, self.name)

    def _renew_evidence(self, store: Store, live: Live) -> None:
        """What is served goes on to say what is known of its evidence, also when its alias has gone elsewhere."""
        version = next((v for v in store.versions(self.name) if v.number == live.version), None)
        if version is None or version.identity != live.identity:
            return
        if self._bundle is None or self._digest != live.digest:
            self._bundle, self._digest = read_bundle(live.bundle(self.root)), live.digest
        evidence = self._evidence(version, self._bundle)
        if evidence != live.evidence:
            replace(live, evidence=evidence).write(self.root)
            self._say(f"`{version}` stays, evidence {evidence}.")

    def _evidence(self, version: Version, bundle: Bundle) -> str:
        noted = from_tags(version.tags, bundle.card.benchmark)
        here = self._judge(bundle) if self._judge else noted
        return str(noted if here.unchecked and not noted.unchecked else here)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix=f".{self.name}.", suffix=".part", dir=self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _say(self, line: str) -> None:
        """A line for people, not said again while it stays the same."""
        if line != self._said:
            self._say_line(line)
        self._said = line


def follow(followers: Sequence[Follower], poll_s: float = POLL_S, stop: Event | None = None, going: Callable[[], bool] = lambda: True) -> None:
    """Look again and again, until told to stop.

    Args:
        followers: entered.
        poll_s: seconds between looks; after looks that failed, twice as long each time, up to LONGEST_WAIT_S.
        stop: ends it, after the look it is in.
        going: asked at least once a second; False ends it too.

    Raises:
        ParamsError: `poll_s` is not above 0.
    """
    if not poll_s > 0:
        raise ParamsError(f"Expected `--poll` above 0 seconds, got {poll_s:g}.")
    stop = stop or Event()
    failures = 0
    while not stop.is_set() and going():
        failed = [follower for follower in followers if not _looked(follower)]
        failures = failures + 1 if failed else 0
        _wait(waiting_s(poll_s, failures), stop, going)


def waiting_s(poll_s: float, failures: int) -> float:
    """Seconds to the next look after so many failed ones in a row."""
    return float(min(poll_s * 2 ** min(failures, 30), max(poll_s, LONGEST_WAIT_S)))


def _looked(follower: Follower) -> bool:
    try:
        follower.step()
    except StoppedError:
        pass  # whoever follows asks for itself whether to go on
    except Exception as error:  # an error that nobody foresaw must not end the following of everything for good: it is said by its name
        follower.failed(error)
        return False
    return True


def _wait(seconds: float, stop: Event, going: Callable[[], bool]) -> None:
    while seconds > 0 and going() and not stop.wait(min(1.0, seconds)):
        seconds -= 1.0


def _end_with_parent() -> None:
    """A follower that is killed takes nobody along, and what it tried may never end by itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _open_bundle(folder: Path, answer: Connection) -> None:
    """Open a bundle as a server does; answers with what is wrong, "" if nothing is."""
    from serving.scoring import Scorer

    threading.Thread(target=_end_with_parent, daemon=True).start()
    # the endpoint's requests come first
    os.nice(10)
    try:
        scorer = Scorer.open(folder)
    except Exception as error:  # whatever a strange file makes a library raise is the answer
        answer.send(str(error) if isinstance(error, BlankslideError) else f"It cannot be opened ({type(error).__name__}: {error}).")
    else:
        answer.send("" if scorer.bundle.golden is not None else NO_GOLDEN)
