"""Where a chat template may lie in a model folder."""

import json
from pathlib import Path

import pytest

from semievol_ray.engines.templates import has_chat_template


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"})}, True),
        ({"tokenizer_config.json": "{}", "chat_template.jinja": "{{ messages }}"}, True),
        ({"tokenizer_config.json": "{}", "chat_template.json": "{}"}, True),
        ({"tokenizer_config.json": json.dumps({"eos_token": "</s>"})}, False),
        ({"tokenizer.json": "{}"}, False),
        ({}, None),
        ({"tokenizer_config.json": "{"}, None),
    ],
)
def test_template_is_looked_for_where_transformers_does(
    files: dict[str, str], found: bool | None, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert has_chat_template(str(tmp_path)) is found
