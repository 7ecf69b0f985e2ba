"""The loader and the metric for small problems of one's own."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from sightline import engine
from sightline.config.errors import RunError
from sightline.engine import Share, SumMetric, TensorBatch, TensorLoader
from tests.together import together


def loader(samples=10, batch_size=4, **options):
    rows = torch.arange(samples)
    return TensorLoader({"x": rows * 1.0, "y": rows * 2}, batch_size, **options)


def ids(loader, **where):
    return [(fetched.epoch, fetched.index, fetched.batch.sample_ids) for fetched in loader.iterate(**where)]


def test_every_epoch_has_every_sample_once_in_the_order_that_is_promised():
    found = ids(loader(seed=5), epochs=2)
    assert [(epoch, index, len(samples)) for epoch, index, samples in found] == [
        *((0, 0, 4), (0, 1, 4), (0, 2, 2)),
        *((1, 0, 4), (1, 1, 4), (1, 2, 2)),
    ]
    for epoch in (0, 1):
        order = [sample for found_epoch, _, samples in found for sample in samples if found_epoch == epoch]
        assert order == np.random.default_rng((5, epoch)).permutation(10).tolist()


def test_it_starts_anywhere_with_the_batches_that_would_have_come():
    assert ids(loader(), epoch=1, index=2, epochs=3) == ids(loader(), epochs=3)[5:]


def test_without_shuffling_samples_come_as_they_lie():
    assert [samples for _, _, samples in ids(loader(shuffle=False), epochs=1)] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]


@pytest.mark.parametrize("count", [2, 3])
def test_shares_of_a_batch_add_up_to_it_and_may_be_empty(count):
    whole = ids(loader(samples=9), epochs=1)
    shares = [ids(loader(samples=9, share=Share(rank, count)), epochs=1) for rank in range(count)]
    for place, (_, _, samples) in enumerate(whole):
        parts = [share[place][2] for share in shares]
        assert sorted(sum(parts, ())) == sorted(samples)
    assert shares[-1][-1][2] == () and loader(samples=9).batch_length(2) == 1


def test_a_batch_holds_the_rows_of_its_samples():
    (first, *_) = loader().iterate(epochs=1)
    batch = first.batch.to(torch.device("cpu"))
    assert batch["x"].tolist() == list(batch.sample_ids) and batch["y"].tolist() == [2 * i for i in batch.sample_ids]
    assert len(batch) == 4
    part = batch.part(1, 3)
    assert part["x"].tolist() == list(part.sample_ids) == list(batch.sample_ids[1:3])


@pytest.mark.parametrize("tensors", [{}, {"x": torch.zeros(3), "y": torch.zeros(4)}])
def test_tensors_of_different_lengths_are_no_samples(tensors):
    with pytest.raises(ValueError, match="one number of samples"):
        TensorLoader(tensors, 2)


class Accuracy(SumMetric):
    def update(self, predictions, batch):
        self.add(right=(predictions == batch["y"]).sum(), seen=len(batch))

    def compute(self):
        return {"accuracy": self["right"] / self["seen"]}


def filled(*answers):
    metric = Accuracy()
    for given, right in answers:
        metric.update(torch.tensor(given), TensorBatch({"y": torch.tensor(right)}, tuple(range(len(right)))))
    return metric


def test_sums_of_several_processes_merge_exactly():
    other = Accuracy()
    other.load_state(filled(([1, 1, 0], [1, 1, 1])).state())
    metric = filled(([1, 0], [1, 1]))
    metric.merge([other])
    assert metric.compute() == {"accuracy": 3 / 5}
    assert all(tensor.dtype == torch.float64 for tensor in metric.state().values())
    metric.reset()
    assert metric["right"] == 0.0 and metric.details() == {}


def test_a_metric_of_sums_has_no_predictions_to_save(tmp_path):
    with pytest.raises(RunError, match="keeps no predictions"):
        Accuracy().save(tmp_path / "x.json")


def _share_of(processes):
    share = engine.TensorLoader({"x": torch.arange(5)}, 3, share=processes.share)
    return [fetched.batch["x"].tolist() for fetched in share.iterate(epochs=1)]


def test_processes_read_their_own_share():
    order = np.random.default_rng((0, 0)).permutation(5).tolist()
    first, second = together(2, _share_of)
    assert [first[0][0], second[0][0], first[0][1]] == order[:3]
    assert [first[1][0], second[1][0]] == order[3:]


def test_the_face_of_the_engine_has_all_its_names_and_loads_no_torch_before_they_are_used():
    assert sorted(engine.__all__, key=str.lower) == sorted(engine._PLACE_OF, key=str.lower)
    assert all(getattr(engine, name) is not None for name in engine.__all__)
    with pytest.raises(AttributeError, match="tensorloader"):
        engine.tensorloader  # noqa: B018 - the look is the test
    code = "import sys, sightline.engine; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
