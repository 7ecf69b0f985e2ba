"""YOLOv7's networks against the recorded outputs of the originals.

Tolerances: both sides computed in float32 with other orders of summation, so outputs agree to 1e-4 of their
size, and boxes, which multiply them by strides and anchors, to 2e-3 pixels.
"""

import numpy as np
import pytest
import torch

from sightline.engine.parameter_groups import WEIGHTS_DECAY_BIASES_WARM, group_table, split_parameters
from sightline.models.yolov7.decode import decode_levels
from sightline.models.yolov7.layers import DetectionHead
from sightline.models.yolov7.model import YOLOv7Network
from sightline.models.yolov7.published import published_names
from tests.conftest import oracle
from tests.parity.yolov7_recipe import (
    config_of,
    is_anchor,
    names_in,
    read_json,
    recipe_images,
    recipe_network,
)


def assert_raw_close(got, want, what):
    assert got.shape == want.shape, what
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=what)


def assert_boxes_close(got, want, what):
    assert got.shape == want.shape, what
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-3, err_msg=what)
    np.testing.assert_allclose(got[..., 4:], want[..., 4:], rtol=1e-4, atol=1e-4, err_msg=what)


class LayerStatistics:
    """Mean, std, min, max, first and last element of every layer's output, as recorded."""

    def __init__(self, network):
        self.rows = [None] * len(network.layers)
        for number, layer in enumerate(network.layers):
            layer.register_forward_hook(lambda _layer, _read, out, number=number: self.record(number, out))

    def record(self, number, out):
        x = out.detach().double().contiguous().flatten()
        self.rows[number] = [float(v) for v in (x.mean(), x.std(), x.min(), x.max(), x[0], x[-1])]

    def assert_close(self, want):
        np.testing.assert_allclose(np.array(self.rows), want, rtol=1e-4, atol=1e-4)


class Deep:
    """A recorded case with its arrays and our network."""

    def __init__(self, name):
        self.meta = read_json("forward", "meta.json")["deep"][name]
        config_of(self.meta["cfg"])
        self.arrays = np.load(oracle("yolov7", "forward", f"{name}.npz"), allow_pickle=False)
        self.images = recipe_images(self.meta["input_seed"], self.meta["shape"])

    def network(self):
        meta = self.meta
        order = [key for key, _ in meta["state"]]
        return recipe_network(meta["cfg"], meta["nc"], meta["weight_seed"], meta["gain"], order)

    def assert_raw(self, raw, prefix):
        for level, got in enumerate(raw):
            assert_raw_close(got.detach().numpy(), self.arrays[f"{prefix}_raw{level}"], f"{prefix}_raw{level}")


@pytest.fixture(scope="module", params=names_in("forward", "meta.json", of="deep"))
def deep(request):
    return Deep(request.param)


def test_recipe_gives_the_recorded_weights_and_input(deep):
    network = deep.network()
    ours = {published: name for name, published in published_names(network).items()}
    state = network.state_dict()
    assert float(deep.images.double().sum()) == pytest.approx(float(deep.arrays["input_sum"]), rel=1e-12)
    for (key, shape), sums in zip(deep.meta["state"], deep.meta["weight_sums"], strict=True):
        # The original counts the batch with which it measures its strides.
        if is_anchor(key) or key.endswith(".num_batches_tracked"):
            continue
        tensor = state[ours[key]].double()
        assert tensor.numel() == np.prod(shape, dtype=int), key
        assert tensor.sum().item() == pytest.approx(sums[0], abs=1e-7 * (1 + sums[1])), key
        assert tensor.abs().sum().item() == pytest.approx(sums[1], rel=1e-7), key


def test_evaluation_gives_the_recorded_outputs(deep):
    network = deep.network().eval()
    statistics = LayerStatistics(network)
    with torch.no_grad():
        network(deep.images, with_aux=True)  # the recording ran the auxiliary layers too
        raw = network(deep.images)
    deep.assert_raw(raw, "eval")
    statistics.assert_close(deep.arrays["layer_stats_eval"])
    decoded = decode_levels(raw, network.anchors_px, network.strides)
    assert_boxes_close(decoded.numpy(), deep.arrays["eval_decoded"], "eval_decoded")


def test_training_gives_the_recorded_outputs_and_running_averages(deep):
    network = deep.network().train()
    statistics = LayerStatistics(network)
    deep.assert_raw(network(deep.images, with_aux=True), "train")
    statistics.assert_close(deep.arrays["layer_stats_train"])
    ours = {published: name for name, published in published_names(network).items()}
    state = network.state_dict()
    for kind, recorded in (("running_mean", "bn_mean_sum_after_train"), ("running_var", "bn_var_sum_after_train")):
        keys = [key for key, _ in deep.meta["state"] if key.endswith(kind)]
        sums = [state[ours[key]].double().sum().item() for key in keys]
        np.testing.assert_allclose(sums, deep.arrays[recorded], rtol=1e-4, atol=1e-4, err_msg=kind)


def test_fused_network_gives_the_recorded_outputs_and_weights(deep):
    network = deep.network().eval()
    fused = network.fuse()
    with torch.no_grad():
        raw = fused(deep.images)
    deep.assert_raw(raw, "fused")
    decoded = decode_levels(raw, fused.anchors_px, fused.strides)
    assert_boxes_close(decoded.numpy(), deep.arrays["fused_decoded"], "fused_decoded")

    ours = {published: name for name, published in published_names(fused).items()}
    state = fused.state_dict()
    # By our name. A fused RepConv is called "rbr_reparam" there and "conv", like any other, here; we leave out the
    # auxiliary layers, so that the head has another number.
    recorded = {}
    their_head = f"model.{len(network.layers)}."
    our_head = f"model.{len(fused.layers)}."
    for index, (recorded_key, _) in enumerate(deep.meta["fused_keys"]):
        key = recorded_key
        if key.startswith(their_head):
            key = key.replace(their_head, our_head)
        elif key.startswith(our_head):
            continue
        name = ours.get(key) or ours.get(key.replace("rbr_reparam", "conv"))
        if name is not None:
            recorded[name] = (index, recorded_key)
    assert set(recorded) == set(state)
    for name, (index, key) in recorded.items():
        tensor = state[name].double()
        total, absolute = deep.arrays["fused_sums"][index]
        assert tensor.sum().item() == pytest.approx(total, abs=1e-6 * (1 + absolute)), key
        assert tensor.abs().sum().item() == pytest.approx(absolute, rel=1e-5), key
        if f"fusedparam:{key}" in deep.arrays:
            np.testing.assert_allclose(tensor, deep.arrays[f"fusedparam:{key}"], rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("cfg", names_in("forward", "meta.json", of="all"))
def test_every_configuration_gives_the_recorded_boxes(cfg):
    meta = read_json("forward", "meta.json")["all"][cfg]
    network = recipe_network(cfg, meta["nc"], meta["weight_seed"], meta["gain"]).eval()
    statistics = LayerStatistics(network)
    with torch.no_grad():
        images = recipe_images(meta["input_seed"], meta["shape"])
        network(images, with_aux=True)  # the recording ran the auxiliary layers too
        raw = network(images)
        decoded = decode_levels(raw, network.anchors_px, network.strides)
    with np.load(oracle("yolov7", "forward", "all_cfgs.npz"), allow_pickle=False) as arrays:
        statistics.assert_close(arrays[f"{cfg}:layer_stats_eval"])
        assert_boxes_close(decoded.numpy(), arrays[f"{cfg}:eval_decoded"], cfg)


@pytest.mark.parametrize("model", names_in("models.json"))
def test_model_is_built_as_recorded(model):
    recorded = read_json("models.json")[model]
    cfg, num_classes = model.split("@nc")
    network = YOLOv7Network(config_of(cfg), int(num_classes))

    parameters = list(network.parameters())
    assert sum(p.numel() for p in parameters) == recorded["params"]
    assert len(parameters) == recorded["n_params"]
    assert len(network.layers) + 1 == recorded["layers"]
    assert list(network.strides) == recorded["strides"]
    assert len(network.strides) == recorded["nl"]
    assert network.head.num_outputs == recorded["no"]
    assert isinstance(network.head, DetectionHead)

    assert network.anchors_px.shape == (recorded["nl"], recorded["na"], 2)
    np.testing.assert_array_equal(network.anchors_px, recorded["anchors_px"])
    grid_units = network.anchors_px / torch.tensor(network.strides)[:, None, None]
    np.testing.assert_allclose(grid_units, recorded["anchors_grid_units"], rtol=1e-6)

    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert sorted({norm.eps for norm in norms}) == recorded["bn_eps"]
    assert sorted({norm.momentum for norm in norms}) == recorded["bn_momentum"]

    groups = group_table(split_parameters(network, WEIGHTS_DECAY_BIASES_WARM, weight_decay=5e-4))
    want = recorded["groups"]
    assert [row.tensors for row in groups] == [want["pg0_no_decay"], want["pg1_decay"], want["pg2_bias"]]
    assert [row.numel for row in groups] == want["numel"]

    if "state" in recorded:
        names = published_names(network)
        ours = {names[key]: list(tensor.shape) for key, tensor in network.state_dict().items()}
        assert ours == {key: shape for key, shape in recorded["state"] if not is_anchor(key)}


@pytest.mark.parametrize("cfg", names_in("graphs.json"))
def test_layers_have_the_recorded_parameters_and_shapes(cfg):
    recorded = read_json("graphs.json")[cfg]
    config = config_of(cfg)
    *layers, head = recorded
    num_classes = head["out"][0][-1] - 5
    network = YOLOv7Network(config, num_classes).eval()
    shapes = {}
    for number, layer in enumerate(network.layers):
        layer.register_forward_hook(lambda _l, _i, out, number=number: shapes.update({number: list(out.shape)}))
    cells = layers[0]["out"][0]
    first = layers[0]["ops"][0][4][0] if layers[0]["ops"] else 2  # the stride of the first layer
    with torch.no_grad():
        raw = network(torch.rand(1, 3, cells[2] * first, cells[3] * first), with_aux=True)
    for layer in layers:
        number = layer["i"]
        assert shapes[number] == layer["out"][0], number
        assert sum(p.numel() for p in network.layers[number].parameters()) == layer["params"], number
    assert [list(level.shape) for level in raw] == head["out"]
    heads = [network.head] if network.aux_head is None else [network.head, network.aux_head]
    assert sum(p.numel() for one in heads for p in one.parameters()) == head["params"]
