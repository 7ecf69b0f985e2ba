"""Where a run computes, with GPUs that this machine need not have."""

import pytest
import torch

from sightline.api.configuration import resolve
from sightline.api.inference import refuse_unused
from sightline.api.launching import launch, must_launch
from sightline.config.errors import ConfigError
from sightline.engine.device import device_name, gpus_of, pick_device
from sightline.engine.distributed import joining
from sightline.engine.distributed.launch import Launch
from sightline.engine.stop import StopRequest
from sightline.recipes import recipe
from tests.engine.toy import toy_run


@pytest.fixture
def gpus(monkeypatch):
    def there_are(count: int, visible: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return there_are


def process(local_rank: int, count: int = 4) -> Launch:
    return Launch(local_rank, count, local_rank, count, "127.0.0.1", 29500)


def test_every_process_has_a_gpu_of_its_own(gpus):
    gpus(4)
    assert pick_device("auto", process(3)) == torch.device("cuda", 3)
    assert pick_device("cuda", process(1)) == torch.device("cuda", 1)
    assert pick_device("cpu", process(1)) == torch.device("cpu")
    assert pick_device("auto") == torch.device("cuda")


def test_a_launcher_may_show_each_process_its_own_gpu_alone(gpus):
    gpus(1, visible="3")
    assert pick_device("auto", process(3)) == torch.device("cuda", 0)


def test_more_processes_than_gpus_are_refused(gpus):
    for visible in (None, "0,1"):
        gpus(1 if visible is None else 2, visible)
        with pytest.raises(ConfigError, match=r"this machine has [12] GPU"):
            pick_device("cuda", process(3))


def test_no_gpu_is_no_gpu(gpus):
    gpus(0)
    assert pick_device("auto", process(3)) == torch.device("cpu")
    with pytest.raises(ConfigError, match="finds no GPU"):
        pick_device("cuda")


@pytest.mark.parametrize(
    ("written", "name", "gpus"),
    [
        ("auto", "auto", ()), ("cuda", "cuda", ()), ("cpu", "cpu", ()), ("mps", "mps", ()),
        (0, "cuda:0", (0,)), ("1", "cuda:1", (1,)), ("cuda:01", "cuda:1", (1,)), ([2], "cuda:2", (2,)),
        ("0,2", "cuda:0,2", (0, 2)), ("cuda:0, 2", "cuda:0,2", (0, 2)), ([2, 0], "cuda:2,0", (2, 0)),
    ],
)  # fmt: skip
def test_gpus_are_named_by_their_numbers(written, name, gpus):
    config = toy_run(device=written)
    assert (config.device, gpus_of(config.device)) == (name, gpus)
    assert config.processes_here == max(1, len(gpus))
    assert toy_run(**config.model_dump()) == config


@pytest.mark.parametrize(
    "written", ["gpus", "0;2", "0,", ",0", "-1", -1, 0.5, True, None, [], ["cuda", 0], "cuda:", "cpu,0", "0,0", "٣"]
)
def test_what_names_no_gpus_is_refused(written):
    with pytest.raises(ValueError, match="device"):
        device_name(written)


def test_every_process_has_the_gpu_of_its_place_among_those_named(gpus):
    gpus(4)
    assert [pick_device("cuda:3,1", process(rank, 2)) for rank in (0, 1)] == [
        torch.device("cuda", 3), torch.device("cuda", 1),
    ]  # fmt: skip
    assert pick_device("cuda:3,1") == torch.device("cuda", 3)  # what one process does with such a run
    with pytest.raises(ConfigError, match=r"cuda:3,1 is 2 GPUs, and the launcher has started more"):
        pick_device("cuda:3,1", process(2, 3))


@pytest.mark.parametrize(("name", "missing"), [("cuda:0,2,5", "no GPU 2 and no GPU 5;"), ("cuda:2", "no GPU 2;")])
def test_gpus_that_are_not_there_are_named(gpus, name, missing):
    gpus(2)
    with pytest.raises(ConfigError, match=f"device={name}: there is {missing} this machine has 2 GPUs, counted from 0"):
        pick_device(name)


def test_a_launcher_that_shows_one_gpu_alone_leaves_no_choice(gpus):
    gpus(1, visible="3")
    assert pick_device("cuda:0", process(1)) == torch.device("cuda", 0)
    with pytest.raises(ConfigError, match="no GPU 2"):
        pick_device("cuda:0,2", process(1))


def test_named_gpus_start_a_process_each_and_leave_the_environment_as_it_is(gpus, monkeypatch, tmp_path):
    gpus(4)
    started = []
    monkeypatch.setattr(
        "sightline.engine.distributed.launch.launch_here", lambda work, arguments, **how: started.append(how) or 1
    )
    config, _ = resolve("yolov7-tiny", ["device=0,2,3", "threads=1"])
    assert must_launch(config)
    with pytest.raises(RuntimeError, match="ended with exit code 1"):
        launch(config, tmp_path, StopRequest(), resume=False)
    assert started == [{"processes": 3, "threads": 1}]
    gpus(3)
    with pytest.raises(ConfigError, match="no GPU 3"):
        launch(config, tmp_path, StopRequest(), resume=False)
    assert len(started) == 1


def test_a_number_of_processes_beside_named_gpus_is_refused_by_hand_and_gives_way_in_a_recipe():
    for devices in (1, 2, 3):
        with pytest.raises(ConfigError, match="devices"):
            resolve("yolov7-tiny", ["device=0,2", f"devices={devices}"])
    many = recipe("yolov7-tiny").but(devices=4)
    config, origins = resolve(many, ["device=0,2"])
    assert (config.devices, config.processes_here) == (1, 2)
    assert origins["devices"] == "command line: no use with device=0,2"
    with pytest.raises(ValueError, match=r"cuda:0,2 is 2 GPUs, but devices=4"):
        many.but(device="0,2")


def test_another_number_of_processes_than_the_launchers_is_refused(monkeypatch):
    for count in (1, 3):
        monkeypatch.setattr(joining, "find_launch", lambda count=count: process(0, count))
        monkeypatch.setattr(joining, "JoinedProcesses", lambda launch, may_shard: Alone())
        for changes, words in [({"device": "0,2"}, "device=cuda:0,2"), ({"devices": 2}, "devices=2")]:
            with (
                pytest.raises(ConfigError, match=f"{words}, but the launcher has started {count} process"),
                joining.joined(toy_run(**changes), toy_run),
            ):
                pass


class Alone:
    """Other processes that agree with whatever this one says."""

    def tell(self, value):
        return value

    def close(self):
        pass


def test_an_evaluation_or_a_prediction_takes_one_gpu():
    refuse_unused(["device=1"], ["device"], "an evaluation")
    with pytest.raises(ConfigError, match="device=0,2 names several GPUs, and an evaluation uses one"):
        refuse_unused(["device=0,2"], ["device"], "an evaluation")
