"""The command `semievol`: one function a verb, and errors as one paragraph with their exit code.

Invariant: only the verb that was asked for is imported, so that --help answers before anything heavy loads.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from semievol_ray import __version__
from semievol_ray.errors import SemievolError

if TYPE_CHECKING:
    _Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (the run stopped), 2 (a user error), 130 (interrupted)."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 0
    try:
        arguments.verb(arguments)
        sys.stdout.flush()
    except SemievolError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        print("semievol: stopped; the same command goes on from here.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return EXIT_BROKEN_PIPE
    return 0


def _complain(message: str) -> None:
    """The message on stderr, wrapped to the terminal unless it has lines of its own."""
    from semievol_ray.tables import paragraph

    text = f"semievol: {message}"
    print(text if "\n" in message else paragraph(text), file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="semievol",
        description="Semi-supervised fine-tuning on Ray (SemiEvol): labels and an unlabeled pool in, better model out.",
        epilog="Exit codes: 0 done, 1 the run stopped, 2 something you wrote has to change, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"semievol {__version__}")
    verbs = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_run(verbs)
    _add_check(verbs)
    _add_status(verbs)
    _add_explain(verbs)
    _add_evaluate(verbs)
    _add_report(verbs)
    _add_export(verbs)
    _add_study(verbs)
    return parser


def _add_run(verbs: "_Verbs") -> None:
    about = "do a run, or what is left of it, and print its results"
    parser = verbs.add_parser("run", help=about, description=about.capitalize() + ".")
    _add_config(parser)
    parser.add_argument("--run", metavar="DIR", help="folder of the run (default: runs/<name>)")
    parser.add_argument("--address", metavar="ADDR", help="Ray cluster to join (default: start one here)")
    parser.set_defaults(verb=_run)


def _add_check(verbs: "_Verbs") -> None:
    about = "check a configuration; print it in full, with the steps that would run"
    parser = verbs.add_parser("check", help=about, description=about.capitalize() + ".")
    _add_config(parser)
    parser.set_defaults(verb=_check)


def _add_status(verbs: "_Verbs") -> None:
    about = "show how far each step of a run is"
    parser = verbs.add_parser("status", help=about, description=about.capitalize() + ".")
    _add_folder(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(verb=_status)


def _add_explain(verbs: "_Verbs") -> None:
    about = "show everything that happened to one row of the pool"
    parser = verbs.add_parser("explain", help=about, description=about.capitalize() + ".")
    _add_folder(parser)
    parser.add_argument("row_id", metavar="ROW_ID", help="the row's id, or as much of its beginning as is unique")
    parser.set_defaults(verb=_explain)


def _add_evaluate(verbs: "_Verbs") -> None:
    about = "show the accuracy of a run's last adapter, on its test split or on a file"
    parser = verbs.add_parser("evaluate", help=about, description=about.capitalize() + ".")
    _add_folder(parser)
    parser.add_argument("--data", metavar="FILE", help="csv, jsonl or parquet file of rows with answers")
    parser.set_defaults(verb=_evaluate)


def _add_report(verbs: "_Verbs") -> None:
    about = "write a run's report, one HTML page that needs no network"
    parser = verbs.add_parser("report", help=about, description=about.capitalize() + ".")
    _add_folder(parser)
    parser.add_argument("--out", metavar="FILE", help="where to (default: report.html in the run's folder)")
    parser.set_defaults(verb=_report)


def _add_export(verbs: "_Verbs") -> None:
    about = "write a run's pseudo-labels with their provenance, for a trainer or an annotator"
    parser = verbs.add_parser("export", help=about, description=about.capitalize() + ".")
    _add_folder(parser)
    parser.add_argument("--data", required=True, choices=("accepted", "rejected", "all"), help="which rows")
    parser.add_argument(
        "--format", default="jsonl", choices=("messages", "parquet", "jsonl"),
        help="messages: chat rows as the trainer sees them (default: jsonl)",
    )  # fmt: skip
    parser.add_argument("--out", metavar="FILE", help="where to (default: the folder exports of the run)")
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")
    parser.set_defaults(verb=_export)


def _add_study(verbs: "_Verbs") -> None:
    about = "run variants of a configuration over seeds, or what is left of them, and print their table"
    parser = verbs.add_parser("study", help=about, description=about.capitalize() + ".")
    parser.add_argument("study", metavar="STUDY", help="the study's YAML file")
    parser.add_argument("--runs", metavar="DIR", help="folder of its runs and tables (default: runs/<name>)")
    parser.add_argument("--seeds", metavar="0,1,2", type=_numbers, help="do these seeds only")
    parser.set_defaults(verb=_study)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="the run's YAML file")
    parser.add_argument(
        "-o", dest="overrides", metavar="KEY.SUB=VALUE", action="append", default=[],
        help="set one value over the file's; may be given several times",
    )  # fmt: skip


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of the run")


def _run(arguments: argparse.Namespace) -> None:
    from semievol_ray import configfile, driver, summary

    config = configfile.load(arguments.config, arguments.overrides)
    if arguments.address:
        config = config.model_copy(update={"speed": config.speed.model_copy(update={"address": arguments.address})})
    finished = driver.run(config, arguments.run or driver.default_root(config))
    print(summary.render(summary.summarise(finished.root)))


def _check(arguments: argparse.Namespace) -> None:
    from semievol_ray import check, configfile

    print(check.check(configfile.load(arguments.config, arguments.overrides)))


def _status(arguments: argparse.Namespace) -> None:
    import json

    from semievol_ray import status

    found = status.status(_folder(arguments))
    print(json.dumps(status.as_json(found), indent=1) if arguments.json else status.render(found))


def _explain(arguments: argparse.Namespace) -> None:
    from semievol_ray import explain

    print(explain.explain(_folder(arguments), arguments.row_id))


def _evaluate(arguments: argparse.Namespace) -> None:
    from semievol_ray import evaluation

    root = _folder(arguments)
    found = evaluation.evaluate_file(root, arguments.data) if arguments.data else evaluation.stored_evaluation(root)
    print(evaluation.render(found))


def _report(arguments: argparse.Namespace) -> None:
    from semievol_ray import report

    print(report.write_report(_folder(arguments), arguments.out))


def _export(arguments: argparse.Namespace) -> None:
    from semievol_ray import export

    done = export.export_data(
        _folder(arguments), arguments.data, arguments.format, arguments.out, force=arguments.force
    )
    left_out = f" ({done.num_left_out} without a label left out)" if done.num_left_out else ""
    print(f"{done.path}: {done.num_rows} rows{left_out}")


def _study(arguments: argparse.Namespace) -> None:
    from semievol_ray.study.run import run_study

    print(run_study(arguments.study, arguments.runs, arguments.seeds))


def _numbers(text: str) -> list[int]:
    """Whole numbers between commas; argparse tells the user when they are none."""
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 0,1,2")
    return [int(part) for part in text.split(",")]


def _folder(arguments: argparse.Namespace) -> str:
    return str(arguments.run).rstrip("/") or "/"


if __name__ == "__main__":
    sys.exit(main())
