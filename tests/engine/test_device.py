"""Where a run computes, with GPUs that this machine need not have."""

import pytest
import torch

from sightline.config.errors import ConfigError
from sightline.engine.device import pick_device
from sightline.engine.distributed.launch import Launch


@pytest.fixture
def gpus(monkeypatch):
    def there_are(count: int, visible: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return there_are


def process(local_rank: int) -> Launch:
    return Launch(local_rank, 4, local_rank, 4, "127.0.0.1", 29500)


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
