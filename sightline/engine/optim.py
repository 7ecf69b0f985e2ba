"""SGD, Adam and AdamW over torch's fused kernels, and the configuration that chooses among all optimizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor, nn

from sightline.config.base import Config
from sightline.engine.mx_optim import MxAdam, MxRAdam
from sightline.engine.optimizer import Bucket, Optimizer, Ready
from sightline.engine.parameter_groups import ALL_ALIKE, GroupRule, ParameterGroup, split_parameters
from sightline.engine.schedule import GroupValues

SGD_KINDS = ("sgd", "mx_sgd")


class OptimizerConfig(Config):
    """How gradients become updates. The learning rate itself is the run's ``lr``."""

    kind: Literal["sgd", "adam", "adamw", "mx_sgd", "mx_adam", "mx_radam"] = "sgd"
    """sgd with momentum, adam, or adamw, whose weight decay is apart from the gradient; or one of MXNet's rules mx_sgd,
    mx_adam and mx_radam: the rate is inside the momentum, and eps outside of the bias correction."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD; beta1 of the kinds of Adam."""
    nesterov: bool = False
    """SGD looks ahead along the momentum; mx_sgd is then MXNet's NAG."""
    beta2: float | None = Field(None, ge=0, lt=1)
    """Kinds of Adam: decay of the squared gradients; 0.999 when left out."""
    eps: PositiveFloat | None = None
    """Kinds of Adam: added to the denominator; when left out 1e-8, in mx_radam 1e-5."""
    weight_decay: NonNegativeFloat = 0.0
    """L2 term added to the gradient; AdamW instead shrinks the weights by ``lr * weight_decay``."""
    decay_follows_batch: bool = False
    """Multiply the weight decay by the samples of a full accumulation window over the nominal batch size."""
    groups: tuple[GroupRule, ...] = ALL_ALIKE
    """Rules of the parameter groups; every trainable parameter belongs to exactly one."""

    @classmethod
    def useless(cls, values: Mapping[str, Any]) -> tuple[str, ...]:
        """What belongs to the other kinds."""
        return ("beta2", "eps") if values.get("kind", "sgd") in SGD_KINDS else ("nesterov",)

    @model_validator(mode="after")
    def _every_key_is_used(self) -> Self:
        for key in self.useless({"kind": self.kind}):
            if getattr(self, key) is not None and getattr(self, key) is not False:
                owner = "the kinds of adam" if self.kind in SGD_KINDS else " and ".join(SGD_KINDS)
                raise ValueError(f"{key} does nothing in {self.kind!r}; it belongs to {owner}. Leave it out.")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0.")
        names = [rule.name for rule in self.groups]
        if len(set(names)) != len(names):
            raise ValueError(f"groups: names must differ, got {names}.")
        return self


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: ``m = momentum m + g; w -= lr m`` (or ``g + momentum m``, Nesterov).

    Decay adds ``weight_decay * w`` to ``g``.

    Reference:
        Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013.
    """

    slots = ("momentum",)
    counts_steps = False
    kernel = "_fused_sgd_"

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        *,
        nesterov: bool = False,
        fused: bool = True,
    ) -> None:
        super().__init__(groups, fused=fused)
        self.nesterov = nesterov

    def _for_kernel(self, bucket: Bucket, ready: Ready, values: GroupValues) -> tuple[list[Tensor], float, float]:
        """The gradients, the rate and the decay that the kernel gets."""
        return ready.grads, values.lr, self.groups[bucket.group].weight_decay

    def _step_fused(
        self,
        kernel: Callable[..., Any],
        bucket: Bucket,
        ready: Ready,
        values: GroupValues,
        found_inf: Tensor | None,
    ) -> None:
        momentum = values.momentum
        grads, lr, weight_decay = self._for_kernel(bucket, ready, values)
        kernel(
            ready.parameters,
            grads,
            ready.slots[self.slots[0]] if momentum else [],
            weight_decay=weight_decay,
            momentum=momentum,
            lr=lr,
            dampening=0.0,
            nesterov=self.nesterov and momentum > 0,
            maximize=False,
            is_first_step=False,
            found_inf=found_inf,
        )

    def _step_slowly(self, bucket: Bucket, ready: Ready, values: GroupValues) -> None:
        from torch.optim.sgd import sgd

        momentum = values.momentum
        grads, lr, weight_decay = self._for_kernel(bucket, ready, values)
        sgd(
            ready.parameters,
            grads,
            list(ready.slots[self.slots[0]]),
            weight_decay=weight_decay,
            momentum=momentum,
            lr=lr,
            dampening=0.0,
            nesterov=self.nesterov and momentum > 0,
            maximize=False,
        )


class MxSGD(SGD):
    """SGD whose momentum has the learning rate inside, as in MXNet: ``m = momentum m - lr g; w += m``.

    With Nesterov momentum ``w += momentum m - lr g``. Decay adds ``weight_decay * w`` to ``g``. It is plain SGD with
    the rate 1 and gradients times the true one, which are copies: others may look at the gradients after the step.
    The state is ``-m``, under a name of its own: neither rule can go on from what the other keeps.
    """

    slots = ("velocity",)

    def _for_kernel(self, bucket: Bucket, ready: Ready, values: GroupValues) -> tuple[list[Tensor], float, float]:
        grads = list(torch._foreach_mul(ready.grads, values.lr))
        return grads, 1.0, values.lr * self.groups[bucket.group].weight_decay


class Adam(Optimizer):
    """Adam: ``w -= lr m_hat / (sqrt(v_hat) + eps)``; decay adds ``weight_decay * w`` to the gradient.

    Reference:
        Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1.
    """

    slots = ("exp_avg", "exp_avg_sq")
    counts_steps = True
    kernel = "_fused_adam_"
    decoupled: ClassVar[bool] = False
    """Whether decay shrinks the weights apart from the gradient."""

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        *,
        beta2: float = 0.999,
        eps: float = 1e-8,
        fused: bool = True,
    ) -> None:
        super().__init__(groups, fused=fused)
        self.beta2 = beta2
        self.eps = eps

    def _step_fused(
        self,
        kernel: Callable[..., Any],
        bucket: Bucket,
        ready: Ready,
        values: GroupValues,
        found_inf: Tensor | None,
    ) -> None:
        lr, beta1 = values
        done: Tensor | float = 1.0 if found_inf is None else 1.0 - found_inf
        if ready.places is None:
            bucket.counter.add_(done)
        else:
            bucket.counter[ready.places] += done
        kernel(
            ready.parameters,
            ready.grads,
            ready.slots["exp_avg"],
            ready.slots["exp_avg_sq"],
            [],
            ready.steps,
            lr=lr,
            beta1=beta1,
            beta2=self.beta2,
            weight_decay=self.groups[bucket.group].weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
            found_inf=found_inf,
        )

    def _step_slowly(self, bucket: Bucket, ready: Ready, values: GroupValues) -> None:
        from torch.optim.adam import adam

        lr, beta1 = values
        adam(
            ready.parameters,
            ready.grads,
            ready.slots["exp_avg"],
            ready.slots["exp_avg_sq"],
            [],
            ready.steps,
            amsgrad=False,
            beta1=beta1,
            beta2=self.beta2,
            lr=lr,
            weight_decay=self.groups[bucket.group].weight_decay,
            eps=self.eps,
            maximize=False,
            decoupled_weight_decay=self.decoupled,
        )


class AdamW(Adam):
    """Adam whose decay shrinks the weights by ``1 - lr * weight_decay`` before the step.

    Reference:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
    """

    kernel = "_fused_adamw_"
    decoupled = True


def build_optimizer(
    config: OptimizerConfig, module: nn.Module, *, decay_scale: float = 1.0, fused: bool = True
) -> Optimizer:
    """The optimizer of a model.

    Args:
        config: Kind, numbers and rules of the groups.
        module: The model, on its device and in its memory format.
        decay_scale: ``AccumulationConfig.decay_scale``; used where ``config.decay_follows_batch``.
        fused: Whether to use fused kernels where torch has them.

    Raises:
        ConfigError: If the rules do not divide the parameters, see ``split_parameters``.
    """
    weight_decay = config.weight_decay * decay_scale if config.decay_follows_batch else config.weight_decay
    groups = split_parameters(module, config.groups, weight_decay=weight_decay)
    if config.kind in SGD_KINDS:
        sgd = MxSGD if config.kind == "mx_sgd" else SGD
        return sgd(groups, nesterov=config.nesterov, fused=fused)
    beta2 = 0.999 if config.beta2 is None else config.beta2
    default_eps = 1e-5 if config.kind == "mx_radam" else 1e-8
    eps = default_eps if config.eps is None else config.eps
    adams: dict[str, type[Adam | MxAdam]] = {"adam": Adam, "adamw": AdamW, "mx_adam": MxAdam, "mx_radam": MxRAdam}
    return adams[config.kind](groups, beta2=beta2, eps=eps, fused=fused)
