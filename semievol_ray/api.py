"""The package from Python: a run done or opened, and every table and figure in its folder as a value.

Invariant: looking at a run writes nothing and starts nothing; what a step holds is read when it is asked for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from semievol_ray import configfile, driver, storage
from semievol_ray.config import RunConfig
from semievol_ray.errors import MissingExtraError, UserError
from semievol_ray.handover import config_of, final_round, trained
from semievol_ray.label import Labelled, label_file
from semievol_ray.outcomes import Which, open_outcomes, rows_by_part
from semievol_ray.progress import Progress
from semievol_ray.runs import read_manifest
from semievol_ray.steps import Step, read_steps

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class StepView:
    """A step of a run: its name, rows and figures; `num_rows` and `seconds` are None until it is committed."""

    name: str
    num_rows: int | None
    seconds: float | None
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class OpenedRun:
    """A run directory to look at, on disk or in an object store; another process may be driving the run meanwhile."""

    root: str

    @property
    def config(self) -> RunConfig:
        """The configuration that the run was made with."""
        return config_of(self.root)

    @property
    def round(self) -> int:
        """The round that the run handed over; its last one while it has not ended."""
        return final_round(self.root, self.config)

    @property
    def adapter(self) -> str:
        """The folder of the adapter (or whole model) handed over. Raises UserError where there is none yet."""
        return f"{trained(self.root, self.round).path}/adapter"

    def steps(self) -> list[StepView]:
        """Every step begun, in the order in which they began."""
        return [_viewed(name, record) for name, record in read_steps(self.root)]

    def metrics(self, step: str) -> Mapping[str, Any]:
        """The figures of a committed step, such as `rounds/0001/evaluate`. Raises UserError."""
        return _viewed(step, self._record(step)).metrics

    def table(self, step: str) -> pa.Table:
        """All rows of a step in order, of the parts there are. Raises UserError for a step that has no rows."""
        parts = list(self.parts(step))
        if not parts:
            raise UserError(f"{self.root}/{step} holds no table yet. `steps()` lists what there is.")
        return pa.concat_tables(parts)

    def parts(self, step: str) -> Iterator[pa.Table]:
        """The parts of a step one by one, for tables larger than memory."""
        found = Step(f"{self.root}/{step}", step, tuple(self._record(step)["parts"]))
        for part in found.parts:
            if found.has_part(part):
                yield pq.read_table(pa.BufferReader(storage.read(found.part_path(part))))

    def frame(self, step: str) -> "pd.DataFrame":
        """The same as a pandas DataFrame. Raises MissingExtraError without pandas."""
        return _frame(self.table(step))

    def pseudo_labels(self, which: Which = "all") -> "pd.DataFrame":
        """The pool as it stands: question, label, confidence, decision, reason, votes and provenance of each row."""
        outcomes = open_outcomes(self.root)
        return _frame(pa.Table.from_pylist([row for rows in rows_by_part(outcomes, which) for row in rows]))

    def label(
        self,
        data: str,
        out: str,
        *,
        number: int | None = None,
        force: bool = False,
        address: str | None = None,
        replicas: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> Labelled:
        """Label the rows of a file with the model of round `number`; as `semievol label`, see `label.label_file`."""
        return label_file(
            self.root, data, out, number=number, force=force, address=address, replicas=replicas, progress=progress
        )

    def _record(self, step: str) -> dict[str, Any]:
        records = dict(read_steps(self.root))
        if step not in records:
            raise UserError(f"{self.root} has no step {step!r}; it has {', '.join(records) or 'none yet'}.")
        return records[step]


def open_run(root: str) -> OpenedRun:
    """A run directory to look at. Raises UserError when the folder is none."""
    root = storage.absolute(root)
    read_manifest(root)
    return OpenedRun(root)


def run(config: RunConfig | str, root: str | None = None, *, progress: Progress | None = None) -> OpenedRun:
    """Do what is left of a run, given as a RunConfig or the path of its YAML file, in `root` (runs/<name>).

    Raises what errors.py names; called again it goes on. Relative paths of a RunConfig are the working directory's.
    """
    resolved = configfile.load(config) if isinstance(config, str) else _anchored(config)
    return OpenedRun(driver.run(resolved, root or driver.default_root(resolved), progress).root)


def _anchored(config: RunConfig) -> RunConfig:
    """The configuration with absolute paths, which every process reads alike."""
    return configfile.parse(configfile.anchored(config.model_dump(mode="json"), Path.cwd()), "RunConfig")


def _viewed(name: str, record: Mapping[str, Any]) -> StepView:
    committed = record.get("committed")
    if not committed:
        return StepView(name, None, None, {})
    return StepView(name, int(committed["num_rows"]), float(committed["seconds"]), committed["metrics"])


def _frame(table: pa.Table) -> "pd.DataFrame":
    try:
        import pandas  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("tables as DataFrames need pandas: pip install 'semievol-ray[cpu]'") from error
    return table.to_pandas()
