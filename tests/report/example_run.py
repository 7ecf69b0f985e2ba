"""A run folder as training leaves it, drawn from a seed, with figures that our own metric computed."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from sightline.metrics.box_details import box_details
from sightline.metrics.coco_ap import CocoAP, ScoredBoxes, TruthBoxes
from sightline.metrics.confusion_matrix import ConfusionMatrix
from sightline.metrics.detection_curves import detection_curves

NAMES = ("car", "truck", "pedestrian", "cyclist", "cone")


def write_run(folder: Path, *, names=NAMES, seed=0, lr=0.01, picture_names=("val_0.jpg", "train_batch_0.jpg")) -> Path:
    """Write every file that a report can show."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"recipe: yolov7-tiny\nepochs: 12\nlr: {lr}\noptimizer:\n  name: sgd\n  momentum: 0.9\n"
    )
    (folder / "run.json").write_text(json.dumps(run_record()))
    (folder / "status.json").write_text(
        json.dumps({"state": "done", "step": 1200, "total_steps": 1200, "epoch": 12, "total_epochs": 12})
    )
    write_logs(folder, random)
    details = evaluation(names, random)
    (folder / "evaluation.json").write_text(json.dumps({"step": 1200, "epoch": 11, "split": "val", **details}))
    (folder / "data.json").write_text(json.dumps(data_facts(names, random)))
    (folder / "pictures").mkdir()
    for name in picture_names:
        picture(random).save(folder / "pictures" / name, format="JPEG")
    return folder


def run_record():
    session = {
        "command": ["sightline", "train", "yolov7-tiny", "--data", "city"],
        "started": "2026-03-02T10:00:00+00:00",
        "ended": "2026-03-02T10:05:21+00:00",
        "outcome": "done",
        "exit_code": 0,
        "from_step": 0,
        "versions": {"python": "3.11.7", "torch": "2.8.0"},
        "machine": {"system": "Linux", "cpus": 2},
        "devices": ["cpu"],
        "environment": {"OMP_NUM_THREADS": "1"},
        "code_commit": "0" * 40,
    }
    return {"version": 1, "recipe": "yolov7-tiny", "sessions": [session]}


def write_logs(folder, random):
    steps = np.arange(10, 1201, 10)
    with (folder / "metrics.jsonl").open("w") as metrics, (folder / "timing.jsonl").open("w") as timing:
        for step in steps:
            parts = {"box": 0.08, "objectness": 0.05, "class": 0.03}
            losses = {f"loss/{k}": v * (0.2 + np.exp(-step / 300)) * random.normal(1, 0.06) for k, v in parts.items()}
            rates = {f"lr/{k}": 0.01 * min(1, step / 100) * (0.55 + 0.45 * np.cos(step / 390)) for k in ("weights",)}
            values = {"loss": sum(losses.values()), **losses, **rates, "grad_norm": random.gamma(9, 0.5)}
            row = {"step": int(step), "epoch": int((step - 1) // 100), "kind": "train"}
            metrics.write(json.dumps({**row, "values": values}) + "\n")
            timing.write(json.dumps({**row, "values": {"samples_per_second": random.normal(40, 2)}}) + "\n")
            if step % 100 == 0:
                ap = 0.6 * (1 - np.exp(-step / 500)) + random.normal(0, 0.01)
                figures = {"AP": ap, "AP50": min(1, 1.45 * ap), "AP75": 0.9 * ap, "AR_100": 1.1 * ap}
                figures |= {"AP_small": 0.6 * ap, "AP_medium": ap, "AP_large": -1.0}
                metrics.write(json.dumps({**row, "kind": "eval", "values": figures}) + "\n")


def evaluation(names, random):
    count, images, num_classes = 300, 40, len(names)
    truth_boxes = np.concatenate((random.uniform(0, 500, (count, 2)), random.uniform(15, 140, (count, 2))), axis=1)
    labels = random.integers(0, num_classes, count)
    image_ids = random.integers(0, images, count)
    found = np.concatenate((truth_boxes, truth_boxes[: count // 2]))
    found += random.normal(0, 6, found.shape)
    found[count:, :2] += random.normal(0, 90, (count // 2, 2))
    found_labels = np.concatenate((labels, labels[: count // 2]))
    wrong = random.random(len(found)) < 0.15
    found_labels[wrong] = random.integers(0, num_classes, wrong.sum())
    scores = np.concatenate((random.beta(5, 2, count), random.beta(2, 5, count // 2)))
    truths = TruthBoxes(image_ids, truth_boxes, labels)
    detections = ScoredBoxes(np.concatenate((image_ids, image_ids[: count // 2])), found, scores, found_labels)
    metric, matrix = CocoAP(num_classes), ConfusionMatrix(num_classes)
    metric.update(np.arange(images), truths, detections)
    matrix.update(truths, detections)
    result = metric.evaluate()
    return box_details(result, detection_curves(result), matrix, names)


def data_facts(names, random):
    def split(images):
        counts = random.poisson(4, images)
        x = random.beta(2, 2, (2, counts.sum()))
        return {
            "source": "city/data.yaml",
            "num_images": images,
            "num_boxes": int(counts.sum()),
            "num_empty_images": int((counts == 0).sum()),
            "num_crowds": 0,
            "class_counts": random.multinomial(counts.sum(), random.dirichlet(np.ones(len(names)))).tolist(),
            "boxes_per_image": np.bincount(counts, minlength=51).tolist(),
            "centers": np.histogram2d(x[0], x[1], bins=32, range=[[0, 1]] * 2)[0].astype(int).tolist(),
            "sizes": np.histogram2d(x[0] ** 3, x[1] ** 3, bins=32, range=[[0, 1]] * 2)[0].astype(int).tolist(),
        }

    faults = [
        {"split": "train", "kind": "degenerate_box", "place": "labels/12.txt:3", "message": "width 0; box dropped"},
        {"split": "train", "kind": "truncated_image", "place": "images/7.jpg", "message": "ends early", "fatal": True},
    ]
    return {"class_names": list(names), "splits": {"train": split(160), "val": split(40)}, "faults": faults}


def picture(random):
    image = Image.new("RGB", (480, 320), tuple(random.integers(60, 200, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = random.integers(0, 400), random.integers(0, 260)
        draw.rectangle((x, y, x + 60, y + 45), outline=(255, 255, 255), fill=tuple(random.integers(0, 255, 3).tolist()))
    return image
