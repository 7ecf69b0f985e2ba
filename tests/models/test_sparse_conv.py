"""Layers of sparse convolution: shared maps, the way back, empty clouds, and both backends."""

import importlib.util

import pytest
import torch

from sightline.config.errors import ConfigError
from sightline.models.blocks import sparse_conv
from sightline.models.blocks.sparse_conv import (
    SiteNorm,
    SparseConv3d,
    SparseInverseConv3d,
    SubmanifoldConv3d,
    sparse_layers,
)
from sightline.models.blocks.sparse_encoder import SparseEncoder, SparseEncoderConfig, openpcdet_encoder_names
from sightline.ops.sparse import Sites, SparseTensor

SMALL = SparseEncoderConfig(channels=(4, 6, 8), layers=(1, 1, 1), z_paddings=(1, 1), out_channels=5)
SHAPE = (12, 16, 16)


def some_tensor(count=100, channels=4, shape=SHAPE, num_samples=2, seed=0):
    random = torch.Generator().manual_seed(seed)
    number = torch.randperm(num_samples * shape[0] * shape[1] * shape[2], generator=random)[:count]
    coords = torch.stack(torch.unravel_index(number, (num_samples, *shape)), dim=1)
    return SparseTensor(torch.randn(count, channels, generator=random), Sites(coords, shape, num_samples))


def test_layers_of_one_name_share_their_map_and_sites():
    tensor = some_tensor()
    first = SubmanifoldConv3d(4, 6, (3, 3, 3), map_name="fine")(tensor)
    second = SubmanifoldConv3d(6, 6, (3, 3, 3), map_name="fine")(first)
    assert second.sites is tensor.sites
    assert list(tensor.maps) == ["fine"]


def test_the_way_down_and_back_ends_where_it_began():
    tensor = some_tensor()
    coarse = SparseConv3d(4, 6, (3, 3, 3), stride=(2, 2, 2), padding=(1, 1, 1), map_name="down")(tensor)
    back = SparseInverseConv3d(6, 3, (3, 3, 3), map_name="down", has_bias=True)(coarse)
    assert coarse.sites.shape_zyx == (6, 8, 8)
    assert back.sites is tensor.sites
    assert back.features.shape == (100, 3)


def test_a_bias_is_added_at_every_site():
    tensor = some_tensor()
    layer = SubmanifoldConv3d(4, 6, (3, 3, 3), map_name="fine", has_bias=True)
    with_bias = layer(tensor).features
    torch.nn.init.zeros_(layer.bias)
    without = layer(tensor).features
    assert len(((with_bias - without).detach() * 1e4).round().unique(dim=0)) == 1


def test_a_map_of_other_sites_or_another_kernel_is_refused():
    tensor = some_tensor()
    coarse = SparseConv3d(4, 4, (3, 3, 3), stride=(2, 2, 2), padding=(1, 1, 1), map_name="name")(tensor)
    with pytest.raises(ValueError, match="'name'"):
        SubmanifoldConv3d(4, 4, (3, 3, 3), map_name="name")(tensor)
    with pytest.raises(ValueError, match="'name'"):
        SparseConv3d(4, 4, (3, 3, 3), stride=(2, 2, 2), padding=(1, 1, 1), map_name="name")(coarse)
    with pytest.raises(ValueError, match="'name'"):
        SparseInverseConv3d(4, 4, (3, 1, 1), map_name="name")(coarse)
    with pytest.raises(ValueError, match="'other'"):
        SparseInverseConv3d(4, 4, (3, 3, 3), map_name="other")(coarse)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_sites_for_a_variance_are_normalised_as_in_evaluation(count):
    norm = SiteNorm(3).train()
    norm.running_mean.fill_(2.0)
    rows = torch.full((count, 3), 5.0, requires_grad=True)
    out = norm(rows)
    torch.testing.assert_close(out, (rows - 2) / (1 + norm.eps) ** 0.5)
    out.sum().backward()
    assert norm.weight.grad is not None
    assert norm.running_mean.tolist() == [2, 2, 2]
    assert norm.num_batches_tracked == 0


def test_enough_sites_are_normalised_as_pytorch_does():
    norm, theirs = SiteNorm(3), torch.nn.BatchNorm1d(3)
    rows = torch.randn(9, 3)
    assert torch.equal(norm(rows), theirs(rows))
    assert torch.equal(norm.running_var, theirs.running_var)


@pytest.mark.parametrize("count", [0, 1, 2, 300])
@pytest.mark.parametrize("is_training", [True, False])
def test_an_encoder_makes_a_map_of_any_number_of_voxels(count, is_training):
    torch.manual_seed(0)
    encoder = SparseEncoder(SMALL, 4, SHAPE).train(is_training)
    tensor = some_tensor(count)
    sites = encoder(tensor.features, tensor.sites.coords, 2)
    assert sites.sites.shape_zyx == encoder.map_shape == SMALL.map_shape(SHAPE) == (1, 4, 4)
    bev = sites.to_columns().to_map()
    assert bev.shape == (2, encoder.out_channels, 4, 4)
    bev.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_the_published_grid_ends_in_two_heights():
    # 40 + 1 layers become 21, 11, 5 (no padding), 2; 1600 x 1408 voxels become 200 x 176 cells.
    config = SparseEncoderConfig()
    assert config.map_shape((40, 1600, 1408)) == (2, 200, 176)
    assert config.stride == 8


def test_voxels_in_another_order_give_the_same_map():
    encoder = SparseEncoder(SMALL, 4, SHAPE).eval()
    tensor = some_tensor(300)
    order = torch.randperm(300)
    here = encoder(tensor.features, tensor.sites.coords, 2).to_columns().to_map()
    there = encoder(tensor.features[order], tensor.sites.coords[order], 2).to_columns().to_map()
    torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-6)


def test_a_sample_does_not_depend_on_the_others_of_its_batch():
    encoder = SparseEncoder(SMALL, 4, SHAPE).eval()
    tensor = some_tensor(300)
    second = tensor.sites.coords[:, 0] == 1
    alone = tensor.sites.coords[second] - torch.tensor([1, 0, 0, 0])
    together = encoder(tensor.features, tensor.sites.coords, 2).to_columns().to_map()[1:]
    torch.testing.assert_close(
        encoder(tensor.features[second], alone, 1).to_columns().to_map(), together, rtol=1e-5, atol=1e-6
    )


def test_every_tensor_of_an_encoder_has_openpcdets_name():
    names = openpcdet_encoder_names(SMALL)
    ours = {name.rpartition(".")[0] for name in SparseEncoder(SMALL, 4, SHAPE).state_dict()}
    assert set(names.values()) == ours
    assert names["backbone_3d.conv1.0.0"] == "stages.0.0.conv"
    assert names["backbone_3d.conv3.1.1"] == "stages.2.1.norm"


def test_stages_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one entry for each stage"):
        SparseEncoderConfig(channels=(4, 8), layers=(1, 1, 1))
    with pytest.raises(ValueError, match="too few"):
        SMALL.map_shape((3, 16, 16))


def test_spconv_asked_for_and_missing_is_told(monkeypatch):
    monkeypatch.setattr(sparse_conv, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="backend=torch"):
        sparse_layers("spconv")


@pytest.mark.skipif(importlib.util.find_spec("spconv") is None, reason="spconv is not installed")
def test_spconv_gives_the_same_map_from_the_same_weights():
    ours = SparseEncoder(SMALL, 4, SHAPE).eval()
    theirs = SparseEncoder(SMALL.but(backend="spconv"), 4, SHAPE).eval()
    theirs.load_state_dict(ours.state_dict())
    tensor = some_tensor(300)
    maps = [encoder(tensor.features, tensor.sites.coords, 2).to_columns().to_map() for encoder in (ours, theirs)]
    torch.testing.assert_close(*maps, rtol=1e-5, atol=1e-6)
