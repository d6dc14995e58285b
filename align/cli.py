"""The command line: parses arguments, imports the one command that was asked for, returns its exit
status.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from align import __version__
from align.errors import AlignError

INTERRUPTED = 130

_DESCRIPTION = """\
Preference alignment of language models. One YAML recipe describes a run: SFT, reward model,
sampling, scoring, selection, pairing, policy training, evaluation, publishing. Every step leaves
readable files, and the same command resumes what was interrupted."""

_EPILOG = """\
worth typing first:
  align doctor                            what this machine and installation can run
  align check recipes/quickstart/online_dpo.yaml
                                          validate a recipe and print its plan, loading no weights
  align run recipes/quickstart/online_dpo.yaml
                                          run it; the same command resumes, or does nothing
  align run R.yaml --set train.objective.beta=0.2 --out runs/b02
                                          change one value: a sweep is a shell loop
  align show runs/NAME                    what a run, or any folder or file of it, holds

exit status:
  0    done
  2    the recipe, the data or the environment is wrong (found before any weights are loaded)
  3    a stage failed; one line of cause and the path of the log
  130  interrupted; the same command goes on"""


def parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    top = argparse.ArgumentParser(
        prog="align",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"align {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    run = commands.add_parser("run", help="run a recipe, or finish one that was interrupted")
    _recipe(run)
    run.add_argument("--out", metavar="DIR", help="output folder (default: runs/<run.name>)")
    run.add_argument(
        "--cache",
        metavar="DIR",
        help="folder that shares samples, scores and log-probs between runs (run.cache)",
    )
    run.add_argument(
        "--redo",
        metavar="STAGE",
        action="append",
        default=[],
        help="do a finished stage again (its folder, e.g. iter-001/scores); may be repeated",
    )
    run.add_argument(
        "--accelerate-config",
        metavar="FILE",
        help="how training stages are launched (a name or a file)",
    )
    run.add_argument(
        "--nodes", metavar="N", type=int, default=1, help="machines that share the output folder"
    )
    run.add_argument(
        "--node-rank", metavar="R", type=int, default=0, help="which of them this one is, from 0"
    )
    run.add_argument(
        "--main-address", metavar="HOST", default="127.0.0.1", help="address of the first machine"
    )
    run.add_argument(
        "--main-port", metavar="PORT", type=int, default=29500, help="a free port on that machine"
    )
    run.add_argument(
        "--processes",
        metavar="P",
        type=int,
        help="ranks of a training stage on each machine (default: one a device, or what your own "
        "launch file says)",
    )
    run.add_argument(
        "--workers",
        metavar="W",
        type=int,
        help="sampling and scoring processes on each machine (default: one a device or "
        "tensor-parallel group)",
    )

    check = commands.add_parser(
        "check", help="validate recipes, read local data and print plans; loads no weights"
    )
    check.add_argument("recipes", nargs="+", metavar="RECIPE", help="a YAML file")
    _overrides(check)

    show = commands.add_parser("show", help="what a run or an artefact holds")
    show.add_argument("path", metavar="PATH", help="a run, one of its folders, or a parquet file")
    show.add_argument(
        "--rows", metavar="N", type=int, default=3, help="sample rows to print (default: 3)"
    )
    show.add_argument(
        "--id", metavar="ID", help="where the row with this prompt, sample or pair id came from"
    )

    report = commands.add_parser("report", help="write report.html and report.json of a run")
    report.add_argument("path", metavar="DIR", help="a run's folder")

    doctor = commands.add_parser(
        "doctor", help="what this machine and installation can run; or whether a reward is sound"
    )
    doctor.add_argument(
        "--reward",
        metavar="RECIPE",
        help="look at the reward in a recipe's score instead: golden cases, labelled pairs, "
        "batches, length, calibration, end token, template",
    )
    _reward_data(doctor, limit=128)
    doctor.add_argument(
        "--golden", metavar="FILE", help="rows of prompt, completion and the score they must get"
    )

    evaluate = commands.add_parser(
        "evaluate-reward",
        help="pair accuracy of a reward by subset, and its best-of-n curve under a second reward",
    )
    evaluate.add_argument("recipe", metavar="RECIPE", help="a YAML file with a score")
    _reward_data(evaluate, limit=None)
    evaluate.add_argument(
        "--subset-column", metavar="NAME", help="accuracy by the values of this column too"
    )
    evaluate.add_argument(
        "--samples", metavar="PATH", help="stored samples of a run, for the best-of-n curve"
    )
    evaluate.add_argument(
        "--gold",
        metavar="RECIPE",
        help="the second reward (default: evaluate.score, else the samples' stored scores)",
    )
    evaluate.add_argument("--json", metavar="FILE", help="write the numbers there too")

    serve = commands.add_parser(
        "serve-reward", help="the reward of a recipe's score as an HTTP server, in OpenRLHF's form"
    )
    _recipe(serve)
    serve.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, default=5000, help="default: 5000")
    serve.add_argument(
        "--failed",
        metavar="X",
        type=float,
        help="number for samples that cannot be scored (default: null)",
    )
    serve.add_argument(
        "--token-variable",
        metavar="NAME",
        help="environment variable whose value callers must send as bearer token",
    )

    publish = commands.add_parser(
        "publish", help="push a finished run to the Hub, or copy it to a folder"
    )
    publish.add_argument("path", metavar="DIR", help="a run's folder")
    publish.add_argument("--repo", metavar="ORG/NAME", help="default: the recipe's publish.repo")
    publish.add_argument("--folder", metavar="DIR", help="default: the recipe's publish.folder")
    publish.add_argument(
        "--private",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="default: the recipe's publish.private, else private",
    )

    commands.add_parser("schema", help="print the JSON schema of recipes, for editors")
    return top


def _recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file")
    _overrides(command)


def _overrides(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="override one value, e.g. train.objective.beta=0.2, generate.0.n=4; may be repeated",
    )


def _reward_data(command: argparse.ArgumentParser, *, limit: int | None) -> None:
    command.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="override one value of the recipe; may be repeated",
    )
    command.add_argument(
        "--data",
        metavar="PATH",
        help="labelled pairs: prompt, chosen, rejected (default: the preferences in the recipe)",
    )
    command.add_argument(
        "--split", metavar="NAME", default="train", help="of the data (default: train)"
    )
    command.add_argument(
        "--limit", metavar="N", type=int, default=limit, help=f"pairs to read (default: {limit})"
    )
    command.add_argument("--chat", action="store_true", help="take plain-text rows for chat turns")
    command.add_argument(
        "--out", metavar="DIR", help="the run's folder, for a recipe that trains its own reward"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; errors that a user can meet end as one message on stderr and their exit
    status.
    """
    top = parser()
    args = top.parse_args(arguments)
    if args.command is None:
        top.print_help()
        return 0
    # as `python -m align` does: a dotted name may lie in the working folder
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    command = importlib.import_module(f"align.commands.{args.command.replace('-', '_')}")
    try:
        return command.main(args)
    except AlignError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; the interpreter shall not complain as it flushes.
        sys.stdout = None
        return 0
