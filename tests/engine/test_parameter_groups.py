import pytest
import torch
from pydantic import ValidationError
from torch import nn

from sightline.config.errors import ConfigError
from sightline.engine.parameter_groups import (
    ALL_ALIKE,
    FULL_PRECISION_DECAYS,
    WEIGHTS_DECAY,
    WEIGHTS_DECAY_BIASES_WARM,
    GroupRule,
    group_table,
    parameter_kinds,
    split_parameters,
)


class Implicit(nn.Module):
    def __init__(self):
        super().__init__()
        self.implicit = nn.Parameter(torch.zeros(1, 4))


class Net(nn.Module):
    """Conv (no bias), batch norm, implicit knowledge, a linear layer, and a parameter of the root itself."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.knowledge = Implicit()
        self.head = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(1))


def test_a_kind_is_told_by_the_module_type_then_by_the_name():
    kinds = {name: kind for name, kind, _ in parameter_kinds(Net())}
    assert kinds == {
        "scale": "other",
        "conv.weight": "weight",
        "bn.weight": "norm_weight",
        "bn.bias": "norm_bias",
        "knowledge.implicit": "other",
        "head.weight": "weight",
        "head.bias": "bias",
    }


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.BatchNorm1d(4), nn.SyncBatchNorm(4), nn.InstanceNorm2d(4, affine=True)],
)
def test_every_normalisation_is_known_by_its_type_and_not_by_its_name(norm):
    module = nn.Sequential(norm)  # its parameters are called "0.weight" and "0.bias"
    assert [kind for _, kind, _ in parameter_kinds(module)] == ["norm_weight", "norm_bias"]


def test_names_of_attention_and_recurrent_layers_are_weights_and_biases():
    kinds = {name: kind for name, kind, _ in parameter_kinds(nn.MultiheadAttention(4, 2))}
    assert kinds["in_proj_weight"] == "weight" and kinds["in_proj_bias"] == "bias"
    kinds = {name: kind for name, kind, _ in parameter_kinds(nn.LSTM(2, 3))}
    assert kinds["weight_ih_l0"] == "weight" and kinds["bias_hh_l0"] == "bias"


class Rounding(nn.Linear):
    """Says which of its weights it rounds."""

    quantised_parameters = ("weight",)


def test_a_module_says_which_of_its_weights_are_quantised():
    net = nn.Sequential(Rounding(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    kinds = {name: kind for name, kind, _ in parameter_kinds(net)}
    assert kinds["0.weight"] == "quantised_weight"
    assert kinds["0.bias"] == "bias"
    assert kinds["2.weight"] == "weight"


@pytest.mark.parametrize(
    "rules, decaying",
    [
        (FULL_PRECISION_DECAYS, {"0.bias", "2.weight", "2.bias"}),
        (WEIGHTS_DECAY, {"2.weight"}),
        (WEIGHTS_DECAY_BIASES_WARM, {"2.weight"}),
    ],
)
def test_quantised_weights_do_not_decay(rules, decaying):
    net = nn.Sequential(Rounding(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    groups = split_parameters(net, rules, weight_decay=0.1)
    assert {name for group in groups if group.weight_decay for name in group.names} == decaying
    assert sum(len(group.names) for group in groups) == len(list(net.parameters()))


def test_three_groups_as_a_detector_wants_them():
    groups = split_parameters(Net(), WEIGHTS_DECAY_BIASES_WARM, weight_decay=5e-4)
    assert [(group.rule.name, group.names, group.weight_decay) for group in groups] == [
        ("no_decay", ("scale", "bn.weight", "knowledge.implicit"), 0.0),
        ("decay", ("conv.weight", "head.weight"), 5e-4),
        ("biases", ("bn.bias", "head.bias"), 0.0),
    ]


@pytest.mark.parametrize("rules", [ALL_ALIKE, WEIGHTS_DECAY, WEIGHTS_DECAY_BIASES_WARM, FULL_PRECISION_DECAYS])
def test_the_sizes_of_all_groups_add_up_to_the_trainable_parameters(rules):
    net = Net()
    net.head.weight.requires_grad_(False)
    rows = group_table(split_parameters(net, rules, weight_decay=0.1))
    assert sum(row.numel for row in rows) == sum(p.numel() for p in net.parameters()) - net.head.weight.numel()
    assert sum(row.tensors for row in rows) == 6


def test_the_table_says_what_a_person_wants_to_check():
    rules = (
        GroupRule(name="body", match=("any",), exclude=("head.*",)),
        GroupRule(name="head", match=("head.*",), lr_scale=10),
    )
    body, head = group_table(split_parameters(Net(), rules, weight_decay=0.1), examples=2)
    assert body == ("body", 5, 3 * 4 * 9 + 4 + 4 + 4 + 1, 0.1, 1.0, ("scale", "conv.weight"))
    assert head == ("head", 2, 10, 0.1, 10.0, ("head.weight", "head.bias"))


def test_a_parameter_in_no_group_is_named():
    with pytest.raises(ConfigError, match=r"scale \(other\) is in no group"):
        split_parameters(
            Net(), (GroupRule(name="all", match=("weight", "bias", "norm", "*.implicit")),), weight_decay=0.0
        )


def test_a_parameter_in_two_groups_is_named_with_both():
    rules = (*ALL_ALIKE, GroupRule(name="heads", match=("head.*",)))
    with pytest.raises(ConfigError, match=r"head\.weight \(weight\) is in 'all' and 'heads'"):
        split_parameters(Net(), rules, weight_decay=0.0)


def test_a_pattern_that_fits_nothing_is_an_error_because_it_is_a_typo():
    rules = (GroupRule(name="body", match=("any",), exclude=("haed.*",)), GroupRule(name="heads", match=("haed.*",)))
    with pytest.raises(ConfigError, match=r"no parameter of the model fits group 'heads'.*bn, conv, head"):
        split_parameters(Net(), rules, weight_decay=0.0)


def test_frozen_parameters_are_left_out_and_may_empty_a_group():
    net = Net()
    net.head.requires_grad_(False)
    rules = (GroupRule(name="body", match=("any",), exclude=("head.*",)), GroupRule(name="head", match=("head.*",)))
    body, head = split_parameters(net, rules, weight_decay=0.0)
    assert len(body.names) == 5 and head.names == ()


def test_nothing_to_train_is_an_error():
    with pytest.raises(ConfigError, match="no trainable parameter"):
        split_parameters(Net().requires_grad_(False), ALL_ALIKE, weight_decay=0.0)


def test_a_shared_tensor_is_trained_once():
    net = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "out": nn.Linear(3, 5, bias=False)})
    net["out"].weight = net["embedding"].weight
    (group,) = split_parameters(net, ALL_ALIKE, weight_decay=0.0)
    assert group.names == ("embedding.weight",)


@pytest.mark.parametrize("selector, hint", [("norms", "norm"), ("biass", "bias"), ("weights", "weight")])
def test_a_misspelt_kind_is_refused_with_the_nearest_one(selector, hint):
    with pytest.raises(ValidationError, match=f"Did you mean '{hint}'"):
        GroupRule(name="g", match=(selector,))


def test_a_rule_that_matches_nothing_at_all_is_refused():
    with pytest.raises(ValidationError, match="match is empty"):
        GroupRule(name="g", match=())
