"""`semievol report`: one self-contained HTML page about a run, from its committed steps and a few parts.

Invariant: the run directory is only read, but for the page itself; a section without data says why.
"""

from markupsafe import Markup

from semievol_ray import __version__, storage
from semievol_ray.reporting import (
    accuracy,
    agreement,
    classes,
    confidence,
    costs,
    decisions,
    planned,
    samples,
    setup,
    training,
)
from semievol_ray.reporting.facts import Facts, read_facts
from semievol_ray.reporting.page import Section, page

PAGE = "report.html"


def write_report(root: str, out: str | None = None) -> str:
    """Write the page of a run directory, finished or not, and return its path; `<root>/report.html` without `out`.

    Raises UserError when the folder is no run directory, StorageError when the page cannot be written.
    """
    path = out or f"{root}/{PAGE}"
    storage.write(path, render(read_facts(root)).encode())
    return path


def render(facts: Facts) -> str:
    """The page as HTML."""
    footer = f"semievol {__version__}; figures are those the run stored in {facts.root}."
    return page(f"Run {facts.name}", _intro(facts), sections(facts), footer)


def sections(facts: Facts) -> list[Section]:
    """Every section of the page, in order."""
    return [
        accuracy.section(facts),
        decisions.section(facts),
        confidence.histogram_section(facts),
        confidence.reliability_section(facts),
        agreement.agreement_section(facts),
        confidence.what_if_section(facts),
        agreement.balance_section(facts),
        classes.classes_section(facts),
        classes.confusion_section(facts),
        training.section(facts),
        costs.section(facts),
        planned.section(facts),
        samples.section(facts),
        setup.section(facts),
    ]


def _intro(facts: Facts) -> Markup:
    config = facts.config
    task = config.get("task")
    task_name = task["name"] if isinstance(task, dict) else task
    return Markup('{}<p class="meta">{} on {} · {}</p>').format(
        accuracy.verdict(facts), config.get("model"), task_name, _progress(facts)
    )


def _progress(facts: Facts) -> str:
    """How far the run is."""
    rounds = (facts.config.get("method") or {}).get("rounds", 1)
    planned = rounds["num"] if isinstance(rounds, dict) else rounds
    if final := facts.manifest.get("final"):
        return f"finished: SemiEvol is the model of round {final['round']} of {planned}"
    done = sum(facts.metrics(f"rounds/{number:04d}/train") is not None for number in range(1, planned + 1))
    open_steps = [name for name, record in facts.steps.items() if not record.get("committed")]
    begun = f"; begun and not ended: {', '.join(open_steps[:3])}" if open_steps else ""
    return f"{done} of {planned} rounds trained{begun}"
