"""How weights and activations of a network become numbers of few bits, and which choices go together."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from sightline.config.base import Config

ActivationMethod = Literal[
    "det_sign", "sign_approx_sign", "round", "dorefa", "identity", "approx_sign", "relu", "clip", "leaky_clip"
]
WeightMethod = Literal["det_sign", "sign_approx_sign", "dorefa", "identity"]
Scaling = Literal["none", "binet", "xnor"]

ONE_BIT, FULL_PRECISION = 1, 32


def activation_methods(bits: int) -> tuple[ActivationMethod, ...]:
    """What an activation of so many bits may be."""
    if bits == FULL_PRECISION:
        return "identity", "approx_sign", "relu", "clip", "leaky_clip"
    return ("det_sign", "sign_approx_sign", "round") if bits == ONE_BIT else ("round", "dorefa")


def weight_methods(bits: int) -> tuple[WeightMethod, ...]:
    """What a weight of so many bits may be."""
    if bits == FULL_PRECISION:
        return ("identity",)
    return ("det_sign", "sign_approx_sign") if bits == ONE_BIT else ("dorefa",)


def check_activation(method: str, bits: int) -> None:
    """Refuse an activation that cannot have so many bits.

    Raises:
        ValueError: Names the methods that can.
    """
    _check("activation", method, bits, activation_methods(bits))


def check_weight(method: str, bits: int) -> None:
    """Refuse a kind of weight that cannot have so many bits.

    Raises:
        ValueError: Names the methods that can.
    """
    _check("weight", method, bits, weight_methods(bits))


def _check(what: str, method: str, bits: int, valid: tuple[str, ...]) -> None:
    if not ONE_BIT <= bits <= FULL_PRECISION:
        raise ValueError(f"{what}_bits: {bits}, but there are {ONE_BIT} to {FULL_PRECISION} bits.")
    if method not in valid:
        raise ValueError(
            f"{what}_method={method!r} does not go with {what}_bits={bits}; "
            f"that many bits go with {' or '.join(map(repr, valid))}."
        )


class QuantisationConfig(Config):
    """Bits of the inner layers of a network. First and last layer stay in full precision."""

    weight_bits: int = Field(1, ge=ONE_BIT, le=FULL_PRECISION)
    """Bits of a weight; 32 is full precision."""
    weight_method: WeightMethod = "det_sign"
    """1 bit: det_sign, or sign_approx_sign, whose gradient falls off; 2 to 31 bits: dorefa; 32 bits: identity."""
    activation_bits: int = Field(1, ge=ONE_BIT, le=FULL_PRECISION)
    """Bits of an activation; 32 is full precision."""
    activation_method: ActivationMethod = "det_sign"
    """1 bit: det_sign, sign_approx_sign, round; 2 to 31 bits: round, dorefa; 32 bits: identity, approx_sign, relu,
    clip, leaky_clip."""
    threshold: PositiveFloat = 1.0
    """Activations whose absolute value is above this get no gradient."""
    scaling: Scaling = "none"
    """Multiply the output of a convolution by the mean absolute weight of its channel (binet), or by that and the mean
    absolute input around each place, both without a gradient (xnor)."""

    @model_validator(mode="after")
    def _methods_have_these_bits(self) -> Self:
        check_activation(self.activation_method, self.activation_bits)
        check_weight(self.weight_method, self.weight_bits)
        return self
