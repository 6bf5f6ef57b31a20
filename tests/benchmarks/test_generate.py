"""What generation is held against is reckoned rightly: the roofline, the ratios, and whether arms agree."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.found import Found
from benchmarks.generate_model import LLAMA_8B, Shape, shape_of, write_adapter
from benchmarks.generate_order import by_text
from benchmarks.generate_ours import by_session, up_seconds
from benchmarks.generate_plan import Answers, Pass, Plan
from benchmarks.generate_results import Measure, add, apart_by
from benchmarks.generate_roofline import Device, Load, bound
from benchmarks.scale_watch import Watched, peak_sum_mib
from semievol_ray.core.prompts import Demonstration, question_messages
from semievol_ray.engines.adapters import verify_adapter

LABELS = {"name": "kinds", "kind": "labels", "labels": ["plant", "food"], "instruction": "Say.", "max_tokens": 8}


@pytest.fixture
def plan() -> Plan:
    """Four rows, two passes; the right answers are plant, food, plant, food."""
    tree = {"name": "g", "task": LABELS, "data": {"labeled": "l.csv", "unlabeled": "u.csv"}, "model": "m"}
    rows = tuple({"id": f"r{i}", "question": f"q{i}", "options": None} for i in range(4))
    passes = tuple(Pass(name, False, 1.0, 8, (), ()) for name in ("one", "two"))
    gold = ("plant", "food", "plant", "food")
    return Plan(tree, "m", None, None, rows, gold, passes, {}, 0, 8, False, 2, "2024-07-26")


def answers(one: list[str], two: list[str]) -> Answers:
    return Answers({"one": [f"Answer: {w}" for w in one], "two": [f"Answer: {w}" for w in two]})


def measure(seconds: float, running: float | None, **more: Any) -> Measure:
    right = ["plant", "food", "plant", "food"]
    return Measure(replace(answers(right, right), **more), 4, seconds, running, 2 * seconds, 100.0)


def test_shape_of_llama_8b_has_its_parameters_and_cache(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    shape = shape_of(str(tmp_path))
    assert shape.multiplied() + shape.hidden * shape.vocabulary == pytest.approx(8.03e9, rel=1e-3)
    assert shape.kv_values() * 2 == 131072  # bytes a token in bfloat16


def test_generation_of_one_sequence_is_bound_by_reading_the_weights_and_of_many_by_multiplying() -> None:
    shape = Shape(64, 128, 2, 4, 4, 16, 1000, False)
    device, asked = Device(bytes_per_second=1e9, flops_per_second=1e10), Load(10, 0, 5)
    alone, many = (bound(shape, asked, device, batch, 2) for batch in (1, 1000))
    assert (alone.generation_limit, many.generation_limit) == ("bandwidth", "matmul")
    assert alone.generation_seconds == pytest.approx(5 * 2 * shape.multiplied() / 1e9)
    assert many.generation_seconds == pytest.approx(5 * 2 * shape.multiplied() / 1e10)
    assert alone.prompt_seconds == pytest.approx(10 * 2 * shape.multiplied() / 1e10)
    assert alone.seconds == alone.prompt_seconds + alone.generation_seconds


def test_long_contexts_cost_a_batch_bandwidth_that_weights_share() -> None:
    shape = Shape(64, 128, 2, 4, 1, 16, 1000, False)
    device = Device(1e9, 1e15)
    short, long = (bound(shape, Load(0, context, 1), device, 100, 2).seconds for context in (0, 1000))
    assert long - short == pytest.approx(2 * shape.kv_values() * 1000 / 1e9)


def test_ratios_count_starts_and_raw_vllm_is_held_while_engines_are_up(plan: Plan) -> None:
    found = Found()
    add(found, "W2", plan, {"ours": measure(20, 8.0), "raw": measure(16, 8.0), "passes": measure(40, 8.0)})
    assert found.metrics["W2 ours / raw"] == pytest.approx(0.8)
    assert found.metrics["W2 ours / passes"] == pytest.approx(2.0)
    assert found.targets["W2 ours / raw, engines up"] == {"target": 0.97, "value": pytest.approx(1.0), "met": True}
    assert found.targets["W2 ours / passes"]["met"]
    assert "W2 ours / raw" not in found.targets


def test_target_that_is_missed_by_a_hair_is_not_met(plan: Plan) -> None:
    found = Found()
    add(found, "W1", plan, {"ours": measure(10, None), "passes": measure(19.999, None)})
    assert not found.targets["W1 ours / passes"]["met"]
    assert "W1 ours / passes, engines up" not in found.metrics


def test_arm_of_fewer_rows_is_compared_by_its_rate_and_on_the_rows_it_has(plan: Plan) -> None:
    found = Found()
    fewer = replace(measure(10, None), num_rows=2, answers=answers(["plant", "food"], ["plant", "food"]))
    add(found, "W1", plan, {"ours": measure(10, None), "transformers": fewer})
    assert found.metrics["W1 ours / transformers"] == pytest.approx(2.0)
    assert found.targets["W1 ours and transformers: right drafts apart, standard errors"]["met"]


def test_arms_whose_drafts_are_right_on_different_rows_alone_agree_and_a_broken_arm_does_not(plan: Plan) -> None:
    a = answers(["plant", "plant", "plant", "plant"], ["plant", "food", "plant", "food"])
    b = answers(["food", "food", "food", "food"], ["plant", "food", "plant", "food"])
    assert apart_by(plan, a, b) == pytest.approx(0.0)
    wrong = answers(["food", "plant", "food", "plant"], ["food", "plant", "food", "plant"])
    assert abs(apart_by(plan, a, wrong)) > 3


def test_answers_of_a_model_without_skill_are_compared_by_whether_they_can_be_read(plan: Plan) -> None:
    noise = Answers({"one": ["###"] * 4, "two": ["###"] * 4})
    half = Answers({"one": ["Answer: food", "Answer: plant"] * 2, "two": ["###"] * 4})
    assert apart_by(plan, noise, noise) == 0.0
    assert apart_by(plan, half, noise) == float("inf")


def test_engines_are_up_from_the_begin_of_their_first_part_to_the_end_of_the_last() -> None:
    def part(second: int, seconds: float) -> dict[str, Any]:
        return {"kind": "part_committed", "time": f"2026-01-01T00:00:{second:02d}+00:00", "seconds": seconds}

    started = {"kind": "session_started", "time": "2026-01-01T00:00:00+00:00"}
    sessions = by_session([started, part(20, 8.0), part(30, 15.0), started, part(50, 5.0)])
    assert [up_seconds(of) for of in sessions] == [18.0, 5.0]


def test_peak_of_processes_together_is_that_of_one_moment() -> None:
    mib = 2**20
    early = Watched("driver", [(0.0, 0.0, 100 * mib), (1.0, 0.0, 300 * mib)])
    late = Watched("worker", [(5.0, 0.0, 250 * mib)])
    both = Watched("ray", [(0.9, 0.0, 50 * mib), (5.1, 0.0, 50 * mib)])
    assert peak_sum_mib([early, late, both]) == 350


def test_adapter_of_noise_is_one_that_loads(tmp_path: Path) -> None:
    config = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 1, "vocab_size": 10}))
    found = verify_adapter(write_adapter(str(tmp_path), tmp_path / "adapter"))
    assert found["num_tensors"] == 2 * 7 * 2
    assert found["num_parameters"] == 2 * 16 * np.sum([16, 12, 12, 16, 20, 20, 20])


def test_order_by_text_is_one_for_all_rows_that_show_the_same_and_moves_nothing_else() -> None:
    shown = [Demonstration(word, f"Answer: {word}") for word in ("moss", "ant", "bread")]
    one = by_text(question_messages("Say.", "this?", shown))
    other = by_text(question_messages("Say.", "that?", shown[::-1]))
    assert one[:-1] == other[:-1]
    assert [m.content for m in one] == [
        "Say.", "ant", "Answer: ant", "bread", "Answer: bread", "moss", "Answer: moss", "this?",
    ]  # fmt: skip
    assert by_text(question_messages("", "this?", ())) == question_messages("", "this?", ())
