import base64
import hashlib
import json
import re

import pytest
import yaml
from PIL import Image

from sightline.config.errors import RunError
from sightline.engine.checkpoint.retention import BestBy
from sightline.engine.evaluation import EvaluateConfig
from sightline.report.history import read_run
from sightline.report.page import build_report, figure, moment
from sightline.report.pictures import WIDEST
from tests.report.example_run import write_run
from tests.report.page_reader import HOSTILE, page_of, replace_json


def test_a_whole_run_shows_everything(tmp_path):
    page = page_of(write_run(tmp_path / "tiny" / "7"))
    for text in ("tiny/7", "Training", "Losses", "Learning rate", "Precision over recall", "Confusion", "pedestrian"):
        assert text in page.text, text
    for text in (
        "momentum: 0.9",
        "labels/12.txt:3",
        "torch 2.8.0",
        "sightline train yolov7-tiny --data city",
        "5m 21s",
    ):
        assert text in page.text, text
    assert "Notes" not in page.text
    # 6 histories, 4 curves, 2 confusion matrices, 2 pictures, 4 label plots.
    assert page.tags["img"] == 18
    assert page.tags["section"] == 10


def test_the_page_stands_alone_and_forbids_scripts(tmp_path):
    page = page_of(write_run(tmp_path / "run"))
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == 0
    assert all(value.startswith("data:image/") for value in page.values("src"))
    assert all(value.startswith("#") for value in page.values("href"))
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name == "style"]
    policy = next(value for value in page.values("content") if "default-src" in value)
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    style = re.search(r"<style>(.*?)</style>", page.source, re.DOTALL).group(1)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy


def test_links_of_the_page_lead_somewhere(quick, tmp_path):
    page = page_of(write_run(tmp_path / "run"))
    assert {value.removeprefix("#") for value in page.values("href")} <= set(page.values("id"))


def test_html_in_names_and_texts_stays_text(tmp_path):
    plain = page_of(write_run(tmp_path / "plain"))
    # No slash can stand in a file name.
    picture = HOSTILE.replace("/", "|") + ".jpg"
    run = write_run(
        tmp_path / "<b>run", names=(HOSTILE, "$x$", "_", "\u202etxt", "car"), picture_names=(picture, "train<i>.jpg")
    )
    (run / "config.yaml").write_text(f"recipe: '{HOSTILE}'\n")
    record = json.loads((run / "run.json").read_text())
    record["recipe"] = HOSTILE
    record["sessions"][0] |= {
        "command": ["sightline", HOSTILE],
        "versions": {HOSTILE: HOSTILE},
        "environment": {"A": HOSTILE},
        "started": HOSTILE,
        "devices": [HOSTILE],
    }
    (run / "run.json").write_text(json.dumps(record))
    replace_json(run / "status.json", message=HOSTILE, state=HOSTILE)
    fault = {"split": HOSTILE, "kind": HOSTILE, "place": HOSTILE, "message": HOSTILE}
    replace_json(run / "data.json", faults=[fault, fault])
    (run / "pictures" / "captions.json").write_text(json.dumps({"train<i>.jpg": HOSTILE}))
    with (run / "metrics.jsonl").open("a") as log:
        log.write(json.dumps({"step": 1300, "epoch": 12, "kind": "eval", "values": {f"AP {HOSTILE}": 0.5}}) + "\n")

    page = page_of(run)
    assert page.tags["script"] == 0
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert set(page.tags) <= set(plain.tags)
    assert page.tags["b"] == page.tags["i"] == 0
    assert all(value.startswith("data:image/") for value in page.values("src"))
    assert page.text.count("<script>alert(1)</script>") >= 10
    assert "{{ 7*7 }}" in page.text


def test_what_is_missing_is_left_out(quick, tmp_path):
    run = write_run(tmp_path / "run")
    for name in ("evaluation.json", "data.json", "status.json", "timing.jsonl", "run.json"):
        (run / name).unlink()
    for picture in (run / "pictures").iterdir():
        picture.unlink()
    page = page_of(run)
    assert "Losses" in page.text
    assert "Confusion" not in page.text
    assert "Notes" not in page.text


def test_a_run_that_has_only_begun_has_a_page(quick, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("lr: 0.1\n")
    assert "lr: 0.1" in page_of(run).text


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("evaluation.json", "{", "it is no JSON"),
        ("evaluation.json", '{"classes": [{"name": 3}]}', "classes.0.name"),
        ("evaluation.json", "[" * 100_000, "it is no JSON"),
        ("run.json", '{"sessions": 3}', "sessions"),
        ("data.json", "[]", "the file"),
        ("status.json", "null", "the file"),
        ("metrics.jsonl", '{"step": 1}\nnonsense\n{"step": 2, "values": {"loss": 1}}\n', "2 lines are no rows"),
    ],
)
def test_a_broken_file_is_named_and_passed_over(quick, tmp_path, name, content, note):
    run = write_run(tmp_path / "run")
    (run / name).write_text(content)
    page = page_of(run)
    assert note in page.text
    assert name in page.text


def test_curves_of_the_wrong_length_are_named_and_passed_over(tmp_path):
    run = write_run(tmp_path / "run")
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["curves"]["mean_f1"] = [0.5]
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    assert "F1 over confidence, IoU 0.5: not drawn" in page_of(run).text


def test_a_half_line_and_numbers_that_are_not_finite_are_no_faults(quick, tmp_path):
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 1210, "epoch": 12, "kind": "train", "values": {"loss": "NaN", "loss/box": "Infinity"}}\n')
        log.write('{"step": 1220, "epoch"')
    page = page_of(run)
    assert "Notes" not in page.text
    assert "nan" in page.text  # the last training loss


def test_files_that_are_no_pictures_are_named(quick, tmp_path):
    run = write_run(tmp_path / "run")
    (run / "pictures" / "val_1.jpg").write_text("<svg onload=alert(1)>")
    (run / "pictures" / "val_2.png").mkdir()
    page = page_of(run)
    assert "pictures/val_1.jpg: left out" in page.text
    assert "pictures/val_2.png: left out, is a folder" in page.text
    assert page.tags["svg"] == 0


def test_large_pictures_are_made_smaller(quick, tmp_path):
    run = write_run(tmp_path / "run", picture_names=())
    Image.new("RGB", (3 * WIDEST, 30)).save(run / "pictures" / "val_0.png")
    page = page_of(run)
    address = next(value for value in page.values("src") if value.startswith("data:image/jpeg"))
    content = base64.b64decode(address.partition(",")[2])
    (tmp_path / "small.jpg").write_bytes(content)
    assert Image.open(tmp_path / "small.jpg").size == (WIDEST, 10)


def test_pictures_stand_in_the_order_of_their_numbers(quick, tmp_path):
    run = write_run(tmp_path / "run", picture_names=("val_10.jpg", "val_9.jpg", "train_batch_0.jpg"))
    captions = re.findall(r"<figcaption>(val_\d+|train_\w+)</figcaption>", page_of(run).source)
    assert captions == ["val_9", "val_10", "train_batch_0"]


def test_of_more_pictures_than_fit_the_first_are_shown(quick, tmp_path):
    run = write_run(tmp_path / "run", picture_names=[f"val_{i}.jpg" for i in range(30)])
    page = page_of(run)
    assert "the first 24 of 30 pictures" in page.text
    assert "val_24" not in page.text


def test_half_characters_do_not_stop_the_page(quick, tmp_path):
    run = write_run(tmp_path / "run")
    replace_json(run / "status.json", message="\ud800 broken")
    assert "broken" in page_of(run).text


def test_a_report_again_replaces_the_first(quick, tmp_path):
    run = write_run(tmp_path / "run")
    first = build_report(run)
    assert build_report(run) == first
    assert [path.name for path in first.parent.iterdir()] == ["index.html"]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="no such folder"):
        build_report(tmp_path / "nowhere")
    with pytest.raises(RunError, match="holds no run"):
        build_report(tmp_path)


def test_a_page_that_cannot_be_written_is_a_mistake_of_the_user(quick, tmp_path):
    run = write_run(tmp_path / "run")
    (run / "report").write_text("in the way")
    with pytest.raises(RunError, match="cannot be written"):
        build_report(run)


def evaluating(**best):
    """The part of a run's config.yaml that says what best means, as the engine writes it."""
    return yaml.safe_dump(
        {"evaluate": EvaluateConfig(best=BestBy(**best), loss=best.get("metric") == "loss").model_dump()}
    )


@pytest.mark.parametrize(
    ("config", "best_step"),
    [
        ("", 100),
        ("a: [", 100),
        (evaluating(), 100),
        (evaluating(ties="latest"), 250),
        (evaluating(metric="AP", direction="min"), 200),
        (evaluating(metric="loss"), 200),
        (evaluating(metric="loss", direction="max"), 100),
    ],
)
def test_the_best_evaluation_is_the_one_that_the_configuration_asks_for(tmp_path, config, best_step):
    (tmp_path / "config.yaml").write_text(config)
    rows = [
        (100, {"AP": 0.5, "loss": 2.0}),
        (200, {"AP": 0.4, "loss": 1.0}),
        (250, {"AP": 0.5, "loss": 1.5}),
        (300, {"AP": "NaN", "loss": None}),
    ]
    lines = [json.dumps({"step": step, "epoch": 0, "kind": "eval", "values": values}) for step, values in rows]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert read_run(tmp_path).best_row.step == best_step


@pytest.mark.parametrize(
    ("config", "best_step", "main_figure"),
    [
        (evaluating(), 200, "AP"),
        (evaluating(metric="loss"), 200, "loss"),
    ],
)
def test_passes_that_measure_losses_alone_are_no_evaluations(tmp_path, config, best_step, main_figure):
    (tmp_path / "config.yaml").write_text(config)
    rows = [
        (100, {"loss": 2.0, "loss/box": 2.0}),
        (200, {"AP": 0.5, "loss": 1.5}),
        (300, {"loss": 1.0, "loss/box": 1.0}),
    ]
    lines = [json.dumps({"step": step, "epoch": 0, "kind": "eval", "values": values}) for step, values in rows]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    run = read_run(tmp_path)
    assert run.best_row.step == best_step
    assert run.main_figure == main_figure
    assert run.last_figures == {"AP": 0.5, "loss": 1.5}


def test_figures_and_moments_are_written_for_people():
    assert [figure(value) for value in (None, 0.12345, 1234.56)] == ["–", "0.123", "1,234.6"]
    assert moment("2026-03-02T10:00:00+00:00") == "2026-03-02 10:00"
    assert moment("soon") == "soon"
