"""The runs that chaos disturbs: their data files and configurations, short ones of the scripted engine or real ones.

Invariant: a configuration and its scripted twin make parts of the same names and, where nothing is drawn, rows.
"""

import csv
import json
from pathlib import Path
from typing import Any, Literal

import yaml

from benchmarks.chaos_cluster import NUM_NODES

Engine = Literal["scripted", "vllm"]
NUM_ROWS = {"labeled": 24, "unlabeled": 240, "test": 32}
NUM_REAL_ROWS = {"labeled": 24, "unlabeled": 40, "test": 16}
PART_ROWS = 8
SECONDS_PER_REQUEST = 0.1
WORDS = ("person", "animal", "plant", "food")
WORDNET = Path(__file__).parent / "data" / "wordnet"
REAL_MODEL = "smollm2-135m-instruct"


def write_configs(folder: Path, engine: Engine) -> list[Path]:
    """The configurations of an engine's runs, data beside them: one round and merged adapters, two and dynamic ones.

    A real model has the first alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if engine == "vllm":
        return [_written(folder / "real.yaml", real())]
    for name, num in NUM_ROWS.items():
        _write_questions(folder / f"{name}.csv", num)
    one, two = scripted(folder, 1, "merged"), scripted(folder, 2, "dynamic")
    return [_written(folder / "one.yaml", one), _written(folder / "two.yaml", two)]


def scripted(folder: Path, rounds: int, serving: str) -> dict[str, Any]:
    """A run of questions that say their answer, as a person would write it."""
    return {
        "name": "chaos",
        "task": "wordnet",
        "data": {"near_duplicates": {"action": "off"}, **{name: str(folder / f"{name}.csv") for name in NUM_ROWS}},
        "model": "scripted",
        "method": {
            "embedder": "hash",
            "collaborators": [{"demonstrations": 1}, {"adapter": "warm"}],
            "rounds": rounds,
        },
        "numerics": {"engine": "scripted", "adapter_serving": serving},
        "speed": {
            "part_rows": PART_ROWS,
            "num_replicas": NUM_NODES,
            "num_cpus_per_replica": 1,
            "engine_kwargs": {"max_num_seqs": 4, "seconds_per_request": SECONDS_PER_REQUEST},
        },
        "report_to": [],
    }


def real() -> dict[str, Any]:
    """A run of a real small model on definitions from WordNet."""
    sources = {name: {"path": str(WORDNET / f"{name}.csv"), "sample": num} for name, num in NUM_REAL_ROWS.items()}
    return {
        "name": "chaos-real",
        "task": "wordnet",
        "data": {"near_duplicates": {"action": "off"}, **sources},
        "model": REAL_MODEL,
        "method": {
            "embedder": "hash",
            "collaborators": [
                {"adapter": "warm", "demonstrations": 0},
                {"adapter": "none", "demonstrations": 2},
            ],
        },
        "train": {"learning_rate": 2.0e-3, "num_train_epochs": 2},
        "numerics": {"engine": "vllm", "dtype": "float32", "max_model_len": 512},
        "speed": {"part_rows": PART_ROWS, "num_replicas": 1, "num_cpus_per_replica": 1},
        "guard": {"min_accepted": 1, "min_answers": 1},
        "report_to": [],
    }


def scripted_twin(config: Path) -> Path:
    """The same run with the scripted engine, without waiting: which parts and rows there will be."""
    tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    tree["numerics"] = {**tree["numerics"], "engine": "scripted", "dtype": "auto"}
    tree["speed"].get("engine_kwargs", {}).pop("seconds_per_request", None)
    return _written(config.with_name(f"twin-{config.name}"), tree)


def _written(path: Path, tree: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(json.loads(json.dumps(tree)), sort_keys=False), encoding="utf-8")
    return path


def _write_questions(path: Path, num: int) -> None:
    rows = [(f"{path.stem} thing {i} [{WORDS[i % len(WORDS)]}]", WORDS[i % len(WORDS)]) for i in range(num)]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("question", "answer"), *rows])
