"""Real models for the slow tests; they may not be skipped: a model that cannot be had fails the test."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from semievol_ray.engines.models import resolve_model

WORDNET = Path(__file__).parent.parent.parent / "benchmarks" / "data" / "wordnet"
NUM_LABELS, NUM_POOL, NUM_TEST = 24, 40, 200


@pytest.fixture(scope="session")
def smollm2() -> str:
    """The folder of SmolLM2-135M-Instruct, fetched and converted at first use."""
    return resolve_model("smollm2-135m-instruct").path


def config(folder: Path) -> Path:
    path = folder / "round.yaml"
    described = {
        "name": "round",
        "task": "wordnet",
        "data": {
            "labeled": {"path": str(WORDNET / "labeled.csv"), "sample": NUM_LABELS},
            "unlabeled": {"path": str(WORDNET / "unlabeled.csv"), "sample": NUM_POOL},
            "test": {"path": str(WORDNET / "test.csv"), "sample": NUM_TEST},
        },
        "model": "smollm2-135m-instruct",
        "method": {
            "collaborators": [
                {"adapter": "warm", "demonstrations": 0},
                {"adapter": "warm", "demonstrations": 3},
                {"adapter": "none", "demonstrations": 3},
            ]
        },
        "train": {"learning_rate": 2e-3, "num_train_epochs": 2},
        "numerics": {"max_model_len": 512},
    }
    path.write_text(yaml.safe_dump(described), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run directory of a finished round, and what the command printed."""
    folder = tmp_path_factory.mktemp("real")
    command = [sys.executable, "-m", "semievol_ray.cli", "run", str(config(folder)), "--run", str(folder / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout
