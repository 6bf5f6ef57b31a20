"""What predictions and pseudo-labels are worth by the gold answers that exist."""

from collections.abc import Callable

from semievol_ray import schema
from semievol_ray.core.answers import Number
from semievol_ray.runs import Step
from semievol_ray.stages.evaluate import accuracy_metrics, correctness, pseudo_label_metrics
from semievol_ray.tasks import Task

StepOf = Callable[..., Step]


def test_accuracy_counts_unreadable_rows_as_wrong_over_all_parts(step_of: StepOf, task: Task) -> None:
    rows = [("plant", "plant"), ("food", "plant"), (None, "food"), ("food", "food")]
    full = [{"answer": a, "gold": g, "correct": a == g} for a, g in rows]
    step = step_of("evaluate", schema.PREDICTIONS, full[:3], full[3:])
    found = accuracy_metrics(step, task)
    assert (found["accuracy"], found["num_rows"], found["num_unreadable"]) == (0.5, 4, 1)
    assert found["accuracy_low"] <= 0.5 <= found["accuracy_high"]
    assert [(c["label"], c["support"]) for c in found["classes"]] == [("food", 2), ("plant", 2)]
    assert correctness(step).tolist() == [True, False, False, True]


def test_accuracy_of_an_open_set_has_no_table_by_answer(step_of: StepOf) -> None:
    rows = [{"answer": str(i), "gold": "3", "correct": i == 3} for i in range(4)]
    found = accuracy_metrics(step_of("evaluate", schema.PREDICTIONS, rows), Task("sum", "Add.", Number(), max_tokens=8))
    assert (found["accuracy"], found["classes"]) == (0.25, [])


def test_pseudo_labels_are_judged_by_decision() -> None:
    found = pseudo_label_metrics({"accepted": (4, 2, 1), "uncertain": (1, 1, 1)})
    assert (found["precision_all"], found["precision_accepted"], found["coverage"]) == (2 / 3, 0.5, 0.8)


def test_pseudo_labels_without_any_gold_have_no_precision() -> None:
    found = pseudo_label_metrics({"accepted": (1, 0, 0)})
    assert (found["precision_all"], found["precision_accepted"], found["coverage"]) == (None, None, 1.0)
