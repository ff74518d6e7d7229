"""Which commit and which dvc.lock a result belongs to, so that `blankslide reproduce` can go back there.

Provenance is read when the registry is filled, not when a stage runs: a stage runs before its `dvc.lock` can be
committed, and DVC does not run it again afterwards. What ties the two together is that `dvc.lock` names the hash of the
receipts.
"""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from registry.files import sha256_of_bytes

#: DVC rewrites these itself: `dvc.lock` is stored with the version, `.gitignore` lists outputs
WRITTEN_BY_DVC = (":(exclude,glob)**/dvc.lock", ":(exclude,glob)**/.gitignore")


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from.

    Attributes:
        commit: full git hash; "" where `dvc.yaml` is not in a git repository.
        dirty: tracked files differ from the commit, those that DVC writes itself aside.
        prefix: the workspace's folder relative to the repository's root ("" for the root).
        dvc_lock: the bytes of `dvc.lock`; b"" where there is none.
    """

    commit: str = ""
    dirty: bool = False
    prefix: str = ""
    dvc_lock: bytes = b""

    def covers(self, receipts: Path) -> bool:
        """Whether `dvc.lock` names this very file of receipts: otherwise it describes another state of the outputs."""
        if not self.dvc_lock or not receipts.is_file():
            return False
        # DVC identifies a file by the MD5 of its bytes
        digest = hashlib.md5(receipts.read_bytes(), usedforsecurity=False).hexdigest()
        outputs = [out for stage in locked_stages(self.dvc_lock).values() for out in stage.get("outs", [])]
        return any(Path(out["path"]).name == receipts.name and out.get("md5") == digest for out in outputs)

    def obstacle(self) -> str:
        """Why a result with this provenance cannot be reproduced, in a sentence; "" if it can."""
        if not self.commit:
            return "it was registered from a folder whose `dvc.yaml` is not in a git repository"
        if self.dirty:
            return f"it was registered from a tree with changes that commit {self.commit[:12]} does not hold"
        if not self.dvc_lock:
            return "it was registered without a `dvc.lock` that names its receipts"
        return ""

    def as_tags(self) -> dict[str, str]:
        """Tags of a run."""
        return {
            "git.commit": self.commit,
            "git.dirty": "true" if self.dirty else "false",
            "git.prefix": self.prefix,
            "dvc.lock": sha256_of_bytes(self.dvc_lock) if self.dvc_lock else "",
        }


def read_provenance(workspace: Path) -> Provenance:
    """Commit, cleanness and `dvc.lock` of a workspace as it is now."""
    lock = workspace / "dvc.lock"
    found = lock.read_bytes() if lock.is_file() else b""
    # a workspace below somebody's repository is not of that repository unless its flow is tracked there
    commit = _git(workspace, "rev-parse", "HEAD") if _git(workspace, "ls-files", "dvc.yaml") else ""
    if not commit:
        return Provenance(dvc_lock=found)
    changed = _git(workspace, "status", "--porcelain", "--untracked-files=no", "--", ":(top)", *WRITTEN_BY_DVC)
    return Provenance(commit, bool(changed), _git(workspace, "rev-parse", "--show-prefix").rstrip("/"), found)


def locked_stages(dvc_lock: bytes) -> dict[str, dict[str, Any]]:
    """The stages of a `dvc.lock` by name."""
    stages: dict[str, dict[str, Any]] = (yaml.safe_load(dvc_lock) or {}).get("stages", {})
    return stages


def _git(folder: Path, *arguments: str) -> str:
    """Output of a git command, "" where it fails or git is not there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
