"""One mosaic training sample at 640 with exact HSV, beside the peer's ``dataset[i]``.

    python -m benchmarks mosaic-sample [--data FOLDER]

FOLDER holds ``data.yaml``, ``images/train`` and ``labels/train`` (YOLO); without it, pictures are drawn. The recipe is
the peer's default: four tiles, scale 0.5 to 1.5, shift 0.1, HSV 0.015 / 0.7 / 0.4, left-right flip; from JPEG files, in
one thread. Both sides have a process of their own, since we tell the allocator to keep memory, which helps whoever
shares the process; the rows still take turns.

Rows. ``ours``: every image is decoded once per epoch, partners come from the neighbourhood, as the peer's come from
its buffer of recent images. ``ours_uniform``: partners from the whole of a data set that does not fit into memory, so
four images are decoded. ``ours_in_memory``: the data set fits. ``ours_colour_on_device``: as ``ours`` without HSV.
Without the peer the script says so and ends with code 2.
"""

import argparse
import importlib.util
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("YOLO_OFFLINE", "true")

import cv2
import numpy as np

from benchmarks.timing import Samples, emit, ratios

Row = Callable[[], object]
WINDOW = 64
KEPT = 2 * WINDOW  # images in memory: those that are looked back to, and those that they looked back to


def draw_pictures(folder: Path, count: int) -> None:
    """A YOLO data set of ``count`` JPEG pictures of 640x480 with eight boxes each."""
    random = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    for i in range(count):
        coarse = random.integers(30, 226, (15, 20, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
        image = cv2.add(image, random.integers(0, 20, image.shape, dtype=np.uint8))
        cv2.imwrite(str(folder / "images" / "train" / f"{i:04}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        boxes = np.concatenate((random.uniform(0.2, 0.8, (8, 2)), random.uniform(0.05, 0.3, (8, 2))), axis=1)
        lines = [f"{i % 3} " + " ".join(f"{value:.6f}" for value in box) for i, box in enumerate(boxes)]
        (folder / "labels" / "train" / f"{i:04}.txt").write_text("\n".join(lines) + "\n")
    names = "\n".join(f"  {i}: {name}" for i, name in enumerate("abc"))
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images/train\nval: images/train\nnames:\n{names}\n")


def peer_rows(folder: Path, side: int) -> dict[str, Row]:
    """The peer's samples from files and from memory, one per call."""
    from ultralytics.cfg import get_cfg
    from ultralytics.data.build import build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    info = check_det_dataset(str(folder / "data.yaml"), autodownload=False)

    def samples(cache: Any) -> Row:
        settings = get_cfg(overrides={"task": "detect", "imgsz": side, "mosaic": 1.0, "cache": cache})
        dataset = build_yolo_dataset(settings, info["train"], 8, info, mode="train", rect=False, stride=32)
        order = np.random.default_rng(0).permutation(len(dataset)).tolist()
        return repeat(lambda place: dataset[order[place % len(order)]], warm_up=KEPT)

    return {"peer": samples(False), "peer_in_memory": samples("ram")}


def our_rows(folder: Path, side: int) -> dict[str, Row]:
    """Our samples in the order of training, one per call, written to the planes of a slab."""
    from sightline.data.formats import open_dataset
    from sightline.data.image_source import ImageTrainSource
    from sightline.data.transforms.augment import ImageAugmentConfig

    uniform = ImageAugmentConfig(
        mosaic=1, scale=(0.5, 1.5), translate=0.1, hsv_h=0.015, hsv_s=0.7, hsv_v=0.4, flip_lr=0.5, partner_window=WINDOW
    )
    nearby = uniform.but(partners="nearby")
    small = open_dataset(folder).read("train")
    # The same files again and again, as different samples: a data set that the memory does not hold.
    large = small.select(list(range(len(small))) * -(-20 * KEPT // len(small)))
    memory = KEPT * 3 * side * side
    sources = {
        "ours": ImageTrainSource(large, side, nearby, recent_bytes=memory),
        "ours_uniform": ImageTrainSource(large, side, uniform, recent_bytes=memory),
        "ours_in_memory": ImageTrainSource(small, side, uniform, cache="ram"),
        "ours_colour_on_device": ImageTrainSource(
            large, side, nearby.but(hsv_h=0, hsv_s=0, hsv_v=0), recent_bytes=memory
        ),
    }
    planes = np.empty((3, side, side), np.uint8)

    def samples(source: ImageTrainSource) -> Row:
        source.prepare_worker()
        sampler = source.sampler(16)

        def sample(place: int) -> object:
            epoch, i = divmod(place, len(source))
            return source.write(epoch, int(sampler.epoch_order(epoch)[i]), planes)

        return repeat(sample, warm_up=min(2 * len(source), 2 * KEPT))

    return {name: samples(source) for name, source in sources.items()}


def repeat(sample: Callable[[int], object], warm_up: int) -> Row:
    """A function that makes the next sample, after the first ``warm_up``."""
    place = -1

    def one() -> object:
        nonlocal place
        place += 1
        return sample(place)

    for _ in range(warm_up):
        one()
    return one


def serve(pipe: Any, make_rows: Callable[[Path, int], dict[str, Row]], folder: Path, side: int, count: int) -> None:
    """A side's process: names its rows, then answers a name with (wall, CPU) seconds per sample."""
    nothing = os.open(os.devnull, os.O_WRONLY)  # the peer talks
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    cv2.setNumThreads(0)
    rows = make_rows(folder, side)
    pipe.send(list(rows))
    while (name := pipe.recv()) is not None:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            rows[name]()
        pipe.send(((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count))


def measure(folder: Path, side: int, count: int, rounds: int) -> Samples:
    """All rows of both sides, in an order that rotates from round to round."""
    context = multiprocessing.get_context("spawn")
    pipes, rows = [], {}
    for make_rows in (peer_rows, our_rows):
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, make_rows, folder, side, count), daemon=True).start()
        theirs.close()
        pipes.append(ours)
        rows.update(dict.fromkeys(ours.recv(), ours))
    samples: Samples = {name: [] for name in rows}
    names = list(rows)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            rows[name].send(name)
            samples[name].append(rows[name].recv())
    for pipe in pipes:
        pipe.send(None)
    return samples


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks mosaic-sample", description=__doc__)
    parser.add_argument("--data", type=Path, help="YOLO folder with data.yaml; default: drawn pictures")
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--samples", type=int, default=64, help="per round and row")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("ultralytics") is None:
        print("mosaic-sample: the peer, ultralytics, is not installed. Run: make bench-peers", file=sys.stderr)
        raise SystemExit(2)
    from importlib.metadata import version

    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault("YOLO_CONFIG_DIR", scratch)
        folder = options.data
        if folder is None:
            folder = Path(scratch) / "pictures"
            draw_pictures(folder, 205)
        table = ratios(measure(folder, options.image_size, options.samples, options.rounds), base="peer")
    emit(
        "mosaic_sample",
        figure=table["ours"]["cpu"],
        unit="of the peer's CPU time",
        peer=f"ultralytics {version('ultralytics')}",
        goal="<= 0.60",
        rounds=options.rounds,
        image_size=options.image_size,
        data="drawn" if options.data is None else options.data.name,
        rows=table,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
