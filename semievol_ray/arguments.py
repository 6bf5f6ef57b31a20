"""What the command `semievol` can be told: its verbs, their arguments and what --help says.

Invariant: nothing but argparse is imported, so that --help answers at once.
"""

import argparse
from typing import TYPE_CHECKING

from semievol_ray import __version__

if TYPE_CHECKING:
    _Verbs = argparse._SubParsersAction[argparse.ArgumentParser]


def parser() -> argparse.ArgumentParser:
    """The parser of the command line; `command` holds the verb, None where none was given."""
    whole = argparse.ArgumentParser(
        prog="semievol",
        description="Semi-supervised fine-tuning on Ray (SemiEvol): labels and an unlabeled pool in, better model out.",
        epilog="Exit codes: 0 done, 1 the run stopped, 2 something you wrote has to change, 75 its deadline came, "
        "130 interrupted.",
    )
    whole.add_argument("--version", action="version", version=f"semievol {__version__}")
    verbs = whole.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_run(verbs)
    _add_check(verbs)
    _add_plan(verbs)
    _add_status(verbs)
    _add_explain(verbs)
    _add_evaluate(verbs)
    _add_label(verbs)
    _add_serve(verbs)
    _add_report(verbs)
    _add_export(verbs)
    _add_clean(verbs)
    _add_study(verbs)
    _add_doctor(verbs)
    _add_tune(verbs)
    _add_verify(verbs)
    return whole


def _add_run(verbs: "_Verbs") -> None:
    about = "do a run, or what is left of it, and print its results"
    parser = verbs.add_parser("run", help=about, description=about.capitalize() + ".")
    _add_config(parser)
    parser.add_argument("--run", metavar="DIR", help="folder of the run (default: runs/<name>)")
    _add_address(parser, "speed.address, else RAY_ADDRESS")
    parser.add_argument(
        "--deadline", metavar="WHEN",
        help="stop resumable before 22:00, 2026-11-22T06:00 or +3h (default: the limit of the Slurm job, if in one)",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="look at everything, spend nothing; exit code 0 if it could start"
    )


def _add_check(verbs: "_Verbs") -> None:
    about = "check a configuration; print it in full, with the steps that would run"
    parser = verbs.add_parser("check", help=about, description=about.capitalize() + ".")
    _add_config(parser)


def _add_plan(verbs: "_Verbs") -> None:
    about = "predict a run's time, tokens, GPU-hours, money and disk, by a pilot of it or by arithmetic"
    parser = verbs.add_parser("plan", help=about, description=about.capitalize() + ".")
    _add_config(parser)
    parser.add_argument("--run", metavar="DIR", help="folder of the run that is planned (default: runs/<name>)")
    _add_address(parser, "speed.address, else RAY_ADDRESS")
    parser.add_argument(
        "--pilot", metavar="ROWS", type=_whole, default=200,
        help="rows to try it with, at most a tenth of the pool (default: 200); 0 computes from the model's shape",
    )  # fmt: skip
    parser.add_argument("--gpus", metavar="NUM", type=_whole, help="plan for so many GPUs, not for those at hand")
    parser.add_argument("--price", metavar="MONEY", type=float, help="of a GPU-hour")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_status(verbs: "_Verbs") -> None:
    about = "show how far a run is, how fast, and what went wrong"
    parser = verbs.add_parser("status", help=about, description=about.capitalize() + ".")
    _add_folder(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--watch", metavar="SECONDS", type=_seconds, help="look again every so many seconds until the run has finished"
    )


def _add_explain(verbs: "_Verbs") -> None:
    about = "show everything that happened to one row of the pool"
    parser = verbs.add_parser("explain", help=about, description=about.capitalize() + ".")
    _add_folder(parser)
    parser.add_argument("row_id", metavar="ROW_ID", help="the row's id, or as much of its beginning as is unique")


def _add_evaluate(verbs: "_Verbs") -> None:
    about = "show the accuracy of a run's last adapter, on its test split or on a file"
    parser = verbs.add_parser("evaluate", help=about, description=about.capitalize() + ".")
    _add_folder(parser)
    parser.add_argument("--data", metavar="FILE", help="csv, jsonl or parquet file of rows with answers")
    _add_replicas(parser)
    _add_address(parser)


def _add_label(verbs: "_Verbs") -> None:
    about = "label new rows with a run's model, and say which labels its dev fold certifies"
    parser = verbs.add_parser("label", help=about, description=about.capitalize() + ".")
    _add_folder(parser)
    parser.add_argument("data", metavar="DATA", help="csv, jsonl or parquet file of rows, or a folder of such")
    parser.add_argument("-o", "--out", metavar="OUT", required=True, help="file to write: .parquet, .jsonl or .csv")
    parser.add_argument("--round", metavar="N", type=int, help="whose model (default: the one the run handed over)")
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")
    _add_replicas(parser)
    _add_address(parser)


def _add_serve(verbs: "_Verbs") -> None:
    about = "serve a run's models: OpenAI's chat completions, and /v1/label"
    more = (
        "The API key is read from the variable SEMIEVOL_API_KEY or a file; without one only this machine is served. "
        "Ctrl-C stops it."
    )
    parser = verbs.add_parser("serve", help=about, description=f"{about.capitalize()}. {more}")
    _add_folder(parser)
    parser.add_argument("--round", metavar="N", type=int, help="whose model answers /v1/label (default: the run's)")
    parser.add_argument("--host", metavar="HOST", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", metavar="PORT", type=int, default=8000, help="port to listen on (default: 8000)")
    _add_replicas(parser, "1 to as many as fit")
    parser.add_argument("--api-key-file", metavar="FILE", help="file that holds the API key, and nothing else")
    _add_address(parser)


def _add_report(verbs: "_Verbs") -> None:
    about = "write a run's report, one HTML page that needs no network"
    parser = verbs.add_parser("report", help=about, description=about.capitalize() + ".")
    _add_folder(parser)
    parser.add_argument("--out", metavar="FILE", help="where to (default: report.html in the run's folder)")


def _add_export(verbs: "_Verbs") -> None:
    about = "write a run's pseudo-labels with their provenance, or its model, for other tools"
    parser = verbs.add_parser("export", help=about, description=about.capitalize() + ".")
    _add_folder(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", choices=("accepted", "rejected", "all"), help="which rows")
    what.add_argument("--model", metavar="OUT", nargs="?", const="", help="the adapter, into the new folder OUT")
    parser.add_argument(
        "--merged", metavar="OUT", nargs="?", const="", help="with --model: the adapter merged into its base"
    )
    parser.add_argument(
        "--round", metavar="N", type=int, help="with --model: of this round (default: the one handed over, or the last)"
    )
    parser.add_argument(
        "--format", default="jsonl", choices=("messages", "parquet", "jsonl"),
        help="messages: chat rows as the trainer sees them (default: jsonl)",
    )  # fmt: skip
    parser.add_argument("--out", metavar="FILE", help="where to (default: the folder exports of the run)")
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")


def _add_clean(verbs: "_Verbs") -> None:
    about = "list what a run no longer needs, and remove it after asking"
    parser = verbs.add_parser("clean", help=about, description=about.capitalize() + ".")
    _add_folder(parser)
    parser.add_argument(
        "--keep", choices=("scalars", "last_round"),
        help="what stays: scalars, or the last round whole (default: keep of the run's configuration, else scalars)",
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _add_study(verbs: "_Verbs") -> None:
    about = "run variants of a configuration over seeds, or what is left of them, and print their table"
    parser = verbs.add_parser("study", help=about, description=about.capitalize() + ".")
    parser.add_argument("study", metavar="STUDY", help="the study's YAML file")
    parser.add_argument("--runs", metavar="DIR", help="folder of its runs and tables (default: runs/<name>)")
    parser.add_argument("--seeds", metavar="0,1,2", type=_numbers, help="do these seeds only")


def _add_doctor(verbs: "_Verbs") -> None:
    about = "look at every node of a cluster, or at this machine: versions, devices, disks, storage"
    more = "Exit code 1 when something forbids a run; what is only unusual is a warning."
    parser = verbs.add_parser("doctor", help=about, description=f"{about.capitalize()}. {more}")
    told = "Ray cluster to look at (default: speed.address of --config, else RAY_ADDRESS, else this machine alone)"
    parser.add_argument("--address", metavar="ADDR", help=told)
    parser.add_argument(
        "--storage", metavar="DIR", help="folder or bucket of runs: what one node writes there all have to read"
    )
    parser.add_argument("--config", metavar="CONFIG", help="configuration of a run: can it be placed there?")
    _add_overrides(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_tune(verbs: "_Verbs") -> None:
    about = "try speed settings on a sample of the pool, and write down the fastest"
    more = "Ctrl-C ends the search and keeps the best so far."
    parser = verbs.add_parser("tune", help=about, description=f"{about.capitalize()}. {more}")
    _add_config(parser)
    parser.add_argument("--minutes", metavar="M", type=_seconds, default=10.0, help="about how long (default: 10)")
    parser.add_argument("--rows", metavar="N", type=int, help="rows of a trial (default: enough to fill every engine)")
    _add_address(parser, "speed.address, else RAY_ADDRESS")
    parser.add_argument("--folder", metavar="DIR", default="runs", help="a folder that all nodes see (default: runs)")
    parser.add_argument("--out", metavar="FILE", help="where the YAML goes (default: <name>.tuned.yaml)")


def _add_verify(verbs: "_Verbs") -> None:
    about = "read every part of a run and compare it with what was stored"
    more = "Exit code 1 when something is damaged, edited or missing and was not repaired."
    parser = verbs.add_parser("verify", help=about, description=f"{about.capitalize()}. {more}")
    _add_folder(parser)
    parser.add_argument("--repair", action="store_true", help="take out, after asking, what a run then makes again")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="the run's YAML file")
    _add_overrides(parser)


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", dest="overrides", metavar="KEY.SUB=VALUE", action="append", default=[],
        help="set one value over the file's; may be given several times",
    )  # fmt: skip


def _add_address(parser: argparse.ArgumentParser, before: str = "RAY_ADDRESS") -> None:
    told = f"Ray cluster to join (default: {before}, else one started here)"
    parser.add_argument("--address", metavar="ADDR", help=told)


def _add_replicas(parser: argparse.ArgumentParser, before: str = "as in the run") -> None:
    parser.add_argument("--replicas", metavar="MIN[-MAX]", type=_range, help=f"engines (default: {before})")


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of the run")


def _numbers(text: str) -> list[int]:
    """Whole numbers between commas; argparse tells the user when they are none."""
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 0,1,2")
    return [int(part) for part in text.split(",")]


def _range(text: str) -> tuple[int, int]:
    """2 or 1-4; argparse tells the user when it is none."""
    least, dash, most = text.partition("-")
    most = most if dash else least
    if not (least.isdigit() and most.isdigit() and 1 <= int(least) <= int(most)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of engines such as 2, or 1-4")
    return int(least), int(most)


def _whole(text: str) -> int:
    """A whole number from 0; argparse tells the user when it is none."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number such as 200")
    return int(text)


def _seconds(text: str) -> float:
    """A number above 0; argparse tells the user when it is none."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds such as 10")
    return value
