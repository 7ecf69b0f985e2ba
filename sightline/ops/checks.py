"""Checks of shapes. They read only shapes, so they never wait for a device."""

from collections.abc import Sequence

from torch import Tensor


def check_shape(name: str, tensor: Tensor, shape: Sequence[int | str]) -> None:
    """Compare a tensor's shape with the expected one; letters match any size.

    Args:
        name: What the tensor is called in the caller's signature.
        tensor: The tensor.
        shape: One entry per dimension: a size, or a letter such as ``"N"`` for any size.

    Raises:
        ValueError: If the number of dimensions or a fixed size differs.
    """
    fits = tensor.dim() == len(shape) and all(
        isinstance(want, str) or want == got for want, got in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        expected = ", ".join(str(size) for size in shape)
        raise ValueError(f"{name}: expected shape ({expected}), got {tuple(tensor.shape)}.")
