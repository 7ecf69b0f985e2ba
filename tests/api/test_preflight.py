"""A preflight: what it finds, what it leaves alone, and that it finds everything at once."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

from sightline import api
from sightline.api.preflight import PreflightReport
from sightline.api.preflight_needs import MemoryNeed, busy, line_through, long_duration, number_of_evaluations
from sightline.engine import memory
from sightline.engine.evaluation import EvaluateConfig
from sightline.engine.finding import Finding
from sightline.engine.schedule import RunLength
from tests.cli.tool import RECIPE, TINY, files_in, sightline, write_city
from tests.data import zoo
from tests.disks import small_disk
from tests.engine.toy import ToyRun, ToyTask, toy_run


def of(report, topic, weight=None):
    """Texts and cures about a topic."""
    found = [one for one in report.findings if one.topic == topic and (weight is None or one.weight == weight)]
    return [f"{one.text} -> {one.cure}" for one in found]


def problems(report):
    return {one.topic for one in report.findings if one.weight == "problem"}


@pytest.fixture
def city(workplace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(workplace / "city", tmp_path / "city")


def check(city, *changes, **options):
    given = dict(change.split("=", 1) for change in (*TINY, *changes))
    return api.preflight(RECIPE, data=city, changes=[f"{key}={value}" for key, value in given.items()], **options)


# a task that has nothing to do with pictures


def test_any_task_is_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = api.preflight(toy_run(batch_size=6))
    assert report.can_start, report.lines()
    assert of(report, "shapes") == [
        "a training batch: x (6, 4) float32, y (6) int64 -> ",
        "an evaluation batch: x (4, 4) float32, y (4) int64 -> ",
    ]
    assert "all losses finite (entropy" in of(report, "step")[0]
    assert "accuracy" in of(report, "prediction")[0]
    assert report.figures["epochs"] == 4
    assert report.figures["steps"] == 16  # 22 samples in batches of 6 are 4 steps an epoch
    assert report.figures["run_seconds"] >= 16 * report.figures["step_seconds"]
    assert list(tmp_path.iterdir()) == []


def test_of_several_processes_one_is_tried_with_its_share_of_the_batch():
    report = api.preflight(toy_run(batch_size=7, devices=2))
    assert "x (4, 4) float32" in of(report, "shapes")[0]
    assert "one of 2 processes" in of(report, "device", "note")[0]
    assert "a step with 8 samples" in of(report, "memory")[0]
    assert report.figures["steps"] == 16  # those of the whole batch


def test_a_loss_that_is_not_finite_is_a_problem(monkeypatch):
    monkeypatch.setattr(ToyTask, "forward", lambda self, batch: {"entropy": self.net(batch.x).sum() * float("nan")})
    report = api.preflight(toy_run())
    assert "step" in problems(report)
    assert "entropy became NaN or infinite at step 0" in of(report, "step")[0]
    assert "accuracy" in of(report, "prediction")[0]  # the others go on


def test_what_a_model_raises_is_a_problem_with_its_place(monkeypatch):
    def forward(self, batch):
        raise KeyError("lost")

    monkeypatch.setattr(ToyTask, "forward", forward)
    (said,) = of(api.preflight(toy_run()), "step", "problem")
    assert said.startswith("KeyError: 'lost' (")
    assert "test_preflight.py:" in said


def test_memory_that_runs_out_is_a_problem_with_a_cure(monkeypatch):
    def forward(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")

    monkeypatch.setattr(ToyTask, "forward", forward)
    assert of(api.preflight(toy_run()), "step", "problem") == [
        "out of memory: CUDA out of memory. Tried to allocate 1 TiB -> a smaller batch_size"
    ]


def test_a_figure_that_the_evaluation_does_not_have_is_found_before_the_run():
    report = api.preflight(toy_run(evaluate={"best": {"metric": "accurate"}}))
    assert of(report, "best", "problem") == [
        "evaluate.best.metric=accurate: the evaluation has no such figure. Did you mean 'accuracy'? There are: "
        "accuracy. -> "
    ]


def test_a_loss_that_the_task_does_not_give_is_found_before_the_run():
    report = api.preflight(toy_run(evaluate={"loss": True, "best": {"metric": "loss/entrpy"}}))
    assert of(report, "best", "problem") == [
        "evaluate.best.metric=loss/entrpy: the evaluation has no such figure. Did you mean 'loss/entropy'? There are: "
        "loss, loss/entropy, loss/size. -> "
    ]
    assert api.preflight(toy_run(evaluate={"loss": True, "best": {"metric": "loss/entropy"}})).can_start


def test_weights_that_are_not_there_are_a_problem(tmp_path):
    assert problems(api.preflight(toy_run(weights=tmp_path / "gone"))) == {"weights"}


class WideRun(ToyRun):
    """A step of it takes 16 MB for every sample."""

    def open(self, *, training=True):
        problem = super().open(training=training)
        problem.task.net = nn.Sequential(nn.Linear(4, 1 << 21), nn.ReLU(), nn.Linear(1 << 21, 2))
        return problem


def test_a_batch_that_would_not_fit_is_not_tried_and_the_largest_that_fits_is_named(monkeypatch):
    # Weights, gradients, momentum and average: 2^21 * 7 numbers, 4 times, 235 MB. Free: 1.5 GB beside this process.
    own = memory.resident_bytes()
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 1_500_000_000 + own - memory.resident_bytes())
    tried, forward = [], ToyTask.forward

    def noted(task, batch):
        tried.append(len(batch))
        return forward(task, batch)

    monkeypatch.setattr(ToyTask, "forward", noted)
    report = api.preflight(WideRun(**toy_run(batch_size=1000, data_samples=2000).model_dump()))
    (said,) = of(report, "memory", "problem")
    assert "1000 samples" in said
    assert "(estimated from smaller batches)" in said
    largest = report.figures["memory"]["largest_batch"]
    assert f"batch_size={largest}" in said
    assert 10 < largest < 160  # 8 MB a sample are kept for the backward pass, and 8 to 32 MB come on the way
    assert 0 < max(tried) <= largest


def test_a_limit_of_the_process_counts_as_the_memory_that_is_free():
    code = "import resource\nfrom sightline.engine.memory import free_host_bytes\nbefore = free_host_bytes()\n"
    code += "resource.setrlimit(resource.RLIMIT_AS, (1 << 50, -1))\nassert free_host_bytes() <= before\n"
    code += "import psutil\nused = psutil.Process().memory_info().vms\n"
    code += "resource.setrlimit(resource.RLIMIT_AS, (used + 10**8, -1))\nassert 0 < free_host_bytes() <= 10**8\n"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_memory_of_a_batch_lies_on_a_line():
    assert line_through([(2, 10.0), (4, 14.0)], 10) == (26.0, 2.0)
    assert line_through([(2, 10.0), (4, 9.0)], 10) == (9.0, 0.0)  # it never falls
    assert line_through([(2, 10.0), (4, 9.0)], 10, least_slope=3.0) == (27.0, 3.0)
    assert line_through([(8, 4.0)], 8) == (4.0, 0.5)


def need(**changes):
    values = {"place": "memory", "batch_size": 10, "at_batch_size": 1000, "per_sample": 50.0}
    values |= {"others": {"data.cache=ram": 300}, "free": 2000, "measured": True}
    return MemoryNeed(**(values | changes))


def test_memory_is_well_tight_or_too_little():
    assert need().finding().weight == "ok"
    assert need(free=1350).finding().weight == "note"
    too_little = need(free=1000).finding()
    assert too_little.weight == "problem"
    assert too_little.cure == "batch_size=4, or data.cache=disk"  # (1000 - 300 - 500) / 50
    assert need(free=500, others={}, per_sample=10.0).finding().cure == "a smaller model or smaller samples"


def test_evaluations_are_counted_as_they_will_come():
    length = RunLength(iterations_per_epoch=5, epochs=12, iterations=60, steps=60)
    assert number_of_evaluations(EvaluateConfig(every_epochs=5, first_epoch=6), length) == 2  # after 10 and the last
    assert number_of_evaluations(EvaluateConfig(every_epochs=4), length) == 3
    assert number_of_evaluations(EvaluateConfig(every_epochs=0, every_steps=25), length) == 3


def test_a_run_of_days_is_told_in_days():
    assert [long_duration(seconds) for seconds in (62, 3723, 864_000)] == ["1:02", "1:02:03", "10.0 days"]


def test_times_of_a_busy_machine_say_so():
    assert busy(2.9, 2) == ""
    assert busy(8.7, 2) == ". This machine is busy (load 8.7 on 2 cores): less when it is not"


# a detector


def test_a_sound_run_can_start_and_nothing_is_written(city, tmp_path):
    before = files_in(tmp_path)
    report = check(city)
    assert report.can_start, report.lines()
    assert files_in(tmp_path) == before
    assert of(report, "images") == ["all 11 images were decoded -> "]
    assert of(report, "labels") == ["train: 8 images, 16 boxes -> ", "val: 3 images, 6 boxes -> "]
    assert "images (4, 3, 64, 64) uint8" in of(report, "shapes")[0]
    assert "at most 3 checkpoints" in of(report, "disk")[0]
    assert "2 epochs, 4 batches" in of(report, "duration")[0]


def test_all_problems_are_told_at_once(city):
    (city / "labels" / "train" / "5.txt").write_text("9 0.5 0.5 0.1 0.1\n")
    (city / "labels" / "val" / "1.txt").write_text("0 0.5 words 0.1 0.1\n")
    (city / "runs").write_text("")
    report = check(
        city, "image_size=70", "optimizer.momentun=0.9", "lr=-1", "evaluate.best.metric=APP", out=city / "runs"
    )
    assert problems(report) == {"configuration", "labels", "shapes", "output", "best"}
    assert len(of(report, "configuration")) == 2
    assert "optimizer.momentum" in of(report, "configuration")[0]
    train, val = of(report, "labels", "problem")
    assert "train: 1 place with class_out_of_range" in train
    assert "5.txt:1: class 9" in train
    assert "sightline check" in train
    assert "data.on_fault=skip" in train
    assert "val: 1 place with bad_number" in val
    assert of(report, "shapes", "problem") == ["image_size=70 is no multiple of the model's stride 32 -> image_size=64"]
    assert of(report, "step")  # the rest was tried with what is sound
    assert report.lines()[-1].startswith("7 problems")


def test_faults_that_the_user_chose_to_skip_are_notes(city):
    (city / "labels" / "train" / "5.txt").write_text("9 0.5 0.5 0.1 0.1\n")
    report = check(city, "data.on_fault=skip")
    assert report.can_start
    assert "class_out_of_range" in of(report, "labels", "note")[0]


def test_an_image_that_is_damaged_behind_its_header_is_found(city):
    image = city / "images" / "train" / "3.png"
    data = bytearray(image.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    image.write_bytes(data)
    assert api.check(city, decode=False).is_usable
    report = check(city, "data.on_fault=skip")
    (said,) = of(report, "images", "problem")
    assert "3.png" in said
    assert of(report, "step", "ok")


def test_a_finding_without_words_is_a_line():
    lines = PreflightReport("r", (Finding("step", "ok", ""), Finding("labels", "note", "one\ntwo"))).lines()
    assert lines[:3] == ["ok        step    ", "note      labels  one", " " * 18 + "two"]


def test_a_split_of_crowds_alone_has_no_box_to_compare_anchors_with(tmp_path):
    folder = zoo.write_coco(tmp_path / "crowds")
    path = folder / "annotations/instances_train2017.json"
    tree = json.loads(path.read_text())
    for one in tree["annotations"]:
        one["iscrowd"] = 1
    path.write_text(json.dumps(tree))
    report = check(folder)
    assert of(report, "anchors", "note") == ["no box has a size to compare anchors with -> "]


def test_objects_too_small_for_any_anchor_are_a_problem_with_two_cures(city):
    for path in (city / "labels" / "train").iterdir():
        path.write_text("0 0.5 0.5 0.02 0.03\n1 0.25 0.25 0.02 0.02\n")  # 1.3 px of 64; the smallest anchor is 10 x 13
    report = check(city)
    (said,) = of(report, "anchors", "problem")
    assert "best possible recall 0.000 of 16 boxes" in said
    # The flattest box is 0.96 px high and the smallest anchor 13: 13 / 4 = 3.25 needs 217 px, the next multiple is 224.
    assert "image_size=224 (recall above 0.98)" in said
    anchors = said.split("'model.anchors_px=")[1].split("'")[0]
    cured = check(city, f"model.anchors_px={anchors}")
    assert of(cured, "anchors", "ok")


def test_classes_without_a_box_are_noted(city):
    for path in (city / "labels" / "train").iterdir():
        path.write_text(path.read_text().splitlines()[0] + "\n")
    report = check(city)
    assert report.can_start
    assert "train: no box of square: this cannot be learned" in of(report, "classes", "note")[0]


def test_data_that_is_not_there_ends_the_look_at_data_alone(city):
    report = check(city / "gone")
    assert problems(report) == {"data"}
    assert "no such file or folder" in of(report, "data")[0]
    assert of(report, "output", "ok")


def test_a_split_that_is_not_there_does_not_hide_the_faults_of_the_others(city):
    (city / "labels" / "train" / "5.txt").write_text("9 0.5 0.5 0.1 0.1\n")
    report = check(city, "data.val_split=vall")
    assert "no split 'vall'" in of(report, "data", "problem")[0]
    assert "class_out_of_range" in of(report, "labels", "problem")[0]
    assert of(report, "step") == ["not tried, since there is no data -> "]


def test_a_device_that_is_not_there_does_not_hide_the_rest(city, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    report = check(city, "device=cuda")
    assert problems(report) == {"device"}
    assert of(report, "step", "ok")


def test_a_cache_in_memory_counts(city):
    # 64 x 48 pixels of 11 images, 3 bytes each: 101,376 bytes
    plain, cached = check(city), check(city, "data.cache=ram")
    assert "data.cache=ram" not in of(plain, "memory")[0]
    assert "data.cache=ram 0 MB" in of(cached, "memory")[0]


def test_a_disk_too_small_for_the_checkpoints_is_found(city, tmp_path):
    with small_disk(tmp_path / "disk", megabytes=4) as disk:
        report = check(city, "checkpoint.keep=[{rule: all}]", out=disk / "run")
        assert list(disk.iterdir()) == []
    assert problems(report) == {"disk"}
    assert "at most 3 checkpoints" in of(report, "disk")[0]
    assert "checkpoint.keep" in of(report, "disk")[0]


# the command


def test_the_command_tells_what_the_function_finds(city, tmp_path):
    outcome = sightline("check", RECIPE, "--data", "city", *TINY, "--json", "found.json", cwd=tmp_path)
    assert outcome.code == 0, outcome.out + outcome.err
    assert outcome.out.splitlines()[-1].startswith("all well after")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["can_start"] is True
    assert {one["weight"] for one in found["findings"]} == {"ok"}
    assert found["figures"]["steps"] == 4


def test_the_command_ends_with_2_at_a_problem(city, tmp_path):
    outcome = sightline("check", RECIPE, "--data", "city", *TINY, "optimizer.momentun=1", cwd=tmp_path)
    assert outcome.code == 2
    assert outcome.out.startswith("problem   configuration  command line: unknown key 'optimizer.momentun'")


def test_a_recipe_whose_name_is_nearly_right_is_named(tmp_path):
    outcome = sightline("check", "yolov7-tny", cwd=tmp_path)
    assert outcome.code == 2
    assert "no such path and no such recipe. Did you mean 'yolov7-tiny'?" in outcome.err


def test_a_path_that_exists_is_data_even_if_a_recipe_has_its_name(tmp_path):
    write_city(tmp_path / RECIPE)
    outcome = sightline("check", RECIPE, cwd=tmp_path)
    assert outcome.code == 0
    assert f"{RECIPE}: yolo, 2 classes" in outcome.out


def test_a_file_of_changes_is_a_run_and_a_data_yaml_is_data(city, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"recipe: {RECIPE}\nimage_size: 65\nbatch_size: 4\ndata: {{path: city}}\n")
    outcome = sightline("check", "mine.yaml", *(change for change in TINY if "size" not in change), cwd=tmp_path)
    assert outcome.code == 2
    assert "image_size=65 is no multiple of the model's stride 32" in outcome.out
    assert not api.names_a_run(str(city / "data.yaml"))
    assert api.names_a_run(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["city", "lr=1"], "KEY=VALUE is for recipes, and city is a path"),
        (["city", "--data", "city"], "--data is for recipes"),
        ([RECIPE, "--copies"], "--copies is for data sets"),
    ],
)
def test_options_that_would_do_nothing_are_refused(city, tmp_path, arguments, part):
    outcome = sightline("check", *arguments, cwd=tmp_path)
    assert outcome.code == 2
    assert part in outcome.err
