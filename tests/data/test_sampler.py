"""Which samples make which batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.data.sampler import LongEpochSampler, RectangularSampler, Sampler


def ids(sampler, epoch):
    return [i for k in range(sampler.batches_per_epoch) for i in sampler.request(epoch, k).sample_ids]


@given(
    length=st.integers(1, 60),
    batch_size=st.integers(1, 17),
    num_processes=st.integers(1, 5),
    order=st.sampled_from(["shuffled", "sequential"]),
)
def test_all_processes_together_have_every_sample_exactly_once(length, batch_size, num_processes, order):
    samplers = [
        Sampler(length, batch_size, order=order, rank=rank, num_processes=num_processes)
        for rank in range(num_processes)
    ]
    assert sorted(i for sampler in samplers for i in ids(sampler, 3)) == list(range(length))


@given(length=st.integers(1, 60), batch_size=st.integers(1, 17), num_processes=st.integers(1, 5))
def test_a_global_batch_holds_the_same_samples_for_any_number_of_processes(length, batch_size, num_processes):
    alone = Sampler(length, batch_size)
    for k in range(alone.batches_per_epoch):
        shares = [
            Sampler(length, batch_size, rank=rank, num_processes=num_processes).request(2, k)
            for rank in range(num_processes)
        ]
        assert sum(map(len, shares)) == alone.batch_length(k) == len(alone.request(2, k))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert {i for share in shares for i in share.sample_ids} == set(alone.request(2, k).sample_ids)


def test_batches_of_ten_samples_by_four():
    sampler = Sampler(10, 4, order="sequential")
    assert sampler.batches_per_epoch == 3
    assert [sampler.batch_length(k) for k in range(3)] == [4, 4, 2]
    assert [sampler.request(0, k).sample_ids for k in range(3)] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]


def test_a_last_batch_smaller_than_the_processes_leaves_empty_shares():
    shares = [Sampler(5, 4, order="sequential", rank=rank, num_processes=3).request(0, 1) for rank in range(3)]
    assert [share.sample_ids for share in shares] == [(4,), (), ()]


def test_a_last_batch_that_is_not_full_is_left_out_on_request_and_its_samples_come_in_other_epochs():
    sampler = Sampler(10, 4, drop_last=True)
    assert sampler.batches_per_epoch == 2
    assert [sampler.batch_length(k) for k in range(2)] == [4, 4]
    with pytest.raises(IndexError, match="batches 0 to 1"):
        sampler.request(0, 2)
    assert [ids(sampler, epoch) for epoch in range(3)] == [ids(Sampler(10, 4), epoch)[:8] for epoch in range(3)]
    assert {i for epoch in range(20) for i in ids(sampler, epoch)} == set(range(10))


@pytest.mark.parametrize("length", [8, 3])
def test_a_full_last_batch_and_one_that_is_the_only_one_are_kept(length):
    assert ids(Sampler(length, 4, drop_last=True), 0) == ids(Sampler(length, 4), 0)


def test_every_epoch_has_its_own_order_and_jumping_gives_the_same():
    sampler = Sampler(40, 8, seed=5)
    forward = {(e, k): sampler.request(e, k).sample_ids for e in range(3) for k in range(5)}
    assert len({tuple(ids(sampler, e)) for e in range(3)}) == 3
    fresh = Sampler(40, 8, seed=5)
    for (e, k), expected in reversed(forward.items()):
        assert fresh.request(e, k).sample_ids == expected


def test_the_seed_decides_the_order():
    assert ids(Sampler(40, 8, seed=1), 0) != ids(Sampler(40, 8, seed=2), 0)


@pytest.mark.parametrize("index", [-1, 3])
def test_a_batch_that_does_not_exist_is_an_error(index):
    with pytest.raises(IndexError, match="batches 0 to 2"):
        Sampler(10, 4).request(0, index)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "no sample"),
        ({"batch_size": 0}, "batch_size"),
        ({"rank": 2, "num_processes": 2}, "rank"),
        ({"order": "random"}, "order"),
    ],
)
def test_senseless_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sampler(**{"length": 4, "batch_size": 2, **arguments})


def test_rectangles_by_hand():
    # Two landscapes of 480 x 640, a square, two portraits of 640 x 320; long side 320, multiples of 32, no border.
    sizes = [(640, 320), (480, 640), (500, 500), (640, 320), (480, 640)]
    sampler = RectangularSampler(sizes, 2, image_size=320, stride=32, pad=0.0)
    assert [sampler.request(0, k).sample_ids for k in range(3)] == [(1, 4), (2, 0), (3,)]
    assert [sampler.request(0, k).input_hw for k in range(3)] == [(256, 320), (320, 320), (320, 160)]


@given(
    sizes=st.lists(st.tuples(st.integers(10, 2000), st.integers(10, 2000)), min_size=1, max_size=40),
    batch_size=st.integers(1, 9),
    image_size=st.sampled_from([64, 320, 416]),
    stride=st.sampled_from([8, 32, 64]),
    pad=st.sampled_from([0.0, 0.5]),
)
def test_every_image_fits_into_the_input_of_its_batch(sizes, batch_size, image_size, stride, pad):
    sampler = RectangularSampler(sizes, batch_size, image_size=image_size, stride=stride, pad=pad)
    for k in range(sampler.batches_per_epoch):
        request = sampler.request(0, k)
        height, width = request.input_hw
        assert height % stride == width % stride == 0
        for i in request.sample_ids:
            ratio = image_size / max(sizes[i])
            assert int(sizes[i][0] * ratio) <= height
            assert int(sizes[i][1] * ratio) <= width
    np.testing.assert_array_equal(np.sort(ids(sampler, 0)), np.arange(len(sizes)))
    assert ids(sampler, 0) == ids(sampler, 7)


def test_rectangles_are_shared_by_all_processes():
    sizes = [(480, 640), (640, 480), (300, 900), (500, 500), (480, 640), (640, 480)]
    shares = [
        RectangularSampler(sizes, 4, image_size=320, stride=32, rank=rank, num_processes=2).request(0, 0)
        for rank in range(2)
    ]
    assert shares[0].input_hw == shares[1].input_hw
    assert not set(shares[0].sample_ids) & set(shares[1].sample_ids)


@given(length=st.integers(1, 40), batch_size=st.integers(1, 17), epochs=st.integers(1, 6), seed=st.integers(0, 9))
def test_one_long_epoch_has_full_batches_in_equal_shares_and_no_view_twice(length, batch_size, epochs, seed):
    sampler = LongEpochSampler(length, batch_size, epochs=epochs, seed=seed)
    size = min(length, batch_size)
    views = []
    for epoch in range(epochs):
        for k in range(sampler.batches_per_epoch):
            request = sampler.request(epoch, k)
            assert len(request) == sampler.batch_length(k) == size
            views += zip(request.sample_ids, request.repeats, strict=True)
    assert len(set(views)) == len(views)
    assert set(views) <= {(i, one) for i in range(length) for one in range(epochs)}
    assert length * epochs - len(views) < size * epochs  # what is left makes no batch for every epoch


def test_one_long_epoch_of_fifty_samples_in_twos_has_the_batches_of_plain_epochs():
    sampler = LongEpochSampler(50, 2, epochs=6)
    assert sampler.batches_per_epoch == 25
    passes = [one for k in range(25) for one in sampler.request(0, k).repeats]
    assert len(set(passes)) > 1  # samples of several passes stand in one epoch


def test_processes_share_out_the_batches_of_one_long_epoch():
    alone = LongEpochSampler(7, 4, epochs=5, seed=3)
    shares = [LongEpochSampler(7, 4, epochs=5, seed=3, rank=rank, num_processes=3) for rank in range(3)]
    for epoch in range(5):
        for k in range(alone.batches_per_epoch):
            parts = [share.request(epoch, k) for share in shares]
            together = sorted(view for part in parts for view in zip(part.sample_ids, part.repeats, strict=True))
            whole = alone.request(epoch, k)
            assert together == sorted(zip(whole.sample_ids, whole.repeats, strict=True))
