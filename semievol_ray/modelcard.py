"""The model card of an exported model: where it comes from, what it learned from, what it is worth, how to open it.

Invariant: every figure is read from the run's committed steps, and no path of its data is told.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from semievol_ray import machine, tables
from semievol_ray.config import RunConfig
from semievol_ray.listing import read_listing
from semievol_ray.runs import read_events
from semievol_ray.sessions import of_the_run
from semievol_ray.summary import Summary, summarise

_WHAT = {
    "adapter": "A LoRA adapter of",
    "merged": "A LoRA adapter merged into its base,",
    "full": "A fine-tuning of all weights of",
}
_METHOD = ("rounds", "collaborators", "retrieval", "justify", "confidence", "select", "warm_up")


def model_card(root: str, run: RunConfig, number: int, kind: str, record: Mapping[str, Any], dtype: str) -> str:
    """The card in markdown with the front matter of model hubs; `record` is step.json of the fine-tuning."""
    config = run.model_dump(mode="json")
    blocks = [
        f"# {run.name}, round {number}",
        f"{_WHAT[kind]} `{config['model']}`, made by semi-supervised fine-tuning (SemiEvol, arXiv 2410.14745) with "
        f"semievol-ray. Weights in {dtype}. The base model's licence applies.",
        "## Use",
        _use(kind, config),
        "## Learned from",
        _examples(root, number, record),
        "## Accuracy",
        _accuracy(summarise(root), number),
        "## Settings",
        _settings(config, record),
        "## Made with",
        _versions(root, record),
    ]
    return f"---\n{_front(kind, config)}---\n\n" + "\n\n".join(blocks) + "\n"


def _front(kind: str, config: Mapping[str, Any]) -> str:
    front = {
        "base_model": config["model"],
        "base_model_relation": "adapter" if kind == "adapter" else "finetune",
        "library_name": "peft" if kind == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["semievol", *(["lora"] if kind != "full" else [])],
    }
    return yaml.safe_dump(front, sort_keys=False)


def _use(kind: str, config: Mapping[str, Any]) -> str:
    load = (
        "from peft import AutoPeftModelForCausalLM\n\nmodel = AutoPeftModelForCausalLM.from_pretrained(FOLDER)"
        if kind == "adapter"
        else "from transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained(FOLDER)"
    )
    date = config["numerics"]["template_date"]
    return (
        f"```python\nfrom transformers import AutoTokenizer\n{load}\n"
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)\n```\n\nIt was taught to answer with the instruction of its "
        "task as the system turn, the question as the user "
        f"turn, without demonstrations; a chat template that reads the clock was given {date}."
    )


def _examples(root: str, number: int, record: Mapping[str, Any]) -> str:
    """Rows by where their answers come from."""
    if record["settings"].get("imported"):
        return "Nothing in this run: the adapter was made elsewhere and imported."
    counts: dict[str, int] = {}
    for part, facts in read_listing(f"{root}/rounds/{number:04d}/examples").items():
        origin = _origin(part)
        counts[origin] = counts.get(origin, 0) + facts.num_rows
    rows = [(origin, tables.count(rows)) for origin, rows in sorted(counts.items())]
    return _table(("examples", "rows"), rows) if rows else "Not recorded: the list of examples was removed."


def _origin(part: str) -> str:
    kind, _, rest = part.partition("-")
    match kind:
        case "labeled":
            return "labeled"
        case "annotated":
            return "labeled by people during the run"
        case _:
            return f"pseudo-labels accepted in round {int(rest.split('-')[0])}"


def _accuracy(found: Summary, number: int) -> str:
    rows = [
        (a.model, tables.percent(a.accuracy.value), tables.interval(a.accuracy.low, a.accuracy.high),
         tables.count(a.num_rows))
        for a in found.accuracies
    ]  # fmt: skip
    labels = [
        f"Of round {p.round}'s accepted pseudo-labels {tables.percent(p.precision_after)} were right where a gold "
        f"answer is known ({tables.percent(p.precision_before)} before selection)."
        for p in found.pseudo_labels
        if p.precision_after is not None and p.round <= number
    ]
    told = _table(("model", "accuracy on the test split", "95% interval", "rows"), rows)
    return "\n\n".join([told if rows else "Not known: the run had no test split.", *labels])


def _settings(config: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    method = {key: value for key, value in config["method"].items() if key in _METHOD and value is not None}
    settings = record["settings"]
    told = {
        "task": config["task"] if isinstance(config["task"], str) else config["task"].get("name"),
        "seed": settings.get("seed", config["seed"]),
        "train": settings.get("train"),
        "numerics": {**settings.get("numerics", {}), **record["numerics"]},
        "method": _without_endpoints(method),
    }
    return f"```yaml\n{yaml.safe_dump(told, sort_keys=False, allow_unicode=True)}```"


def _without_endpoints(method: dict[str, Any]) -> dict[str, Any]:
    """The method without addresses and keys of the endpoints that collaborators answered from."""
    asked = [{k: v for k, v in c.items() if k != "endpoint" and v is not None} for c in method.get("collaborators", ())]
    return method | {"collaborators": asked}


def _versions(root: str, record: Mapping[str, Any]) -> str:
    """Of the machine that the run looked at last, else of this one; and the digests that identify what was made."""
    looks = [event["nodes"] for event in of_the_run(read_events(root)) if event["kind"] == "preflight"]
    told = [node["machine"]["versions"] for nodes in looks for node in nodes if node.get("machine")]
    versions = told[-1] if told else machine.versions()
    metrics = {k: v for k, v in record["committed"]["metrics"].items() if isinstance(v, int | float)}
    rows = [(name, str(version)) for name, version in versions.items() if version]
    rows += [("base model, SHA-256 of its files", record["inputs"]["model"])]
    rows += [("fine-tuning, digest", record["committed"]["digest"])]
    rows += [(f"fine-tuning, {name}", f"{value:,.6g}") for name, value in metrics.items()]
    return _table(("what", "value"), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
