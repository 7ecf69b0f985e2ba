"""Networks with one-bit weights and activations, trained as BMXNet v2 does; binary weights are not decayed.

Values without a source of their own are those of the published runs on CIFAR-10. Rates of binary networks are looked
up by the number of updates made, counted from 1: a rate by steps falls with the last update of the epoch before, and a
cosine is at 0 in the last two.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from sightline.data.transforms.class_augment import ClassAugmentConfig
from sightline.engine.optim import OptimizerConfig
from sightline.engine.parameter_groups import FULL_PRECISION_DECAYS, WEIGHTS_DECAY
from sightline.engine.schedule import ScheduleConfig, WarmupConfig
from sightline.models.binary_densenet.config import BinaryDenseNetConfig
from sightline.models.binary_densenet.model import BinaryDenseNet
from sightline.models.binary_resnet.config import BinaryResNetConfig, ShortcutConfig
from sightline.models.binary_resnet.model import BinaryResNet
from sightline.models.blocks.quantisation import QuantisationConfig
from sightline.models.lenet.config import LeNetConfig
from sightline.models.lenet.model import LeNet
from sightline.models.meliusnet.config import MeliusNetConfig
from sightline.models.meliusnet.model import MeliusNet
from sightline.recipes.classification import ClassDataConfig, ClassificationRun, NormalizeConfig

CIFAR_NORMALIZE = NormalizeConfig(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
NO_NORMALIZE = NormalizeConfig(mean=(0.0,), std=(1.0,))
WIDE_GATE = QuantisationConfig(threshold=1.3)
"""The gate of all the best published runs."""
NO_GATE = 1e9
"""A threshold that no activation reaches."""


class _FewBitsRun(ClassificationRun, abc.ABC):
    """A run of a network of a few bits: all of them are built from the same arguments."""

    network: ClassVar[Callable[..., nn.Module]]
    model: Any

    def build_network(self, num_classes: int) -> nn.Module:
        """The network with fresh weights."""
        return type(self).network(self.model, num_classes, image_size=self.image_size, in_channels=self.channels)


class LeNetRun(_FewBitsRun):
    """A run of LeNet, binary or not."""

    network = LeNet
    model: LeNetConfig = LeNetConfig()


class BinaryResNetRun(_FewBitsRun):
    """A run of a binary ResNet."""

    network = BinaryResNet
    model: BinaryResNetConfig = BinaryResNetConfig()


class BinaryDenseNetRun(_FewBitsRun):
    """A run of a binary DenseNet."""

    network = BinaryDenseNet
    model: BinaryDenseNetConfig = BinaryDenseNetConfig()


class MeliusNetRun(_FewBitsRun):
    """A run of a MeliusNet."""

    network = MeliusNet
    model: MeliusNetConfig = MeliusNetConfig()


def lenet() -> LeNetRun:
    """LeNet with a binary convolution and a binary dense layer, for images as those of MNIST.

    ``model.variant=full_precision`` is the same network without bits.
    """
    return LeNetRun(
        recipe="lenet",
        image_size=28,
        crop_ratio=1.0,
        epochs=20,
        batch_size=64,
        lr=0.01,
        normalize=NO_NORMALIZE,
        data=ClassDataConfig(grey=True),
        augment=ClassAugmentConfig(crop="middle", flip_lr=0.0),
        optimizer=OptimizerConfig(kind="mx_adam", groups=FULL_PRECISION_DECAYS),
        schedule=ScheduleConfig(kind="step", interval="epoch", milestones=(10, 15), gamma=0.1, count_from=1),
    )


def resnet_e18_cifar() -> BinaryResNetRun:
    """ResNet-E18 (e1) with shortcuts in full precision, for small images: 150 epochs as published on CIFAR-10.

    There it reached 86.1 % (binary shortcuts 85.6, e2 87.6). ``model.variant=resnet34_e1`` and the like are deeper.

    Within 5 minutes on one core of a server CPU (400 images a class to train on and 100 to evaluate, 6 epochs, batches
    of 64, bf16, a cosine from 0.005): top-1 0.428, the mean of seeds 0, 1, 2 (0.443 0.417 0.425).
    """
    return BinaryResNetRun(
        recipe="resnet-e18-cifar",
        image_size=32,
        crop_ratio=1.0,
        epochs=150,
        batch_size=128,
        lr=0.01,
        normalize=CIFAR_NORMALIZE,
        data=ClassDataConfig(drop_last=True),
        model=BinaryResNetConfig(shortcut=ShortcutConfig(conv="full_precision", pool=True), quantisation=WIDE_GATE),
        augment=ClassAugmentConfig(crop="padded", pad=4),
        optimizer=OptimizerConfig(kind="mx_adam", groups=FULL_PRECISION_DECAYS),
        schedule=ScheduleConfig(kind="step", interval="epoch", milestones=(75, 100, 125), gamma=0.3, count_from=1),
    )


def resnet18_cifar() -> BinaryResNetRun:
    """ResNet-18 for small images, in full precision: what ``resnet-e18-cifar`` is compared with.

    The stem and the stages are the same; a shortcut stands around two convolutions, which have 32 bits and see ReLUs.
    Within the same 5 minutes on one core, with its own schedule: top-1 0.568 (0.577 0.571 0.555).
    """
    base = resnet_e18_cifar()
    floats = QuantisationConfig(
        weight_bits=32, weight_method="identity", activation_bits=32, activation_method="relu", threshold=NO_GATE
    )
    return base.but(
        recipe="resnet18-cifar",
        lr=0.05,
        model=base.model.but(variant="resnet18_v1", quantisation=floats),
        optimizer=OptimizerConfig(kind="sgd", momentum=0.9, nesterov=True, weight_decay=5e-4, groups=WEIGHTS_DECAY),
        schedule=ScheduleConfig(kind="cosine", final=0.0, warmup=WarmupConfig(epochs=1)),
    )


def binary_densenet() -> BinaryDenseNetRun:
    """BinaryDenseNet-28 as ``resnet-e18-cifar``; ``model.variant=densenet37`` and ``densenet45`` are deeper."""
    base = resnet_e18_cifar()
    values = {key: getattr(base, key) for key in type(base).model_fields if key not in ("model", "recipe")}
    return BinaryDenseNetRun(recipe="binary-densenet", model=BinaryDenseNetConfig(quantisation=WIDE_GATE), **values)


def meliusnet() -> MeliusNetRun:
    """MeliusNet-22 as ``resnet-e18-cifar``, by RAdam along a cosine; ``model.variant=meliusnet59`` is deeper."""
    base = resnet_e18_cifar()
    values = {key: getattr(base, key) for key in type(base).model_fields if key not in ("model", "recipe")}
    values |= {
        "lr": 0.002,
        "optimizer": OptimizerConfig(kind="mx_radam", momentum=0.95, groups=FULL_PRECISION_DECAYS),
        "schedule": ScheduleConfig(kind="cosine", interval="step", final=0.0, final_at="last", count_from=1),
    }
    return MeliusNetRun(recipe="meliusnet", model=MeliusNetConfig(quantisation=WIDE_GATE), **values)
