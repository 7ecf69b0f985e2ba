"""A look at everything that a run needs, before it begins: all problems at once, in under a minute.

It builds what a run builds and takes a few real steps, in memory alone: nothing is written into a run's folder or
beside the data. What belongs to one kind of data or model is said by the run itself (``RunConfig.review_data`` and
``RunConfig.preflight_findings``).
"""

from __future__ import annotations

import textwrap
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.api.configuration import PathLike, resolve_leniently
from sightline.api.own_runs import title_of
from sightline.config.errors import ConfigError, UserError, did_you_mean
from sightline.config.printable import counted, printable
from sightline.engine.finding import Finding

if TYPE_CHECKING:
    from sightline.api.preflight_needs import MemoryNeed
    from sightline.engine.finding import DataReview, Weight
    from sightline.engine.loop import Training
    from sightline.engine.run_config import Problem, RunConfig
    from sightline.engine.task import Loader
    from sightline.engine.trial import Trial

SECONDS = 55.0
"""After so many nothing new is begun."""
SMALL_BATCHES = (2, 4)
"""Sizes that are tried first: what they cost tells whether the run's own batch can be tried."""
SMALL_SECONDS = 10.0
"""A second step with a small batch, now that all is warm, is taken if the first was as quick as this."""
STEPS_SECONDS = 8.0
"""Steps with the run's own batch are taken for so long ..."""
MOST_STEPS = 12
"""... or until there were so many."""
WIDTH = 110
"""Characters of a line of the report."""


@dataclass(frozen=True)
class PreflightReport:
    """Everything that was found."""

    recipe: str
    findings: tuple[Finding, ...]
    figures: dict[str, Any] = field(default_factory=dict)
    """What was measured and estimated, as plain values: seconds, bytes, counts."""

    @property
    def can_start(self) -> bool:
        """Whether a run would start and come to its end, as far as can be told."""
        return all(finding.weight != "problem" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "recipe": self.recipe,
            "can_start": self.can_start,
            "findings": [{key: printable(value) for key, value in vars(one).items()} for one in self.findings],
            "figures": self.figures,
        }

    def lines(self) -> list[str]:
        """The report as text: weight, topic and what was found; below it the cure."""
        first = max((len(one.topic) for one in self.findings), default=0)
        margin = " " * (10 + first + 2)
        lines = []
        for one in self.findings:
            texts = one.text.splitlines() or [""]
            shown = [part for text in texts for part in _wrapped(printable(text), WIDTH - len(margin))]
            lines.append(f"{one.weight:<10}{one.topic:<{first}}  {shown[0]}")
            lines += [margin + part for part in shown[1:]]
            if one.cure:
                cure = _wrapped(printable(one.cure), WIDTH - len(margin) - 3)
                lines += [f"{margin}-> {cure[0]}", *(f"{margin}   {part}" for part in cure[1:])]
        counts = {weight: sum(one.weight == weight for one in self.findings) for weight in ("problem", "note")}
        said = ", ".join(counted(count, name) for name, count in counts.items() if count) or "all well"
        seconds = self.figures.get("seconds", 0.0)
        end = "the run can start" if self.can_start else "the run should not start like this"
        return [*lines, "", f"{said} after {seconds:.0f} s: {end}"]


def _wrapped(text: str, width: int) -> list[str]:
    """A text in lines; commands, paths and values stay whole."""
    return textwrap.wrap(text, max(width, 40), break_long_words=False, break_on_hyphens=False) or [""]


def preflight(
    recipe: str | Path | RunConfig,
    *,
    data: PathLike | None = None,
    changes: Sequence[str] = (),
    out: PathLike | None = None,
    name: str | None = None,
    decode: bool = True,
    tell: Callable[[str], None] = lambda text: None,
) -> PreflightReport:
    """Check everything that a run needs, and list all problems at once.

    Args:
        recipe: Name of a recipe, a YAML file, or a whole configuration, as for ``train``.
        data: Data set; without it the built-in world.
        changes: ``key=value`` texts.
        out: The run's folder.
        name: Of the run in place of a number.
        decode: Decode images too.
        tell: Called with what is being done.
    """
    began = time.perf_counter()
    config, wrong = resolve_leniently(recipe, changes, data=data)
    title = str(recipe) if isinstance(recipe, str | Path) else title_of(recipe)
    check = _Preflight(began, decode=decode, tell=tell)
    for text in wrong:
        check.find("configuration", "problem", text)
    if config is not None:
        if not wrong:
            count = f", {counted(len(changes), 'change')}" if changes else ""
            check.find("configuration", "ok", f"{printable(title)}{count}: every key is known and has an effect")
        check.run(config, out=None if out is None else Path(out).expanduser(), name=name)
    check.figures["seconds"] = time.perf_counter() - began
    return PreflightReport(title, tuple(check.findings), check.figures)


class _Preflight:
    """One preflight on its way."""

    def __init__(self, began: float, *, decode: bool, tell: Callable[[str], None]) -> None:
        self.began, self.decode, self.tell = began, decode, tell
        self.devices = 1
        """Processes of the run on this machine. One is tried, with its share of the batch."""
        self.findings: list[Finding] = []
        self.figures: dict[str, Any] = {}

    def find(self, topic: str, weight: Weight, text: str, cure: str = "") -> None:
        self.findings.append(Finding(topic, weight, text, cure))

    def left(self) -> float:
        """Seconds that may still be spent."""
        return SECONDS - (time.perf_counter() - self.began)

    def attempt(self, topic: str, work: Callable[[], Any], default: Any = None) -> Any:
        """What some work gives; where it fails, that is a problem, and the others go on."""
        from sightline.engine.finite import NonFiniteError
        from sightline.engine.memory import is_out_of_memory

        try:
            return work()
        except (UserError, NonFiniteError) as error:
            self.find(topic, "problem", str(error))
        except Exception as error:  # whatever a user's own model raises is a finding, not the end
            if is_out_of_memory(error):
                self.find(topic, "problem", f"out of memory: {_first_line(error)}", "a smaller batch_size")
            else:
                place = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{place.filename}:{place.lineno}"
                self.find(topic, "problem", f"{type(error).__name__}: {_first_line(error)} ({where})")
        return default

    def run(self, config: RunConfig, *, out: Path | None, name: str | None) -> None:
        """Look at everything, in the order in which a run would come to it."""
        folder = self.output(config, out, name)
        config = self.device(config)
        self.tell("looking at the data")
        review = self.attempt("data", lambda: config.review_data(decode=self.decode, tell=self.tell))
        if review is None:
            return
        self.findings += review.findings
        if config.batch_size == "auto" and review.open is not None:
            config = self.batch_size(config, review)
        if review.open is None:
            self.find("step", "note", "not tried, since there is no data")
            return
        self.tell("building the model")
        problem = self.attempt("data", lambda: review.open(config))
        if problem is None:
            return
        self.findings += self.attempt("data", lambda: config.preflight_findings(problem), [])
        training = self.attempt("model", lambda: self.build(config, problem))
        if training is not None:
            self.steps_and_needs(config, review, problem, training, folder)

    def output(self, config: RunConfig, out: Path | None, name: str | None) -> Path:
        """Whether the run's folder can be made."""
        from sightline.engine.run_folder.folder import RUNS, check_new_run_folder

        recipe = title_of(config)
        folder = out if out is not None else RUNS / recipe / (name or "")
        if out is not None and name is not None:
            self.find("output", "problem", "--out and --name are both given", "give either a folder or a name")
        try:
            check_new_run_folder(recipe, name=name, out=out)
            self.find("output", "ok", f"{printable(folder)}: can be written to")
        except UserError as error:
            self.find("output", "problem", str(error))
        return folder

    def device(self, config: RunConfig) -> RunConfig:
        """The run with a device and a precision that this machine has."""
        import torch

        from sightline.api.summary import device_and_threads
        from sightline.engine.building import settle
        from sightline.engine.device import pick_device
        from sightline.engine.precision import choose_kernels

        try:
            device = pick_device(config.device)
        except ConfigError as error:
            self.find("device", "problem", str(error))
            config = config.but(device="auto", devices=config.processes_here)
            device = pick_device("auto")
        else:
            if device.type == "cuda" and config.devices > torch.cuda.device_count():
                text = f"devices={config.devices}, but there are {torch.cuda.device_count()} GPUs"
                self.find("device", "problem", text, f"devices={torch.cuda.device_count()}")
        self.devices = config.processes_here
        if self.devices > 1:
            text = f"one of {self.devices} processes is tried, alone: what they tell each other takes more time"
            self.find("device", "note", text)
        if device.type == "cuda":
            choose_kernels(deterministic=config.deterministic, benchmark=config.cudnn_benchmark)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        config = settle(config)
        self.find("device", "ok", f"{device_and_threads(device)}, {config.precision}")
        self.figures["device"] = str(device)
        return config

    def batch_size(self, config: RunConfig, review: DataReview) -> RunConfig:
        """The run with the batch size that it would find."""
        from sightline.api.auto_batch import find_batch_size
        from sightline.engine.device import pick_device

        device, count = pick_device(config.device), config.processes_here

        def find() -> tuple[RunConfig, str]:
            return find_batch_size(
                config, device, processes=count, on_this_machine=count, review=review, tell=self.tell
            )

        config, how = self.attempt("batch size", find, (config.but(batch_size=SMALL_BATCHES[0]), ""))
        if how:
            self.find("batch size", "ok", how)
        return config

    def build(self, config: RunConfig, problem: Problem) -> Training:
        """The whole training, with the weights that it would start from."""
        from sightline.engine.building import build_training
        from sightline.engine.checkpoint.start_weights import start_from_weights

        training = build_training(config.but(compile=False), problem)
        count = sum(parameter.numel() for parameter in training.task.parameters())
        self.find("model", "ok", f"{count:,} parameters in {len(training.optimizer.groups)} groups")
        self.figures["parameters"] = count
        if config.weights is not None:
            path, partly = config.weights, config.partial_weights
            said = self.attempt("weights", lambda: str(start_from_weights(training, path, partly=partly)))
            if said is not None:
                self.find("weights", "ok", said)
        if config.compile:
            self.find(
                "compile",
                "note",
                f"compile={str(config.compile).lower()} is not tried: the first steps will take a minute or more",
            )
        return training

    def steps_and_needs(
        self, config: RunConfig, review: DataReview, problem: Problem, training: Training, folder: Path
    ) -> None:
        """Real steps and a real prediction, and what the whole run takes if all are like them."""
        from sightline.engine.limited_loader import limited

        trials: list[Trial] = []
        self.attempt("step", lambda: self.steps(config, review, problem, training, trials))
        prediction = None
        if problem.eval_loader is not None:
            loader = limited(problem.eval_loader, config.limit_batches)
            prediction = self.attempt("prediction", lambda: self.prediction(config, review, loader, training, trials))
        if trials:
            self.memory(problem, review, training, trials, prediction)
        self.disk(config, review, training, folder)
        if trials:
            self.duration(config, problem, training, trials, prediction)

    def of_one_process(self, problem: Problem) -> int:
        """Samples of the run's batch that one of its processes gets."""
        assert problem.train_loader is not None
        return -(-problem.train_loader.batch_length(0) // self.devices)

    def steps(
        self, config: RunConfig, review: DataReview, problem: Problem, training: Training, trials: list[Trial]
    ) -> None:
        """Steps with small batches, and then with the run's own where time and memory allow, into ``trials``."""
        from sightline.engine.trial import try_steps

        assert problem.train_loader is not None and review.open is not None
        loader: Loader | None = problem.train_loader
        wanted = self.of_one_process(problem)
        for size in SMALL_BATCHES if wanted > SMALL_BATCHES[-1] else ():
            if trials and 2.5 * trials[-1].seconds * size / trials[-1].samples > self.left() - 20:
                break
            self.tell(f"trying steps with {size} {problem.unit}")
            small = review.open(config.but(batch_size=size)).train_loader
            assert small is not None
            trials.append(try_steps(training, small, seconds=SMALL_SECONDS, most=2, count_saved=True))
        if self.may_try(training, review, trials, wanted):
            self.tell(f"trying steps with {wanted} {problem.unit}")
            if self.devices > 1:
                loader = review.open(config.but(batch_size=wanted)).train_loader
            assert loader is not None
            trials.append(try_steps(training, loader, seconds=min(STEPS_SECONDS, self.left()), most=MOST_STEPS))
        last = trials[-1]
        self.find("shapes", "ok", f"a training batch: {', '.join(last.shapes)}")
        losses = ", ".join(f"{name} {value:.4g}" for name, value in last.values.items())
        text = f"{last.batches} forward, backward and optimizer, {last.samples} {problem.unit} each: "
        text += f"{last.seconds:.3g} s a step, all losses finite ({losses})"
        if last.waiting > 0.3 and last.batches >= MOST_STEPS // 2:
            text += f"; {last.waiting:.0%} of the time is spent waiting for data"
            self.find("step", "note", text, "more workers, data.cache=disk or data.cache=ram where the data has it")
        else:
            self.find("step", "ok", text)

    def may_try(self, training: Training, review: DataReview, trials: Sequence[Trial], wanted: int) -> bool:
        """Whether the run's own batch fits into the memory and the time that are left."""
        from sightline.api.preflight_needs import line_through

        if not trials:
            return True
        seconds, _ = line_through([(t.samples, t.seconds) for t in trials], wanted)
        needs = self.memory_needs(training, review, trials, wanted)
        return 1.5 * seconds < self.left() - 10 and all(need.total <= need.free for need in needs)

    def prediction(
        self, config: RunConfig, review: DataReview, loader: Loader, training: Training, trials: Sequence[Trial]
    ) -> Trial:
        """Batches of the evaluation, smaller ones where there is no time for its own."""
        from sightline.engine.deciding_figures import refuse_unknown_losses
        from sightline.engine.trial import try_prediction

        assert review.open is not None
        size = loader.batch_length(0)
        per_sample = trials[-1].seconds / trials[-1].samples if trials else 0.0
        batches = 2
        was_too_large = bool(trials) and trials[-1].samples <= SMALL_BATCHES[-1] < config.samples_per_batch
        if was_too_large or per_sample * size > self.left() / 4:
            small = review.open(config.but(batch_size=SMALL_BATCHES[0])).eval_loader
            assert small is not None
            loader, batches = small, 1
        self.tell("trying a prediction")
        self.attempt("best", lambda: refuse_unknown_losses(config.deciding(), training, loader))
        trial = try_prediction(training, loader, batches=batches)
        self.find("shapes", "ok", f"an evaluation batch: {', '.join(trial.shapes)}")
        text = f"{trial.samples} predicted in {trial.seconds:.3g} s, and judged: {', '.join(list(trial.values)[:6])}"
        self.find("prediction", "ok", text)
        self.attempt("best", lambda: self.best(config, trial))
        return trial

    def best(self, config: RunConfig, trial: Trial) -> None:
        """Whether the figures exist that decide the best checkpoint, what is kept, and an early end."""
        from sightline.engine.deciding_figures import refuse_unknown_figures

        refuse_unknown_figures(config.deciding(), trial.values)

    def memory_needs(
        self, training: Training, review: DataReview, trials: Sequence[Trial], wanted: int, *, also: int = 0
    ) -> list[MemoryNeed]:
        """What a step with ``wanted`` samples takes, of the host and of the GPU."""
        from sightline.api.preflight_needs import MemoryNeed, line_through
        from sightline.engine.checkpoint.saving import tensors_of
        from sightline.engine.memory import free_device_bytes, free_host_bytes, resident_bytes

        measured, small = trials[-1].samples == wanted, trials[: len(SMALL_BATCHES)]
        _, saved = line_through([(t.samples, t.saved_bytes) for t in small], wanted)
        checkpoint = sum(t.nbytes for group in tensors_of(training).values() for t in group.values())
        others = {"memory for checkpoints": checkpoint, **review.memory}
        on_cpu = training.device.type == "cpu"

        def need(
            place: str, peaks: Sequence[tuple[int, int]], others: Mapping[str, int], free: int, processes: int
        ) -> MemoryNeed:
            least = saved if on_cpu or place != "memory" else 0.0
            if len(peaks) == 1:  # then what grows is known by count alone
                peaks = [(0, peaks[0][1] - int(least * peaks[0][0])), *peaks]
            at, slope = line_through(peaks, wanted, least_slope=least)
            if place == "memory":
                at = max(at, also)
            slope = slope * processes / self.devices if saved or len(trials) > 1 else 0.0
            return MemoryNeed(place, wanted * self.devices, int(at) * processes, slope, others, free, measured)

        host = [(t.samples, t.peak.host_bytes) for t in trials]
        needs = [need("memory", host, others, free_host_bytes() + resident_bytes(), self.devices)]
        if training.device.type == "cuda":
            device = [(t.samples, t.peak.device_bytes) for t in trials]
            needs.append(need("GPU memory", device, {}, free_device_bytes(training.device), 1))
        return needs

    def memory(
        self,
        problem: Problem,
        review: DataReview,
        training: Training,
        trials: Sequence[Trial],
        prediction: Trial | None,
    ) -> None:
        """Whether everything fits into memory."""
        assert problem.train_loader is not None
        wanted = self.of_one_process(problem)
        also = prediction.peak.host_bytes if prediction is not None else 0
        for need in self.memory_needs(training, review, trials, wanted, also=also):
            self.findings.append(need.finding())
            key = need.place.replace(" ", "_").lower()
            self.figures[key] = {
                "bytes": need.total,
                "free": need.free,
                "measured": need.measured,
                "largest_batch": need.largest_batch,
            }

    def disk(self, config: RunConfig, review: DataReview, training: Training, folder: Path) -> None:
        """Whether everything that the run writes fits on the disk."""
        from sightline.api.preflight_needs import (
            EVALUATION_BYTES,
            LOG_ROW_BYTES,
            REPORT_BYTES,
            disk_findings,
            number_of_evaluations,
        )
        from sightline.engine.checkpoint.saving import disk_of_checkpoints

        length = training.plan.length
        use = disk_of_checkpoints(config.checkpoint, training)
        evaluations = number_of_evaluations(config.evaluate, length)
        logs = REPORT_BYTES + length.steps // config.log.every_steps * LOG_ROW_BYTES + evaluations * EVALUATION_BYTES
        needs = {f"at most {use.count} checkpoints": use.bytes, "logs and pictures": logs}
        self.figures["disk"] = {"checkpoints": use.count, "bytes": use.bytes + logs}
        with suppress(OSError):
            self.findings += disk_findings(folder, needs, review.disk)

    def duration(
        self,
        config: RunConfig,
        problem: Problem,
        training: Training,
        trials: Sequence[Trial],
        prediction: Trial | None,
    ) -> None:
        """How long the whole run takes if all steps are like those that were tried."""
        import psutil

        from sightline.api.preflight_needs import busy, line_through, long_duration, number_of_evaluations
        from sightline.api.summary import samples_of
        from sightline.engine.limited_loader import limited

        assert problem.train_loader is not None
        length = training.plan.length
        wanted = self.of_one_process(problem)
        step, _ = line_through([(trial.samples, trial.seconds) for trial in trials], wanted)
        seconds = step * length.iterations
        text = f"{counted(length.epochs, 'epoch')}, {length.iterations:,} batches of {step:.3g} s"
        text += "" if trials[-1].samples == wanted else f" (estimated from batches of {trials[-1].samples})"
        if prediction is not None and problem.eval_loader is not None:
            loader = limited(problem.eval_loader, config.limit_batches)
            each = samples_of(loader) * prediction.seconds / prediction.samples / self.devices
            count = number_of_evaluations(config.evaluate, length)
            seconds += count * each
            text += f"; {counted(count, 'evaluation')} of {each:.3g} s"
        text += busy(psutil.getloadavg()[0], psutil.cpu_count() or 1)
        self.figures |= {"step_seconds": step, "run_seconds": seconds, "steps": length.steps, "epochs": length.epochs}
        self.find("duration", "ok", f"about {long_duration(seconds)}: {text}")


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def near_recipe(target: str) -> str:
    """``" Did you mean 'yolov7-tiny'?"``, or an empty text when no recipe has such a name."""
    from sightline.recipes import RECIPES

    return did_you_mean(target, RECIPES)


def names_a_run(target: str) -> bool:
    """Whether what a user typed is a recipe or a change file, and not a path of data. A path that exists is a path."""
    path = Path(target).expanduser()
    if not path.exists():
        from sightline.recipes import RECIPES

        return target in RECIPES
    if not path.is_file() or path.suffix.lower() not in (".yaml", ".yml"):
        return False
    from sightline.config.safe_yaml import YamlError, read_yaml_document

    try:
        document = read_yaml_document(path, what="file")
    except (UserError, YamlError):
        return False
    return isinstance(document.value, dict) and isinstance(document.value.get("recipe"), str)
