"""The command `semievol`: one function a verb, and errors as one paragraph with their exit code.

Invariant: only the verb that was asked for is imported, so that --help answers before anything heavy loads.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from semievol_ray.arguments import parser
from semievol_ray.errors import SemievolError, UserError

EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code: 0, 1 (the run stopped), 2 (a user error), 75 (deadline), 130 (interrupted)."""
    whole = parser()
    arguments = whole.parse_args(argv)
    if arguments.command is None:
        whole.print_help()
        return 0
    try:
        _VERBS[arguments.command](arguments)
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


def _run(arguments: argparse.Namespace) -> None:
    import time

    from semievol_ray import configfile, deadline, driver, summary

    config = configfile.at_address(configfile.load(arguments.config, arguments.overrides), arguments.address)
    until = deadline.chosen(arguments.deadline, os.environ, time.time())
    root = arguments.run or driver.default_root(config)
    if arguments.dry_run:
        from semievol_ray import dryrun

        print(dryrun.render(dryrun.dry_run(config, root)))
        return
    finished = driver.run(config, root, deadline=until)
    print(summary.render(summary.summarise(finished.root)))


def _check(arguments: argparse.Namespace) -> None:
    from semievol_ray import check, configfile

    print(check.check(configfile.load(arguments.config, arguments.overrides)))


def _plan(arguments: argparse.Namespace) -> None:
    import json

    from semievol_ray import configfile, driver
    from semievol_ray.planning import lines, plan

    config = configfile.at_address(configfile.load(arguments.config, arguments.overrides), arguments.address)
    root = arguments.run or driver.default_root(config)
    made = plan.make_plan(config, root, pilot=arguments.pilot, gpus=arguments.gpus, price=arguments.price)
    print(json.dumps(plan.as_json(made), indent=1) if arguments.json else lines.render(made))


def _status(arguments: argparse.Namespace) -> None:
    import json

    from semievol_ray import status, statuslines

    if arguments.watch is not None:
        statuslines.watch(_folder(arguments), arguments.watch, as_lines=arguments.json)
        return
    found = status.status(_folder(arguments))
    print(json.dumps(status.as_json(found), indent=1) if arguments.json else statuslines.render(found))


def _explain(arguments: argparse.Namespace) -> None:
    from semievol_ray import explain

    print(explain.explain(_folder(arguments), arguments.row_id))


def _evaluate(arguments: argparse.Namespace) -> None:
    from semievol_ray import evaluation

    root = _folder(arguments)
    found = (
        evaluation.evaluate_file(root, arguments.data, address=arguments.address, replicas=arguments.replicas)
        if arguments.data
        else evaluation.stored_evaluation(root)
    )
    print(evaluation.render(found))


def _label(arguments: argparse.Namespace) -> None:
    from semievol_ray import label

    done = label.label_file(
        _folder(arguments),
        arguments.data,
        arguments.out,
        number=arguments.round,
        force=arguments.force,
        address=arguments.address,
        replicas=arguments.replicas,
    )
    print(label.render(done))


def _serve(arguments: argparse.Namespace) -> None:
    from semievol_ray import extras

    extras.check_serving()
    from semievol_ray import serve

    serve.serve_run(_folder(arguments), serve.settings_of(arguments))


def _report(arguments: argparse.Namespace) -> None:
    from semievol_ray import report

    print(report.write_report(_folder(arguments), arguments.out))


def _export(arguments: argparse.Namespace) -> None:
    if arguments.model is not None:
        _export_model(arguments)
        return
    from semievol_ray import export

    if arguments.merged is not None or arguments.round is not None:
        raise UserError("--merged and --round go with --model, not with --data.")
    done = export.export_data(
        _folder(arguments), arguments.data, arguments.format, arguments.out, force=arguments.force
    )
    left_out = f" ({done.num_left_out} without a label left out)" if done.num_left_out else ""
    print(f"{done.path}: {done.num_rows} rows{left_out}")


def _export_model(arguments: argparse.Namespace) -> None:
    from semievol_ray import modelexport

    out = arguments.model or arguments.merged or arguments.out
    if not out:
        raise UserError("name the new folder of the model: semievol export RUN --model [--merged] OUT.")
    done = modelexport.export_model(
        _folder(arguments), out, merged=arguments.merged is not None, number=arguments.round
    )
    print(f"{done.path}: {done.kind} of round {done.round}")


def _clean(arguments: argparse.Namespace) -> None:
    from semievol_ray import cleanlines
    from semievol_ray.clean import clean_run

    agree = cleanlines.listed if arguments.yes else cleanlines.asked
    print(cleanlines.freed(clean_run(_folder(arguments), arguments.keep, agree)))


def _study(arguments: argparse.Namespace) -> None:
    from semievol_ray.study.run import run_study

    print(run_study(arguments.study, arguments.runs, arguments.seeds))


def _tune(arguments: argparse.Namespace) -> None:
    from semievol_ray import configfile, tune

    config = configfile.load(arguments.config, arguments.overrides)
    if arguments.address:
        config = config.model_copy(update={"speed": config.speed.model_copy(update={"address": arguments.address})})
    trials = tune.tune(config, arguments.minutes, rows=arguments.rows, folder=arguments.folder)
    print(tune.render(trials), end="\n\n")
    text, path = tune.snippet(config, trials), arguments.out or f"{config.name}.tuned.yaml"
    tune.write_snippet(text, path)
    print(f"{text}written to {path}")


def _doctor(arguments: argparse.Namespace) -> None:
    import json

    from semievol_ray import configfile, doctor

    if arguments.overrides and not arguments.config:
        raise UserError("-o sets a value over those of a configuration: name its file with --config.")
    config = configfile.load(arguments.config, arguments.overrides) if arguments.config else None
    found = doctor.examine(arguments.address, arguments.storage, config)
    print(json.dumps(doctor.as_json(found), indent=1) if arguments.json else doctor.render(found))
    if not found.ok:
        raise SemievolError("the errors above forbid a run")


def _verify(arguments: argparse.Namespace) -> None:
    from semievol_ray import verifylines

    verifylines.verify_run(_folder(arguments), is_repaired=arguments.repair, is_asked=not arguments.yes)


def _folder(arguments: argparse.Namespace) -> str:
    return str(arguments.run).rstrip("/") or "/"


_VERBS = {
    "run": _run,
    "check": _check,
    "plan": _plan,
    "status": _status,
    "explain": _explain,
    "evaluate": _evaluate,
    "label": _label,
    "serve": _serve,
    "report": _report,
    "export": _export,
    "clean": _clean,
    "study": _study,
    "doctor": _doctor,
    "tune": _tune,
    "verify": _verify,
}

if __name__ == "__main__":
    sys.exit(main())
