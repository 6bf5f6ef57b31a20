"""What is told of a fine-tuning's pace."""

from semievol_ray.stages.pacelines import forecast, paced

LINE = {
    "step": 2, "num_steps": 102, "loss": 0.5, "seconds": 3.0, "tokens_per_second": 1234.5, "memory_bytes": 2.5e9,
}  # fmt: skip


def test_step_is_told_with_what_is_known_of_it() -> None:
    assert paced({"step": 1, "loss": 0.25}) == "loss 0.250"
    assert paced(LINE) == "loss 0.500, 1,234 tokens/s"
    assert paced({**LINE, "mfu": 0.4}) == "loss 0.500, 1,234 tokens/s, MFU 40%"


def test_second_step_alone_forecasts_the_others() -> None:
    assert forecast(LINE) == (
        "a step takes about 3.0 s, the 100 left 5m00s; the first worker held 2.5 GB at most so far"
    )
    assert forecast({**LINE, "step": 3}) is None
    assert forecast({**LINE, "num_steps": 2}) is None
    assert forecast({"step": 2, "num_steps": 9, "loss": 0.5}) is None
