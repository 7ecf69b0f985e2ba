"""Sparse convolution: the dense one's values and gradients, at the sites where it is computed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import conv3d, conv_transpose3d

from sightline.ops.sparse import Sites, SparseTensor, sparse_convolution, strided_map, submanifold_map

SHAPE = (5, 7, 6)
STRIDED = [
    ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
    ((3, 3, 3), (2, 2, 2), (0, 1, 1)),
    ((3, 1, 1), (2, 1, 1), (0, 0, 0)),
    ((2, 2, 2), (2, 2, 2), (0, 0, 0)),
    ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
    ((1, 2, 4), (3, 2, 1), (0, 1, 2)),
]


def some_sites(seed=0, count=60, shape=SHAPE, num_samples=2):
    """Sites in an order of their own."""
    random = torch.Generator().manual_seed(seed)
    cells = num_samples * shape[0] * shape[1] * shape[2]
    number = torch.randperm(cells, generator=random)[:count]
    coords = torch.stack(torch.unravel_index(number, (num_samples, *shape)), dim=1)
    return Sites(coords, shape, num_samples)


def drawn(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype, requires_grad=True)


def at(dense, sites):
    """(V, C) of (B, C, D, H, W)."""
    batch, z, y, x = sites.coords.unbind(1)
    return dense[batch, :, z, y, x]


def as_conv3d(weight):
    """(out, z, y, x, in) in PyTorch's order."""
    return weight.permute(0, 4, 1, 2, 3)


def assert_same_with_gradients(ours, dense, *inputs):
    torch.testing.assert_close(ours, dense, rtol=1e-12, atol=1e-12)
    pull = drawn(*ours.shape, seed=9).detach()
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs, pull), torch.autograd.grad(dense, inputs, pull), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_two_neighbours_see_each_other_through_opposite_taps():
    sites = Sites(torch.tensor([[0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 4]]), (1, 1, 5), 1)
    weight = torch.tensor([100.0, 10, 1]).reshape(1, 1, 1, 3, 1)  # of the left, the same and the right cell
    out = sparse_convolution(torch.tensor([[1.0], [2], [3]]), weight, submanifold_map(sites, (1, 1, 3)))
    assert out.flatten().tolist() == [12, 120, 30]


def test_lines_and_samples_do_not_touch_over_their_ends():
    coords = torch.tensor([[0, 0, 0, 4], [0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 1, 4]])
    pairs = submanifold_map(Sites(coords, (2, 2, 5), 2), (3, 3, 3)).sources
    # Beside every site with itself only (z0 y0 x4) with (z1 y1 x4) and (z0 y1 x0) with (z1 y0 x0), both ways.
    assert sum(map(len, pairs)) == 5 + 4


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 1, 1), (1, 3, 5), (3, 1, 1)])
def test_a_submanifold_convolution_is_the_dense_one_at_its_own_sites(kernel):
    sites = some_sites()
    features, weight = drawn(len(sites), 3), drawn(4, *kernel, 3, seed=2)
    ours = sparse_convolution(features, weight, submanifold_map(sites, kernel))
    dense = conv3d(
        SparseTensor(features, sites).to_dense(), as_conv3d(weight), padding=tuple(size // 2 for size in kernel)
    )
    assert_same_with_gradients(ours, at(dense, sites), features, weight)


@pytest.mark.parametrize(("kernel", "stride", "padding"), STRIDED)
def test_a_strided_convolution_is_the_dense_one_wherever_it_meets_a_site(kernel, stride, padding):
    sites = some_sites(count=25)
    features, weight = drawn(len(sites), 3), drawn(4, *kernel, 3, seed=2)
    kernel_map = strided_map(sites, kernel, stride, padding)
    ours = sparse_convolution(features, weight, kernel_map)
    dense = conv3d(SparseTensor(features, sites).to_dense(), as_conv3d(weight), stride=stride, padding=padding)
    met = conv3d(
        SparseTensor(torch.ones(len(sites), 1), sites).to_dense(),
        torch.ones(1, 1, *kernel),
        stride=stride,
        padding=padding,
    )
    assert kernel_map.sites_out.shape_zyx == tuple(dense.shape[2:])
    assert kernel_map.sites_out.coords.tolist() == met[:, 0].nonzero().tolist()
    assert_same_with_gradients(ours, at(dense, kernel_map.sites_out), features, weight)


@pytest.mark.parametrize(("kernel", "stride", "padding"), STRIDED)
def test_an_inverse_convolution_is_the_transposed_one_at_the_sites_before(kernel, stride, padding):
    sites = some_sites(count=25)
    kernel_map = strided_map(sites, kernel, stride, padding)
    coarse, weight = drawn(len(kernel_map.sites_out), 4), drawn(3, *kernel, 4, seed=2)
    ours = sparse_convolution(coarse, weight, kernel_map.reversed())
    rows = zip(SHAPE, kernel_map.sites_out.shape_zyx, kernel, stride, padding, strict=True)
    rest = tuple(cells - ((out - 1) * step + size - 2 * pad) for cells, out, size, step, pad in rows)
    dense = conv_transpose3d(
        SparseTensor(coarse, kernel_map.sites_out).to_dense(),
        weight.permute(4, 0, 1, 2, 3),
        stride=stride,
        padding=padding,
        output_padding=rest if all(r < s for r, s in zip(rest, stride, strict=True)) else 0,
    )
    assert_same_with_gradients(ours, at(dense, sites), coarse, weight)


@given(st.integers(0, 2**31), st.integers(0, 40), st.tuples(*[st.integers(1, 6)] * 3), st.sampled_from(STRIDED))
def test_any_sites_give_the_dense_result_in_float32(seed, count, shape, setting):
    kernel, stride, padding = setting
    if any(cells + 2 * pad < size for cells, size, pad in zip(shape, kernel, padding, strict=True)):
        return
    sites = some_sites(seed, count, shape)
    features = drawn(len(sites), 2, seed=seed, dtype=torch.float32)
    weight = drawn(3, *kernel, 2, seed=seed, dtype=torch.float32)
    kernel_map = strided_map(sites, kernel, stride, padding)
    ours = SparseTensor(sparse_convolution(features, weight, kernel_map), kernel_map.sites_out).to_dense()
    dense = conv3d(SparseTensor(features, sites).to_dense(), as_conv3d(weight), stride=stride, padding=padding)
    torch.testing.assert_close(ours, dense, rtol=1e-6, atol=1e-5)


def test_gradients_by_small_differences():
    sites = some_sites(count=8, shape=(3, 3, 2), num_samples=1)
    maps = [submanifold_map(sites, (3, 3, 3)), strided_map(sites, (3, 3, 2), (2, 1, 2), (1, 1, 0))]
    for kernel_map in (*maps, maps[1].reversed()):
        features, weight = drawn(len(kernel_map.sites_in), 2), drawn(2, *kernel_map.kernel, 2, seed=2)
        assert torch.autograd.gradcheck(lambda f, w, m=kernel_map: sparse_convolution(f, w, m), (features, weight))


def test_no_sites():
    sites = some_sites(count=0)
    for kernel_map in (submanifold_map(sites, (3, 3, 3)), strided_map(sites, (3, 3, 3), (2, 2, 2), (1, 1, 1))):
        features, weight = drawn(0, 3), drawn(4, 3, 3, 3, 3, seed=2)
        out = sparse_convolution(features, weight, kernel_map)
        assert out.shape == (0, 4)
        out.sum().backward()
        assert not weight.grad.any()
    dense = SparseTensor(torch.zeros(0, 4), sites)
    assert dense.to_dense().shape == (2, 4, *SHAPE)
    assert dense.to_columns().to_map().shape == (2, 4 * SHAPE[0], *SHAPE[1:])


def test_one_site_sees_itself_and_is_seen_by_the_whole_kernel():
    sites = Sites(torch.tensor([[0, 2, 2, 2]]), (5, 5, 5), 1)
    weight = torch.arange(27.0).reshape(1, 3, 3, 3, 1)
    assert sparse_convolution(torch.ones(1, 1), weight, submanifold_map(sites, (3, 3, 3))).tolist() == [[13]]
    kernel_map = strided_map(sites, (3, 3, 3), (1, 1, 1), (1, 1, 1))
    out = sparse_convolution(torch.ones(1, 1), weight, kernel_map)
    assert out.flatten().tolist() == list(range(26, -1, -1))  # the cell before sees it through its last tap


def test_columns_have_the_heights_of_a_channel_side_by_side():
    sites = some_sites()
    tensor = SparseTensor(drawn(len(sites), 3), sites)
    cells = tensor.to_columns()
    assert len(cells.features) == len({(b, y, x) for b, _, y, x in sites.coords.tolist()})
    bev = cells.to_map()
    assert torch.equal(bev, tensor.to_dense().flatten(1, 2))
    (bev * bev.detach()).sum().backward()
    assert torch.equal(tensor.features.grad, tensor.features)


def test_autocast_leaves_the_sums_in_float32():
    sites = some_sites()
    kernel_map = submanifold_map(sites, (3, 3, 3))
    features, weight = drawn(len(sites), 3, dtype=torch.float32), drawn(4, 3, 3, 3, 3, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = sparse_convolution(features, weight, kernel_map)
    assert torch.equal(out, sparse_convolution(features, weight, kernel_map))


@pytest.mark.parametrize("coords", [[[0, 0, 0, 6]], [[2, 0, 0, 0]], [[0, -1, 0, 0]]])
def test_a_site_outside_of_the_grid_is_refused(coords):
    sites = Sites(torch.tensor(coords), SHAPE, 2)
    with pytest.raises(ValueError, match="outside"):
        submanifold_map(sites, (3, 3, 3))
    with pytest.raises(ValueError, match="outside"):
        strided_map(sites, (3, 3, 3), (2, 2, 2), (1, 1, 1))


def test_what_cannot_be_is_refused():
    sites = some_sites()
    with pytest.raises(ValueError, match="twice"):
        submanifold_map(Sites(torch.tensor([[0, 1, 1, 1]] * 2), SHAPE, 1), (3, 3, 3))
    with pytest.raises(ValueError, match="odd"):
        submanifold_map(sites, (3, 2, 3))
    with pytest.raises(ValueError, match="does not fit"):
        strided_map(sites, (7, 3, 3), (1, 1, 1), (0, 0, 0))
    with pytest.raises(ValueError, match="numbered"):
        submanifold_map(Sites(torch.zeros(1, 4, dtype=torch.int64), (2**21, 2**21, 2**21), 1), (3, 3, 3))
    with pytest.raises(ValueError, match="coords"):
        Sites(torch.zeros(3, 3, dtype=torch.int64), SHAPE, 1)
    with pytest.raises(ValueError, match="features"):
        SparseTensor(torch.zeros(3, 4), sites)
    with pytest.raises(ValueError, match="weight"):
        sparse_convolution(torch.zeros(len(sites), 4), torch.zeros(4, 3, 3, 3, 5), submanifold_map(sites, (3, 3, 3)))


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits_twice_and_nearly_those_of_the_cpu():
    sites = some_sites(count=20_000, shape=(20, 100, 100))
    there = Sites(sites.coords.cuda(), sites.shape_zyx, sites.num_samples)
    features, weight = drawn(len(sites), 16, dtype=torch.float32), drawn(32, 3, 3, 3, 16, dtype=torch.float32)
    here = sparse_convolution(features, weight, strided_map(sites, (3, 3, 3), (2, 2, 2), (1, 1, 1)))
    kernel_map = strided_map(there, (3, 3, 3), (2, 2, 2), (1, 1, 1))
    results = [sparse_convolution(features.cuda(), weight.cuda(), kernel_map) for _ in range(2)]
    assert torch.equal(*results)
    torch.testing.assert_close(results[0].cpu(), here, rtol=1e-3, atol=1e-2)
