"""Whether a model folder brings a chat template, from its files alone.

Invariant: no tokenizer is loaded; a template in any place where transformers looks for one counts.
"""

import json
from pathlib import Path

_FILES = ("chat_template.jinja", "chat_template.json")


def has_chat_template(folder: str) -> bool | None:
    """Whether the folder's tokenizer has a chat template; None where the folder holds no tokenizer to ask."""
    path = Path(folder)
    if any((path / name).is_file() for name in _FILES) or (path / "additional_chat_templates").is_dir():
        return True
    try:
        settings = json.loads((path / "tokenizer_config.json").read_bytes())
    except FileNotFoundError:
        return False if (path / "tokenizer.json").is_file() else None
    except (OSError, ValueError):
        return None
    return bool(settings.get("chat_template")) if isinstance(settings, dict) else None
