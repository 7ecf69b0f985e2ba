"""Which trackers a run has, and what each wants to know."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from sightline.config.base import Config
from sightline.config.override import expand_path

TrackerName = Literal["tensorboard", "csv", "mlflow", "wandb"]


class MlflowConfig(Config):
    """MLflow: parameters and figures in its embedded SQLite store, or where MLFLOW_TRACKING_URI leads."""

    folder: Annotated[Path, BeforeValidator(expand_path)] | None = None
    """Folder of the store, mlflow.db; by default the one in which runs/ lies, or the run's folder if it is in no runs/.
    MLFLOW_TRACKING_URI wins over it."""
    experiment: str | None = Field(None, min_length=1, max_length=200)
    """Name of the experiment; without one MLFLOW_EXPERIMENT_NAME, or the recipe's name."""


class WandbConfig(Config):
    """Weights & Biases: a folder wandb/ in the run's own, or, where you ask for it, your account."""

    mode: Literal["offline", "online"] | None = None
    """offline never uses the network; without a value WANDB_MODE decides, and without that it is offline."""
    project: str | None = Field(None, max_length=128, pattern=r"^[^/\\#?%:]+$")
    """Name of the project; without one WANDB_PROJECT, or sightline."""
