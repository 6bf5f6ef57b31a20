"""What a run's context resolves when a step begins."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semievol_ray.placement import Node, Resources
from semievol_ray.stages.context import Context


@pytest.mark.parametrize(
    ("settings", "serving"),
    [
        ({"r": 16}, "dynamic"),
        ({"r": 16, "modules_to_save": None, "use_dora": False}, "dynamic"),
        ({"r": 16, "use_dora": True}, "merged"),
        ({"r": 16, "modules_to_save": ["lm_head"]}, "merged"),
        ({"r": 1024}, "merged"),
    ],
)
def test_adapter_that_cannot_be_served_dynamically_is_merged_on_a_gpu(
    settings: dict[str, Any],
    serving: str,
    context_of: Callable[..., Context],
    tmp_path: Path,
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    context = context_of(method={"embedder": "hash", "warm_adapter": str(tmp_path)})
    context.resources = Resources((Node(8, 1),))
    assert context.serving_numerics()["adapter_serving"] == serving
