"""What the run was asked to do and with what: configuration, versions, numerics, inputs.

Invariant: no value that could be a secret is shown; the configuration knows keys by the names of their variables alone.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml
from markupsafe import Markup

from semievol_ray.reporting import page
from semievol_ray.reporting.facts import Facts
from semievol_ray.reporting.page import Section

HIDDEN = "(hidden)"
_SECRET = re.compile(r"(^|_)(api_?key|key|token|secret|password|passwd|credentials?|authorization)$", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")


def section(facts: Facts) -> Section:
    """Versions and numerics as a table, the configuration in full to be opened."""
    rows = [(name, value) for name, value in _facts(facts).items()]
    told = page.table("The run", ("what", "value"), rows, num_left=2)
    text = yaml.safe_dump(redacted(facts.config), sort_keys=False, allow_unicode=True, width=100)
    return Section(
        "setup",
        "Configuration and versions",
        page.joined([told, page.details("Configuration", page.preformatted(text))]),
    )


def redacted(value: Any, key: str = "") -> Any:
    """The value with texts under keys such as `token` and logins in addresses hidden."""
    if isinstance(value, Mapping):
        return {name: redacted(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(inner, key) for inner in value]
    if isinstance(value, str):
        return HIDDEN if value and _SECRET.search(key) else _LOGIN.sub(f"{HIDDEN}@", value)
    return value


def _facts(facts: Facts) -> dict[str, str | Markup]:
    config, versions = facts.config, facts.manifest.get("versions", {})
    task = config.get("task")
    task_name = task.get("name") if isinstance(task, Mapping) else task
    numerics: dict[str, set[str]] = {}
    for record in facts.steps.values():
        for key, value in (record.get("numerics") or {}).items():
            numerics.setdefault(key, set()).add(str(value))
    told: dict[str, Any] = {
        "folder": facts.root,
        "task": task_name,
        "model": config.get("model"),
        "seed": config.get("seed"),
        "engine": (config.get("numerics") or {}).get("engine"),
        **{key.replace("_", " "): ", ".join(sorted(values)) for key, values in sorted(numerics.items())},
        "created": str(facts.manifest.get("created", ""))[:19].replace("T", " ") + " UTC",
        **{f"version of {name}": value for name, value in versions.items()},
    }
    return {name: str(redacted(str(value), name)) for name, value in told.items() if value is not None}
