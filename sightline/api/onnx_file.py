"""ONNX files: a network as a graph of standard operators, and whether ONNX Runtime computes what PyTorch does.

Every number is float32. Signs stay exact: both zeros give +1, as when the network was trained.
"""

from __future__ import annotations

import copy
import json
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from sightline.config.errors import ConfigError, RunError
from sightline.config.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from sightline.recipes.images import ImageRun
    from sightline.tasks.image_model import Graph, ImageModel

TOLERANCE = 1e-4
"""Of the largest output, or absolute where that is below 1."""
OF_FLIPS = 10
"""A network with signs may be so many times further from PyTorch than PyTorch is from itself in float64."""
OLDEST_OPSET = 18
"""That the exporter writes without converting."""
LARGEST = 2_000_000_000
"""Bytes of weights; the format ends at 2 GiB."""
NEEDED = ("onnx", "onnxscript")


def check_installed(opset: int | None) -> None:
    """See early whether a file can be written.

    Raises:
        ConfigError: If a package is missing, or there is no such version of the operators.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX files need the packages {' and '.join(missing)}: pip install 'sightline[onnx]'")
    from onnx.defs import onnx_opset_version

    newest = onnx_opset_version()
    if opset is not None and not OLDEST_OPSET <= opset <= newest:
        raise ConfigError(f"opset: {opset}, but {OLDEST_OPSET} to {newest} can be written.")


def onnx_content(
    config: ImageRun, model: ImageModel, *, opset: int | None, dynamic_batch: bool, normalised: bool
) -> tuple[bytes, list[str]]:
    """The bytes of an ONNX file, and what a user should know of them.

    Args:
        config: What the model was built from.
        model: With its weights, on the CPU.
        opset: Version of the operators; the exporter's own when left out.
        dynamic_batch: Whether the number of images is open.
        normalised: Whether the images come as floats that are normalised already.

    Raises:
        ConfigError: If the model has no graph that can be exported.
        RunError: If the exporter cannot write it, or ONNX Runtime does not compute what PyTorch does.
    """
    import torch

    _with_ready_signs(model)
    model.prepare(torch.device("cpu"))
    graph = model.graph(normalised=normalised)
    num_bytes = sum(4 * tensor.numel() for tensor in graph.module.state_dict().values())
    if num_bytes > LARGEST:
        raise RunError(f"its weights take {num_bytes / 1e9:.1f} GB, and an ONNX file holds 2.")
    program = _converted(graph, opset=opset, dynamic_batch=dynamic_batch)
    _forget_the_machine(program)
    told = {
        "recipe": config.recipe,
        "input": graph.input_meaning,
        "output": graph.output_meaning,
        "image_size": graph.image_size,
        **graph.facts,
    }
    _write_facts(program, told, model.class_names)
    content: bytes = program.SerializeToString()
    version = next(one.version for one in program.opset_import if one.domain in ("", "ai.onnx"))
    batch = "B" if dynamic_batch else "1"
    shape = f"({batch}, {graph.channels}, {graph.image_size}, {graph.image_size})"
    notes = [
        f"opset {version}; images {shape}: {graph.input_meaning}",
        f"{graph.output}: {graph.output_meaning}",
        _checked(content, graph, dynamic_batch=dynamic_batch),
    ]
    return content, notes


def _with_ready_signs(model: ImageModel) -> None:
    """Signs of weights as numbers in the place of a computation."""
    from sightline.models.blocks.packed_layers import is_binary, load_packed, pack_network

    if any(map(is_binary, model.task.modules())):
        load_packed(model.task, pack_network(model.task), count_bits=False)


def _converted(graph: Graph, *, opset: int | None, dynamic_batch: bool) -> Any:
    import torch

    sample = _images(graph, 2 if dynamic_batch else 1)  # an open size must not be 1, which stands for itself
    shapes = {"images": {0: torch.export.Dim("batch")}} if dynamic_batch else None
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph.module,
                (sample,),
                dynamo=True,
                verbose=False,
                external_data=False,
                opset_version=opset,
                input_names=["images"],
                output_names=[graph.output],
                dynamic_shapes=shapes,
            )
    except (RuntimeError, ValueError, TypeError) as failure:  # OnnxExporterError is a RuntimeError
        error: BaseException = failure
        while error.__cause__ is not None:
            error = error.__cause__
        reason = printable(next(iter(str(error).strip().splitlines()), type(error).__name__), limit=200)
        raise RunError(f"PyTorch cannot write this network as ONNX: {reason}") from failure
    assert program is not None, "dynamo=True gives a program"
    proto: Any = program.model_proto
    written = next(one.version for one in proto.opset_import if one.domain in ("", "ai.onnx"))
    if opset is not None and written != opset:
        raise RunError(f"opset {opset}: PyTorch cannot write this network in it, only in {written}. Leave --opset out.")
    if dynamic_batch and not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise RunError("this network is written for one number of images alone. Leave --dynamic-batch out.")
    return proto


def _images(graph: Graph, count: int) -> Tensor:
    """The same images every time, (count, C, S, S): black, white, and noise."""
    import torch

    random = torch.Generator().manual_seed(0)
    size = (max(count, 2), graph.channels, graph.image_size, graph.image_size)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=random)
    images[0], images[1] = 0, 255
    return graph.prepared(images[:count])


def _forget_the_machine(program: Any) -> None:
    """Leave out names of modules, and the stacks of calls with their paths."""
    graph = program.graph
    for one in (program, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        one.ClearField("metadata_props")
        one.ClearField("doc_string")


def _write_facts(program: Any, facts: Mapping[str, Any], class_names: Sequence[str]) -> None:
    from sightline import __version__

    program.producer_name, program.producer_version = "sightline", __version__
    for name, value in {"class_names": list(class_names), **facts}.items():
        entry = program.metadata_props.add()
        entry.key, entry.value = name, value if isinstance(value, str) else json.dumps(value)


class _Difference(NamedTuple):
    largest: float
    output: float
    """The largest absolute output."""


def _checked(content: bytes, graph: Graph, *, dynamic_batch: bool) -> str:
    """How far ONNX Runtime is from PyTorch.

    Raises:
        RunError: If it is too far.
    """
    if find_spec("onnxruntime") is None:
        return "not checked: onnxruntime is not installed (pip install 'sightline[onnx]')"
    import onnxruntime
    import torch

    images = _images(graph, 4)
    batches = [images[:1], images[1:]] if dynamic_batch else [images[place : place + 1] for place in range(len(images))]
    with torch.no_grad():
        ours = [graph.module(batch) for batch in batches]
    theirs = _computed(content, graph.output, batches)
    there = _difference(theirs, ours)
    text = f"checked with ONNX Runtime {onnxruntime.__version__}: at most {there.largest:.2g} from PyTorch"
    allowed = TOLERANCE * max(1.0, there.output)
    if there.largest > allowed and _has_signs(graph.module):
        itself = _difference(ours, _in_float64(graph, batches)).largest
        allowed = max(allowed, OF_FLIPS * itself)
        text += f", which is {itself:.2g} from itself in float64: signs of numbers near 0 flip"
    if not there.largest <= allowed:
        raise RunError(f"{text}; {allowed:.2g} is allowed. Nothing was written; try another --opset.")
    return text


def _computed(content: bytes, output: str, batches: Sequence[Tensor]) -> list[Tensor]:
    """What ONNX Runtime makes of images.

    Raises:
        RunError: If it does not take the file.
    """
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return [torch.from_numpy(session.run([output], {"images": batch.numpy()})[0]) for batch in batches]
    except Exception as error:  # its errors have no class in common
        reason = printable(" ".join(str(error).split()), limit=300)
        raise RunError(
            f"ONNX Runtime {onnxruntime.__version__} does not run this network: {reason} Nothing was written; leave "
            "--opset out, or try another one."
        ) from error


def _difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> _Difference:
    pairs = list(zip(one, other, strict=True))
    return _Difference(
        max(float((a.double() - b.double()).abs().max()) for a, b in pairs),
        max(float(b.abs().max()) for _, b in pairs),
    )


def _has_signs(module: nn.Module) -> bool:
    from sightline.models.blocks.binary_layers import QuantisedActivation

    return any(isinstance(one, QuantisedActivation) for one in module.modules())


def _in_float64(graph: Graph, batches: Sequence[Tensor]) -> list[Tensor]:
    import torch

    module = copy.deepcopy(graph.module).double()
    with torch.no_grad():
        return [module(batch.double() if batch.is_floating_point() else batch) for batch in batches]
