"""Where runs of the flow belong when nobody names an experiment: MLflow asks this in the checkout's folder.

`mlflow run .` makes its run before a line of ours is executed, so only a plugin of MLflow can give it a home (entry point
`mlflow.default_experiment_provider` in pyproject.toml). An experiment that is named, by `--experiment-name` or
MLFLOW_EXPERIMENT_NAME, goes first.
"""

from __future__ import annotations

from pathlib import Path

PROJECT = "name: blankslide"


class FlowExperiment:
    """MLflow's `DefaultExperimentProvider` for a folder that holds this project's MLproject."""

    def in_context(self) -> bool:
        """Whether the current folder is a checkout of this project."""
        project = Path("MLproject")
        return project.is_file() and PROJECT in project.read_text(encoding="utf-8", errors="replace").splitlines()

    def get_experiment_id(self) -> str:
        """Id of the experiment `Flow` in the process's default store, made if it is not there."""
        from registry.store import flow_experiment

        return flow_experiment()
