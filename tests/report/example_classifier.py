"""A run folder as the training of an image classifier leaves it, drawn from a seed."""

import json
from pathlib import Path

import numpy as np

from tests.report.example_run import picture, run_record

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PICTURES = ("eval_000.jpg", "train_batch_0.jpg")


def write_classifier(folder: Path, *, names=NAMES, seed=0, lr=0.1, picture_names=PICTURES, best="top1") -> Path:
    """Write every file that a report can show."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"recipe: resnet18\nlr: {lr}\nevaluate:\n  best: {{metric: {best}}}\n")
    (folder / "run.json").write_text(json.dumps(run_record() | {"recipe": "resnet18"}))
    (folder / "status.json").write_text(
        json.dumps({"state": "done", "step": 900, "total_steps": 900, "epoch": 9, "total_epochs": 9, "unit": "images"})
    )
    details = class_details(names, random)
    write_logs(folder, details["figures"], random)
    (folder / "evaluation.json").write_text(json.dumps({"step": 900, "epoch": 8, "split": "val", **details}))
    (folder / "data.json").write_text(json.dumps(class_facts(names, random)))
    (folder / "pictures").mkdir()
    for name in picture_names:
        picture(random).save(folder / "pictures" / name, format="JPEG")
    return folder


def write_logs(folder, last, random):
    """Logs whose last evaluation has the figures given."""
    with (folder / "metrics.jsonl").open("w") as metrics, (folder / "timing.jsonl").open("w") as timing:
        for step in range(10, 901, 10):
            left = np.exp(-step / 250)
            loss, top1 = 2.3 * (0.15 + left) * random.normal(1, 0.04), 0.8 * (1 - left) + random.normal(0, 0.01)
            values = {"loss/cross_entropy": loss, "top1": top1, "loss": loss, "lr/decay": 0.1 * (1 - step / 901)}
            row = {"step": step, "epoch": (step - 1) // 100, "kind": "train"}
            metrics.write(json.dumps({**row, "values": values}) + "\n")
            timing.write(json.dumps({**row, "values": {"samples_per_second": random.normal(900, 40)}}) + "\n")
            if step % 100 == 0:
                share = (1 - left) / (1 - np.exp(-900 / 250))
                figures = {name: value * share for name, value in last.items()}
                figures |= {"nll": last["nll"] / share, "ece": last["ece"] * (1.5 - 0.5 * share)}
                metrics.write(json.dumps({**row, "kind": "eval", "values": figures}) + "\n")


def class_details(names, random, *, per_class=40):
    """``evaluation.json`` of answers that are drawn: every class is taken for its neighbour at times."""
    count = len(names)
    true = np.repeat(np.arange(count), per_class)
    logits = random.normal(0, 1, (len(true), count))
    logits[np.arange(len(true)), true] += random.uniform(2, 5, count)[true]
    logits[np.arange(len(true)), (true + 1) % count] += 1.5
    probs = np.exp(2 * logits)
    probs /= probs.sum(axis=1, keepdims=True)
    predicted, confidence = probs.argmax(axis=1), probs.max(axis=1)
    in_five = (np.argsort(-probs, axis=1)[:, :5] == true[:, None]).any(axis=1)
    counts = np.zeros((count, count), dtype=int)
    np.add.at(counts, (predicted, true), 1)
    accuracy = counts.diagonal() / per_class
    precision = [counts[k, k] / counts[k].sum() if counts[k].sum() else None for k in range(count)]
    reliability = reliability_of(confidence, predicted == true)
    columns = (reliability[name] for name in ("confidence", "accuracy", "counts"))
    gaps = [(said - was) * images for said, was, images in zip(*columns, strict=True) if images]
    figures = {
        "top1": accuracy.mean(),
        "top5": in_five.mean(),
        "nll": -np.log(probs[np.arange(len(true)), true]).mean(),
        "ece": np.abs(gaps).sum() / len(true),
        "balanced_accuracy": accuracy.mean(),
    }
    classes = [
        {
            "name": names[k],
            "num_images": per_class,
            "accuracy": accuracy[k],
            "precision": precision[k],
            "f1": 2 * counts[k, k] / (counts[k].sum() + per_class),
            "top5": in_five[true == k].mean(),
        }
        for k in range(count)
    ]
    return {
        "figures": {name: float(value) for name, value in figures.items()},
        "class_names": list(names),
        "classes": classes,
        "confusion": {"counts": counts.tolist()},
        "reliability": reliability,
    }


def reliability_of(confidence, is_right, *, bins=15):
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.digitize(confidence, edges) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)

    def means(values):
        return [values[places == place].mean() if counts[place] else None for place in range(bins)]

    return {
        "edges": edges.tolist(),
        "confidence": means(confidence),
        "accuracy": means(is_right.astype(float)),
        "counts": counts.tolist(),
    }


def class_facts(names, random):
    """``data.json``."""

    def split(source, mean):
        counts = random.poisson(mean, len(names))
        return {
            "source": source,
            "num_images": int(counts.sum()),
            "class_counts": counts.tolist(),
            "content_key": "0" * 16,
        }

    fault = {"split": "train", "kind": "truncated_image", "place": "cat/7.jpg", "message": "ends early", "fatal": True}
    splits = {"train": split("animals/train", 200), "val": split("animals/val", 40)}
    return {"class_names": list(names), "splits": splits, "faults": [fault]}
