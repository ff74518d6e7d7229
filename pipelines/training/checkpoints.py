"""Checkpoints: whole or absent, tensors only, and taken up by the very run they belong to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipelines.training.optimiser import AdamW
from registry.files import published


@dataclass(frozen=True)
class EpochRecord:
    """One line of history.csv.

    Attributes:
        epoch: 1, 2, ...
        loss: mean over the epoch's steps, in nats.
        learning_rate: at its last step.
    """

    epoch: int
    loss: float
    learning_rate: float


class Checkpoints:
    """The last finished epoch of one training run, as `checkpoint-<epoch>.safetensors`.

    Args:
        folder: where.
        identity: names everything the run depends on; a checkpoint of another run is removed, not taken up.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self.identity = folder, identity

    def save(self, modules: nn.ModuleDict, optimiser: AdamW, history: list[EpochRecord]) -> None:
        """Publish the state after the last epoch of `history`, then remove the one before."""
        from safetensors.torch import save_file

        tensors = {f"modules.{name}": value.contiguous() for name, value in modules.state_dict().items()}
        tensors |= {f"optimiser.{name}": value.contiguous() for name, value in optimiser.state().items()}
        facts = {"identity": self.identity, "history": [[r.epoch, r.loss, r.learning_rate] for r in history]}
        path = self._path(history[-1].epoch)
        with published(path) as temporary:
            # one entry: the order of several is not fixed, and the bytes must be
            save_file(tensors, temporary, metadata={"run": json.dumps(facts, sort_keys=True)})
        for other in self._found():
            if other != path:
                other.unlink()

    def restore(self, modules: nn.ModuleDict, optimiser: AdamW) -> list[EpochRecord]:
        """Load the last checkpoint into `modules` and `optimiser`; [] where there is none of this run."""
        for path in reversed(self._found()):
            stored = _read(path)
            if stored is None or stored.facts["identity"] != self.identity:
                path.unlink()
                continue
            modules.load_state_dict(_below("modules.", stored.tensors))
            optimiser.restore(_below("optimiser.", stored.tensors))
            return [EpochRecord(int(epoch), float(loss), float(rate)) for epoch, loss, rate in stored.facts["history"]]
        return []

    def _path(self, epoch: int) -> Path:
        return self.folder / f"checkpoint-{epoch:04d}.safetensors"

    def _found(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*.safetensors"))


@dataclass(frozen=True)
class _Stored:
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def _read(path: Path) -> _Stored | None:
    """A checkpoint's content, None if it is not one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            facts = json.loads((stored.metadata() or {})["run"])
            return _Stored({name: stored.get_tensor(name) for name in stored.keys()}, facts)  # noqa: SIM118  # not a dict
    except (SafetensorError, KeyError, ValueError):
        return None


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
