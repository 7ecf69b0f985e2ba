"""Parameter groups as rules: which parameters decay, and which have a learning rate of their own.

A rule is a list of selectors. A selector is a kind of parameter or a pattern on full names. Every trainable
parameter must be taken by exactly one rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, Self, get_args

from pydantic import NonNegativeFloat, PositiveFloat, model_validator
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from sightline.config.base import Config
from sightline.config.errors import ConfigError, did_you_mean

ParameterKind = Literal["norm_weight", "norm_bias", "quantised_weight", "weight", "bias", "other"]
"""``norm_weight`` and ``norm_bias`` belong to a normalisation module, known by its type; a ``quantised_weight`` is one
that its module names in ``quantised_parameters``: only what becomes of it when it is rounded counts; ``weight`` and
``bias`` are told by the last part of the name; ``other`` is the rest (embeddings, tokens, implicit knowledge)."""

_KINDS: tuple[str, ...] = get_args(ParameterKind)
_WORDS: dict[str, tuple[str, ...]] = {
    **{kind: (kind,) for kind in _KINDS},
    "norm": ("norm_weight", "norm_bias"),
    "any": _KINDS,
}
_NORM_TYPES = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class GroupRule(Config):
    """One parameter group: what belongs to it and how it is trained."""

    name: str
    match: tuple[str, ...]
    """Selectors; one that fits is enough. A kind (norm_weight, norm_bias, norm, quantised_weight, weight, bias, other,
    any), or a pattern on the full name such as ``backbone.*`` or ``*.implicit``."""
    exclude: tuple[str, ...] = ()
    """Selectors of parameters that the rule leaves alone."""
    weight_decay: NonNegativeFloat | None = None
    """Decay of this group; when left out, the optimizer's."""
    lr_scale: PositiveFloat = 1.0
    """Multiple of the run's learning rate."""
    uses_bias_warmup: bool = False
    """Whether warm-up starts from ``schedule.warmup.bias_lr``."""

    @model_validator(mode="after")
    def _selectors_are_known(self) -> Self:
        if not self.match:
            raise ValueError(f"group {self.name!r}: match is empty, so nothing belongs to it.")
        for selector in (*self.match, *self.exclude):
            if selector not in _WORDS and not any(sign in selector for sign in ".*?["):
                raise ValueError(
                    f"group {self.name!r}: {selector!r} is neither a kind of parameter ({', '.join(_WORDS)}) nor a "
                    f"pattern on names.{did_you_mean(selector, _WORDS)}"
                )
        return self

    def takes(self, name: str, kind: ParameterKind) -> bool:
        """Whether a parameter belongs to this group."""
        return _selected(self.match, name, kind) and not _selected(self.exclude, name, kind)


ALL_ALIKE = (GroupRule(name="all", match=("any",)),)
"""One group; everything decays."""

WEIGHTS_DECAY = (
    GroupRule(name="no_decay", match=("norm", "quantised_weight", "bias", "other"), weight_decay=0.0),
    GroupRule(name="decay", match=("weight",)),
)
"""Only the weights of layers that are no normalisation decay; quantised weights do not."""

FULL_PRECISION_DECAYS = (
    GroupRule(name="no_decay", match=("norm", "quantised_weight"), weight_decay=0.0),
    GroupRule(name="decay", match=("weight", "bias", "other")),
)
"""Everything decays, biases too, but normalisation and quantised weights, as in BMXNet v2."""

WEIGHTS_DECAY_BIASES_WARM = (
    GroupRule(name="no_decay", match=("norm_weight", "quantised_weight", "other"), weight_decay=0.0),
    GroupRule(name="decay", match=("weight",)),
    GroupRule(name="biases", match=("bias", "norm_bias"), weight_decay=0.0, uses_bias_warmup=True),
)
"""As ``WEIGHTS_DECAY`` with the biases apart, so that their learning rate can warm up from above."""


@dataclass(frozen=True)
class ParameterGroup:
    """The parameters that a rule took, in the model's order."""

    rule: GroupRule
    weight_decay: float
    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]


class GroupRow(NamedTuple):
    """One line of the printed table of groups."""

    group: str
    tensors: int
    numel: int
    weight_decay: float
    lr_scale: float
    examples: tuple[str, ...]


def parameter_kinds(module: nn.Module) -> Iterator[tuple[str, ParameterKind, nn.Parameter]]:
    """Full name, kind and tensor of every parameter; a shared one once, under its first name."""
    seen: set[int] = set()
    for prefix, owner in module.named_modules():
        is_norm = isinstance(owner, _NORM_TYPES)
        quantised = getattr(owner, "quantised_parameters", ())
        for last, parameter in owner.named_parameters(prefix="", recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                kind = "quantised_weight" if last in quantised else _kind(last, is_norm)
                yield f"{prefix}.{last}" if prefix else last, kind, parameter


def _kind(last_part: str, is_norm: bool) -> ParameterKind:
    words = last_part.split("_")
    if "bias" in words:
        return "norm_bias" if is_norm else "bias"
    if is_norm:
        return "norm_weight"
    return "weight" if "weight" in words else "other"


def _selected(selectors: Sequence[str], name: str, kind: ParameterKind) -> bool:
    return any(
        kind in _WORDS[selector] if selector in _WORDS else fnmatchcase(name, selector) for selector in selectors
    )


def split_parameters(module: nn.Module, rules: Sequence[GroupRule], *, weight_decay: float) -> list[ParameterGroup]:
    """Divide the trainable parameters among the rules. Frozen parameters (``requires_grad`` False) are left out.

    Args:
        module: The model; names are counted from here.
        rules: One group each, in this order. A group may be empty.
        weight_decay: Decay of the rules that do not give their own.

    Raises:
        ConfigError: If a parameter is taken by two rules or by none, if a rule of patterns fits no parameter at
            all, or if nothing is trainable.
    """
    taken: list[list[tuple[str, nn.Parameter]]] = [[] for _ in rules]
    fits = [False] * len(rules)
    faults: list[str] = []
    for name, kind, parameter in parameter_kinds(module):
        takers = [number for number, rule in enumerate(rules) if rule.takes(name, kind)]
        for number in takers:
            fits[number] = True
        if not parameter.requires_grad:
            continue
        if len(takers) == 1:
            taken[takers[0]].append((name, parameter))
        else:
            groups = " and ".join(repr(rules[number].name) for number in takers) or "no group"
            faults.append(f"{name} ({kind}) is in {groups}")
    if faults:
        shown = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
        raise ConfigError(
            f"optimizer.groups: every parameter must be in exactly one group, but {shown}. Change match or exclude."
        )
    for rule, fit in zip(rules, fits, strict=True):
        if not fit and not any(selector in _WORDS for selector in rule.match):
            raise ConfigError(
                f"optimizer.groups: no parameter of the model fits group {rule.name!r} (match {list(rule.match)}). "
                f"The names begin with {', '.join(sorted({n.split('.')[0] for n, _ in module.named_parameters()}))}."
            )
    if not any(taken):
        raise ConfigError("optimizer.groups: the model has no trainable parameter. Unfreeze a part of it.")
    return [
        ParameterGroup(
            rule=rule,
            weight_decay=weight_decay if rule.weight_decay is None else rule.weight_decay,
            names=tuple(name for name, _ in members),
            parameters=tuple(parameter for _, parameter in members),
        )
        for rule, members in zip(rules, taken, strict=True)
    ]


def group_table(groups: Sequence[ParameterGroup], *, examples: int = 3) -> list[GroupRow]:
    """The groups as rows for printing; the ``numel`` of all rows add up to the trainable parameters."""
    return [
        GroupRow(
            group=group.rule.name,
            tensors=len(group.parameters),
            numel=sum(parameter.numel() for parameter in group.parameters),
            weight_decay=group.weight_decay,
            lr_scale=group.rule.lr_scale,
            examples=group.names[:examples],
        )
        for group in groups
    ]
