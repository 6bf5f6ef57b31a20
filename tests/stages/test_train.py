"""EXAMPLES: what a fine-tuning learns from, each row once and with whose answer it is."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kill_training_model import spec_in
from semievol_ray import schema, storage
from semievol_ray.config import SpeedConfig
from semievol_ray.engines import checkpoints
from semievol_ray.engines.adapters import adapter_digest
from semievol_ray.engines.finetune import identity_of, read_examples
from semievol_ray.engines.scripted import finetune
from semievol_ray.errors import ConfigError, RunInUseError, SemievolError
from semievol_ray.lease import Lease
from semievol_ray.runs import Step
from semievol_ray.stages import train
from semievol_ray.stages.train import Accepted, Learned, write_examples

StepOf = Callable[..., Step]
pytestmark = pytest.mark.usefixtures("mapped_here")


@pytest.fixture
def accepted(step_of: StepOf, pool: Step) -> tuple[Accepted, Accepted]:
    """Round 1 accepted r0 and r3 as food, round 2, of what was left, r4 as plant."""
    first = {"r0": 0.25, "r3": 0.5}
    ids = [pool.read_part(part, schema.UNLABELED).column("id").to_pylist() for part in pool.parts]
    rows = [[_selected(i, "food", first.get(i)) for i in part] for part in ids]
    left = step_of("rounds/0002/pool", schema.UNLABELED, [{"id": "r1"}, {"id": "r2"}], [{"id": "r4"}])
    later = [[_selected("r1", "plant", None), _selected("r2", "plant", None)], [_selected("r4", "plant", 0.125)]]
    return (
        Accepted(pool, step_of("rounds/0001/select", schema.SELECTION, *rows), 1),
        Accepted(left, step_of("rounds/0002/select", schema.SELECTION, *later), 2),
    )


def _selected(row_id: str, label: str, confidence: float | None) -> dict[str, Any]:
    decision = "uncertain" if confidence is None else "accepted"
    return {"id": row_id, "label": label, "confidence": confidence, "decision": decision}


def _written(begun: StepOf, learned: Learned, weight: float = 1.0) -> list[dict[str, Any]]:
    step = begun("examples", learned.parts())
    write_examples(step, learned, weight)
    return [row for part in step.parts for row in step.read_part(part, schema.EXAMPLES).to_pylist()]


def test_examples_are_the_labels_and_every_rounds_accepted_rows_with_round_and_confidence(
    labeled: Step, accepted: tuple[Accepted, Accepted], begun: StepOf
) -> None:
    rows = _written(begun, Learned(labeled, (), accepted), weight=0.5)
    gold = [row for row in rows if row["source"] == "gold"]
    assert [(r["id"], r["answer"], r["weight"], r["round"], r["confidence"]) for r in gold] == [
        ("l0", "plant", 1, 0, None), ("l1", "animal", 1, 0, None), ("l2", "food", 1, 0, None),
        ("l3", "plant", 1, 0, None),
    ]  # fmt: skip
    pseudo = [row for row in rows if row["source"] == "pseudo"]
    assert [(r["id"], r["answer"], r["weight"], r["round"], r["confidence"]) for r in pseudo] == [
        ("r0", "food", 0.5, 1, 0.25), ("r3", "food", 0.5, 1, 0.5), ("r4", "plant", 0.5, 2, 0.125),
    ]  # fmt: skip
    assert {row["question"] for row in pseudo if row["round"] == 1} == {"thing number 0", "thing number 3"}


def test_accepted_row_that_a_person_labeled_meanwhile_counts_as_theirs(
    labeled: Step, accepted: tuple[Accepted, Accepted], step_of: StepOf, begun: StepOf
) -> None:
    people = step_of("data/annotations-0000", schema.LABELED, [{"id": "r3", "answer": "animal"}])
    rows = _written(begun, Learned(labeled, (people,), accepted))
    assert len({row["id"] for row in rows}) == len(rows)
    assert [(r["answer"], r["source"], r["weight"]) for r in rows if r["id"] == "r3"] == [("animal", "gold", 1)]


def test_fine_tuning_without_a_step_is_told_of_again_and_again_until_one_comes(tmp_path: Path) -> None:
    path, told, lines = str(tmp_path / "curve.jsonl"), list[float](), list[dict[str, Any]]()
    with train._followed(path, lines.append, told.append, 0.4):
        while len(told) < 2:
            time.sleep(0.05)
        storage.append_line(path, '{"step": 1}')
        while not lines:
            time.sleep(0.05)

    assert told[0] >= 0.4
    assert told[1] >= 0.8
    assert lines == [{"step": 1}]


def test_step_that_was_learned_again_after_a_workers_end_is_told_once() -> None:
    told = list[int]()
    tell = train._once_a_step(lambda line: told.append(line["step"]))
    for step in (1, 2, 3, 2, 3, 4):
        tell({"step": step})
    assert told == [1, 2, 3, 4]


def test_checkpoint_of_another_configuration_is_refused_before_a_worker_starts(tmp_path: Path) -> None:
    spec = spec_in(tmp_path, tmp_path / "no-model", workers=1, zero_stage=2)
    path = f"{spec.checkpoints}/checkpoint-6/{checkpoints.STATE_FILE}"
    other = identity_of(replace(spec, seed=spec.seed + 1, train=spec.train.model_copy(update={"lora_r": 8})))
    checkpoints.commit(spec.checkpoints, 6, {"identity": other, "files": {}})
    with pytest.raises(
        ConfigError, match=r"checkpoint-6 is of another fine-tuning \(train\.lora_r: 8 there, 4 now; seed"
    ):
        train.train(spec, 1, 1.0, 0.0, lambda _: None, lambda _: None)
    assert storage.exists(path)


def test_checkpoints_of_a_run_that_was_taken_over_are_left_to_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_in(tmp_path, tmp_path / "no-model", workers=1, zero_stage=2)
    lease = Lease.take(f"{tmp_path}/run")
    spec = replace(spec, claim=lease.claim)

    def fitted(*_: object) -> dict[str, float]:
        finetune(read_examples(spec.examples), spec.out)
        checkpoints.commit(spec.checkpoints, 6, {"identity": identity_of(spec), "files": {}})
        storage.write(f"{tmp_path}/run/lease/000002.json", b"{}")
        return {}

    monkeypatch.setattr(train, "fit", fitted)
    with pytest.raises(RunInUseError, match="taken over"):
        train.train(spec, 1, 1.0, 0.0, lambda _: None, lambda _: None)
    assert checkpoints.committed_steps(spec.checkpoints) == [6]
    checkpoints.remove(spec.checkpoints, 6)
    storage.append_line(spec.curve, "of the other driver's fine-tuning, which has no checkpoint yet")
    with pytest.raises(RunInUseError, match="taken over"):
        train.train(spec, 1, 1.0, 0.0, lambda _: None, lambda _: None)
    assert storage.lines(spec.curve)
    lease.close()


@pytest.mark.slow
@pytest.mark.usefixtures("small_ray")
def test_fine_tuning_workers_have_the_environment_of_training(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import os\nopen(os.environ['SEEN'], 'w').close()\n", encoding="utf-8")
    env = {"env_vars": {"PYTHONPATH": f"{own}:{os.environ.get('PYTHONPATH', '')}", "SEEN": str(own / "seen")}}
    speed = SpeedConfig.model_validate({"runtime_env": {"train": env}})
    spec = replace(spec_in(tmp_path / "run", tmp_path / "no-model", workers=1, zero_stage=2), speed=speed)

    with pytest.raises(SemievolError, match="no-model"):
        train.train(spec, 1, 1.0, 0.0, lambda _: None, lambda _: None)

    assert (own / "seen").exists()


def test_checkpoints_outlive_the_check_of_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_in(tmp_path, tmp_path / "no-model", workers=1, zero_stage=2)
    checkpoints.commit(spec.checkpoints, 6, {"identity": identity_of(spec), "files": {}})

    def fit(*_: Any) -> dict[str, float]:
        finetune([{"id": "x", "answer": "plant"}], spec.out)
        return {"train_loss": 0.5}

    monkeypatch.setattr(train, "fit", fit)
    metrics, digest = train.train(spec, 1, 1.0, 0.0, lambda _: None, lambda _: None)
    assert (metrics["train_loss"], digest) == (0.5, adapter_digest(spec.out))
    assert checkpoints.committed_steps(spec.checkpoints) == [6]
