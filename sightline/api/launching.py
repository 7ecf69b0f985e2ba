"""The processes of a run: starts them on this machine, and finds the run that they began before a restart."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from sightline.api.auto_batch import settle_batch_size
from sightline.api.own_runs import title_of
from sightline.api.session import StoppedError, TrainResult, console_of, open_and_train, what_is_written
from sightline.config import exit_codes
from sightline.config.errors import ConfigError

if TYPE_CHECKING:
    from sightline.engine.run_config import RunConfig
    from sightline.engine.stop import StopRequest


class ProcessesFailedError(RuntimeError):
    """The processes of a run on this machine failed; the first of them said why, and with which exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the run's processes ended with exit code {exit_code}; what they said stands above.")
        self.exit_code = exit_code


def must_launch(config: RunConfig) -> bool:
    """Whether the run has several processes and nobody has started them."""
    from sightline.engine.distributed.launch import find_launch

    return config.processes_here > 1 and find_launch() is None


def launch(config: RunConfig, run_dir: Path, stop: StopRequest, *, resume: bool) -> TrainResult:
    """Start the processes of a run on this machine and wait for them.

    Raises:
        ConfigError: If the configuration is no recipe's, so that another process cannot make it, or a GPU that it names
            is not there.
        ProcessesFailedError: If they failed; the first of them said why.
        StoppedError: If they were stopped before the first step.
    """
    from sightline.engine.device import pick_device
    from sightline.engine.distributed.launch import launch_here
    from sightline.engine.parts import NOTE_FILE
    from sightline.engine.run_folder.crash_report import close_report
    from sightline.engine.run_folder.folder import is_run, remove_if_unused
    from sightline.engine.run_folder.run_record import read_record
    from sightline.recipes import RECIPES, recipe_function

    try:
        if config.recipe not in RECIPES or type(recipe_function(config.recipe)()) is not type(config):
            raise ConfigError(
                f"{config.processes_here} processes: only recipes of the table can be started in several. Start your "
                "own program with torchrun; it then trains with all of them."
            )
        pick_device(config.device)
        threads = config.threads or max(1, (os.cpu_count() or 1) // config.processes_here)
        values, code = json.dumps(config.model_dump(mode="json")), None
        before = len(read_record(run_dir).sessions) if is_run(run_dir) else 0
        while code is None or (code == 1 and (run_dir / NOTE_FILE).exists()):  # memory ran out: again, in smaller parts
            arguments = (config.recipe, values, str(run_dir), resume or code is not None, stop.began)
            code = launch_here(work, arguments, processes=config.processes_here, threads=threads)
    finally:
        if not resume:
            remove_if_unused(run_dir)
    sessions = read_record(run_dir).sessions if is_run(run_dir) else ()
    if code == exit_codes.STOPPED and len(sessions) == before:
        cure = (
            f"Continue with: sightline resume {quote(str(run_dir))}" if before else "Nothing was begun: start it again."
        )
        raise StoppedError(f"stopped before the first step. {cure}")
    if code == exit_codes.STOPPED and sessions[-1].outcome is None:
        exit_codes.say(
            "the processes ended before they had saved. Go on from the last checkpoint: "
            f"sightline resume {quote(str(run_dir))}"
        )
        code = 1
    if code not in (0, exit_codes.STOPPED):
        with contextlib.suppress(OSError):
            close_report(run_dir)
        raise ProcessesFailedError(code)
    return what_is_written(run_dir, code)


def work(recipe: str, config_json: str, run_dir: str, resume: bool, began: float) -> int:
    """What each process of ``launch`` does; returns the exit code, or leaves with it where the others must end too."""
    from sightline.engine.stop import StoppedAtOnce, StopRequest

    stop = StopRequest(began=began)
    stop.watch_parent()
    with stop.listening(), stop.impatiently():
        try:
            from sightline.engine.distributed.joining import joined
            from sightline.recipes import recipe as recipe_named

            config, run = type(recipe_named(recipe)).model_validate(json.loads(config_json)), Path(run_dir)
            config, found = settle_batch_size(config, lambda: run_dir if resume else None)
            with joined(config, recipe_named) as (processes, device, config):
                console = console_of(None, processes)
                result = open_and_train(
                    config, run, processes, device, stop, resume=resume, console=console, found=found
                )
                with stop.patiently():
                    processes.wait()  # for the report, since the end of one process ends all
                    if result.exit_code == exit_codes.STOPPED:  # a launcher that was told to stop asks for no answer
                        sys.exit(exit_codes.STOPPED)
                return result.exit_code
        except StoppedAtOnce:
            sys.exit(exit_codes.STOPPED)
        except BaseException as error:
            with stop.patiently():  # the launcher ends all processes as soon as one of them has failed
                if exit_codes.told(error) is None and not isinstance(error, SystemExit):
                    traceback.print_exception(error)  # the launcher would keep it to itself
                    sys.exit(1)
                exit_codes.leave(error, must_end=lambda: bool(stop.reason))


def begun_before_restart(config: RunConfig, name: str | None, out: Path | None) -> str | None:
    """The run that these processes began before their launcher started them anew; None in a first start."""
    from sightline.engine.distributed.launch import find_launch
    from sightline.engine.run_folder.folder import RUNS, is_run
    from sightline.engine.run_folder.run_record import read_record

    place = find_launch()
    if place is None or not place.restarts:
        return None
    if out is not None or name is not None:
        folder = out if out is not None else RUNS / title_of(config) / str(name)
        return str(folder) if is_run(folder) else None
    runs = [folder for folder in (RUNS / title_of(config)).glob("*") if is_run(folder)]
    mine = [folder for folder in runs if read_record(folder).sessions[-1].launch == place.identity]
    return str(max(mine, key=lambda folder: read_record(folder).sessions[-1].started)) if mine else None
