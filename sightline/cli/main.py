"""``sightline``: every command turns text into one call of the api, and its result into an exit code.

0 done, 1 failed, 2 the user must change something, 3 stopped on request with a resumable checkpoint.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from sightline.cli import data, looking, training, using
from sightline.config import exit_codes
from sightline.config.foreign_names import our_key
from sightline.config.printable import printable

INTERRUPTED = 130
"""What typer makes of Ctrl-C where nothing catches it."""

GO_ON = "To go on with a run: sightline resume RUN"
OPTIONS_THAT_ARE_COMMANDS = {
    "--resume": GO_ON,
    "--resume-states": GO_ON,
    "--start-epoch": GO_ON,
    "--dry-run": "To try everything before a run: sightline check RECIPE",
}
"""What scripts of others take as options, and a command of ours does."""

app = typer.Typer(
    name="sightline",
    help="Train, resume, evaluate and look at perception models. Start with: sightline train "
    "yolov7-tiny-small (boxes on images) or small-cnn (one class an image)",
    epilog="Exit codes: 0 done, 1 failed, 2 you must change something, 3 stopped on request, go on with resume.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (training, using, looking, data):  # the order of the help
    app.add_typer(group.commands)


def _version(wanted: bool) -> None:
    if wanted:
        from sightline import __version__

        typer.echo(f"sightline {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run one command; the only place where an error becomes an exit code."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        code = app(standalone_mode=False)  # what a command's typer.Exit carries comes back as a value
        if code == INTERRUPTED:
            _fail("aborted", code=1)
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Abort:
        _fail("aborted", code=1)
    except BrokenPipeError:  # of `sightline list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if type(error).__name__ == "ProcessesFailedError":  # they have said what it was
            sys.exit(getattr(error, "exit_code", 1))
        if hasattr(error, "format_message"):  # a usage error of the command line
            context = getattr(error, "ctx", None)
            hint = f"\nSee: {context.command_path} --help" if context is not None else ""
            _fail(error.format_message() + (_as_a_key(error) or hint), code=2)
        exit_codes.leave(error)


def _as_a_key(error: Exception) -> str:
    """What an option that there is none of should have been, where a command takes keys: ``epochs=3``."""
    option, context = str(getattr(error, "option_name", "")), getattr(error, "ctx", None)
    key = option.removeprefix("--").replace("-", "_")
    is_slip = getattr(error, "possibilities", None) and our_key(key) is None
    if not option.startswith("--") or context is None or is_slip:
        return ""
    if option in OPTIONS_THAT_ARE_COMMANDS:
        return f"\n{OPTIONS_THAT_ARE_COMMANDS[option]}"
    if not {"changes", "source"} & {parameter.name for parameter in context.command.params}:
        return ""
    words = " ".join(sys.argv).partition(option)[2].replace("=", " ", 1).split()
    value = words[0] if words and not words[0].startswith("--") else "VALUE"
    return f"\nKeys of a recipe are given without dashes: {our_key(key) or key}={printable(value, limit=80)}"


def _fail(message: str, *, code: int) -> None:
    exit_codes.say(message)
    sys.exit(code)


if __name__ == "__main__":
    main()
