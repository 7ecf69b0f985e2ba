"""Files of binary networks: one bit for every binary weight, and MXNet's parameters. Whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.api.output import check_output, naming
from sightline.config.errors import RunError
from sightline.config.printable import printable
from sightline.config.safe_file import FileReadError, cure_of, read_regular_file
from sightline.engine.run_folder.atomic_file import replace_file

if TYPE_CHECKING:
    from torch import nn

    from sightline.importers.mxnet_params import Array
    from sightline.models.blocks.packed_file import LayerSize, PackedNetwork

AnyPath = str | os.PathLike[str]


def export_packed(
    model: nn.Module, path: AnyPath, *, network: Mapping[str, Any], half: bool = False
) -> list[LayerSize]:
    """Write a network with one bit for every binary weight; a file that stood there is replaced in one stroke.

    Args:
        model: The network.
        path: Ends with ``.safetensors``.
        network: What it is built from, as plain values; whoever reads the file builds it anew from them.
        half: Store what is not binary as float16, which rounds it.

    Returns:
        What every tensor takes; ``sightline.models.blocks.packed_file.size_table`` prints it.

    Raises:
        RunError: The file cannot be written, or the network has no binary layer or a value that cannot be stored.
    """
    from sightline.models.blocks.packed_file import encode_packed, sizes
    from sightline.models.blocks.packed_layers import pack_network

    check_output(path, suffix=".safetensors")
    packed = pack_network(model, network)
    try:
        content = encode_packed(packed, half=half)
    except ValueError as error:
        raise RunError(f"{printable(path)}: {error}") from error
    _replace(path, content)
    return sizes(packed, half=half)


def read_packed(path: AnyPath) -> PackedNetwork:
    """The content of a file from ``export_packed``.

    ``sightline.models.blocks.packed_layers.load_packed`` puts it into a network that was built from its description.

    Raises:
        RunError: It cannot be read, is no such file, was cut or changed, or comes from a newer version.
    """
    from sightline.models.blocks.packed_file import LARGEST_FILE, decode_packed

    path = Path(path).expanduser()
    try:
        content = read_regular_file(path, limit=LARGEST_FILE)
    except FileReadError as error:
        cure = cure_of(error, path, pattern="*.safetensors")
        raise RunError(f"{printable(path)}: {error.message}. {cure}") from None
    return decode_packed(content, source=printable(path))


def write_params(arrays: Mapping[str, Array], path: AnyPath) -> None:
    """Write arrays as an MXNet ``.params`` file; a file that stood there is replaced in one stroke.

    Args:
        arrays: By name, such as ``sightline.importers.bmxnet.export_network`` gives.
        path: Ends with ``.params``.

    Raises:
        RunError: The file cannot be written, or MXNet's format cannot hold an array.
    """
    from sightline.importers.mxnet_params import encode_params

    check_output(path, suffix=".params")
    try:
        content = encode_params(arrays)
    except ValueError as error:
        raise RunError(f"{printable(path)}: {error}") from error
    _replace(path, content)


def _replace(path: AnyPath, content: bytes) -> None:
    path = Path(path).expanduser()
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
