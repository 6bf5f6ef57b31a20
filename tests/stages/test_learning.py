"""Fine-tunings as steps: what they depend on; and adapters made elsewhere, which are checked before they are used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semievol_ray import storage
from semievol_ray.engines.adapters import adapter_digest
from semievol_ray.engines.scripted import finetune
from semievol_ray.errors import AdapterError, ConfigError, DriftError
from semievol_ray.runs import Run, Step
from semievol_ray.stages import learning
from semievol_ray.stages.context import Context
from semievol_ray.stages.learning import examples_of, fine_tuned, imported, refuse_changed
from semievol_ray.stages.train import Learned

ContextOf = Callable[..., Context]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """An adapter that another program made."""
    finetune([{"id": "x", "answer": "plant"}], str(tmp_path / "elsewhere"))
    return tmp_path / "elsewhere"


def test_imported_adapter_is_copied_under_its_own_digest(context_of: ContextOf, elsewhere: Path) -> None:
    context = context_of()
    adapter = imported(context, "rounds/0000", str(elsewhere))
    assert adapter.path == context.run.path("rounds/0000/train/adapter")
    assert adapter_digest(adapter.path) == adapter_digest(str(elsewhere))
    record = Step(context.run.path("rounds/0000/train"), "rounds/0000/train", ()).record()
    assert record["inputs"]["adapter"] == adapter_digest(str(elsewhere))
    assert record["committed"]["metrics"]["num_tensors"] == 2
    shutil.rmtree(adapter.path)
    assert imported(context, "rounds/0000", str(elsewhere)) == adapter  # committed once


def test_another_adapter_in_the_same_place_is_drift(context_of: ContextOf, elsewhere: Path) -> None:
    context = context_of()
    imported(context, "rounds/0000", str(elsewhere))
    finetune([{"id": "x", "answer": "food"}], str(elsewhere))
    with pytest.raises(DriftError, match=r"inputs\.adapter"):
        imported(context, "rounds/0000", str(elsewhere))


@pytest.mark.parametrize("spoilt", ["adapter_config.json", "adapter_model.safetensors", "."])
def test_folder_that_is_no_adapter_is_refused_naming_the_key(
    spoilt: str, context_of: ContextOf, elsewhere: Path
) -> None:
    shutil.rmtree(elsewhere) if spoilt == "." else (elsewhere / spoilt).unlink()
    with pytest.raises(ConfigError, match=r"method\.warm_adapter: .*elsewhere.*adapter_config\.json and"):
        imported(context_of(), "rounds/0000", str(elsewhere))


def test_adapter_of_another_rank_than_it_says_is_refused(context_of: ContextOf, elsewhere: Path) -> None:
    config = json.loads((elsewhere / "adapter_config.json").read_text())
    (elsewhere / "adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    with pytest.raises(ConfigError, match="is not of rank 8"):
        imported(context_of(), "rounds/0000", str(elsewhere))


@pytest.mark.usefixtures("mapped_here")
def test_fine_tuning_of_another_base_is_a_step_and_an_adapter_of_its_own(context_of: ContextOf, labeled: Step) -> None:
    context = context_of()
    examples = examples_of(context, "rounds/0000", Learned(labeled))
    student = fine_tuned(context, "rounds/0000", examples)
    other = fine_tuned(context, "bases/org-other", examples, model="org/other")
    assert other.path == context.run.path("bases/org-other/train/adapter")
    assert (student.name, other.name) == (f"small-0000-{student.digest[:8]}", f"small-org-other-{other.digest[:8]}")
    inputs = [
        Step(context.run.path(name), name, ()).record()["inputs"]
        for name in ("rounds/0000/train", other.path[len(context.run.root) + 1 : -len("/adapter")])
    ]
    assert inputs[0]["examples"] == inputs[1]["examples"]
    assert inputs[0]["model"] != inputs[1]["model"] == context.model("org/other").digest


def test_adapter_that_was_written_over_after_its_commit_is_refused_before_an_engine_opens_it(
    context_of: ContextOf, elsewhere: Path
) -> None:
    adapter = imported(context_of(), "rounds/0000", str(elsewhere))
    refuse_changed(adapter)
    finetune([{"id": "x", "answer": "food"}], adapter.path)
    with pytest.raises(AdapterError, match=r"train/adapter is not the adapter that its step committed"):
        refuse_changed(adapter)


@pytest.mark.usefixtures("mapped_here")
def test_checkpoints_stay_until_the_fine_tuning_is_committed_and_no_longer(
    context_of: ContextOf, labeled: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of()
    examples, kept = examples_of(context, "rounds/0000", Learned(labeled)), list[str]()
    checkpoint = f"{context.run.path('rounds/0000/train')}/checkpoints/checkpoint-2/trainer_state.json"
    commit = type(context.run).commit

    def committing(run: Run, step: Step, *others: Any, **named: Any) -> None:
        kept.extend(path for path in [checkpoint] if storage.exists(path))
        commit(run, step, *others, **named)

    monkeypatch.setattr(type(context.run), "commit", committing)
    storage.write(checkpoint, b"{}")
    adapter = fine_tuned(context, "rounds/0000", examples)
    assert kept == [checkpoint]
    assert not storage.exists(checkpoint)
    storage.write(checkpoint, b"{}")  # left by a driver that was killed after its commit
    assert fine_tuned(context, "rounds/0000", examples) == adapter
    assert not storage.exists(checkpoint)


@pytest.mark.usefixtures("mapped_here")
def test_layers_that_learned_nothing_are_told(
    context_of: ContextOf, labeled: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, told = context_of(), list[str]()
    monkeypatch.setattr(type(context.progress), "say", lambda _, text: told.append(text))
    monkeypatch.setattr(learning, "train_scripted", lambda _: ({"num_unlearned": 5.0}, "digest"))
    monkeypatch.setattr(learning, "unlearned", lambda _: ["a", "b", "c", "d", "e"])
    fine_tuned(context, "rounds/0000", examples_of(context, "rounds/0000", Learned(labeled)))
    assert "warning: rounds/0000/train: nothing was learned in a, b, c and 2 others" in told
