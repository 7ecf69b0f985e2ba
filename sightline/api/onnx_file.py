"""ONNX files: a network as a graph of standard operators, and whether ONNX Runtime computes what PyTorch does.

Every number is float32. Signs stay exact: both zeros give +1, as when the network was trained.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from sightline.config.errors import ConfigError, RunError
from sightline.config.printable import counted, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from sightline.recipes.data_run import DataRun
    from sightline.tasks.graph import Graph, GraphInput, GraphOutput, PixelType
    from sightline.tasks.trained_model import TrainedModel

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
    config: DataRun,
    model: TrainedModel,
    *,
    opset: int | None,
    dynamic_batch: bool,
    input: PixelType | None,
) -> tuple[bytes, list[str]]:
    """The bytes of an ONNX file, and what a user should know of them.

    Args:
        config: What the model was built from.
        model: With its weights, on the CPU.
        opset: Version of the operators; the exporter's own when left out.
        dynamic_batch: Whether the number of images is open.
        input: How images come; see ``TrainedModel.graph``.

    Raises:
        ConfigError: If the model has no graph that can be exported.
        RunError: If the exporter cannot write it, or ONNX Runtime does not compute what PyTorch does.
    """
    import torch

    _with_ready_signs(model)
    model.prepare(torch.device("cpu"))
    graph = model.graph(dynamic_batch=dynamic_batch, input=input)
    num_bytes = sum(4 * tensor.numel() for tensor in graph.module.state_dict().values())
    if num_bytes > LARGEST:
        raise RunError(f"its weights take {num_bytes / 1e9:.1f} GB, and an ONNX file holds 2.")
    program = _converted(graph, opset=opset)
    _forget_the_machine(program)
    told = {
        "recipe": config.recipe,
        "input": _meanings(graph.inputs),
        "output": _meanings(graph.outputs),
        **graph.facts,
    }
    _write_facts(program, told, model.class_names)
    content: bytes = program.SerializeToString()
    version = next(one.version for one in program.opset_import if one.domain in ("", "ai.onnx"))
    first, *others = (str(one) for one in (*graph.inputs, *graph.outputs))
    return content, [f"opset {version}; {first}", *others, _checked(content, graph)]


def _meanings(tensors: Sequence[GraphInput | GraphOutput]) -> str | dict[str, str]:
    """The meaning of the only one, or those of all by name."""
    return tensors[0].meaning if len(tensors) == 1 else {one.name: one.meaning for one in tensors}


def _with_ready_signs(model: TrainedModel) -> None:
    """Signs of weights as numbers in the place of a computation."""
    from sightline.models.blocks.packed_layers import is_binary, load_packed, pack_network

    if any(map(is_binary, model.task.modules())):
        load_packed(model.task, pack_network(model.task), count_bits=False)


def _converted(graph: Graph, *, opset: int | None) -> Any:
    import torch

    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                graph.module,
                graph.examples[0],
                dynamo=True,
                verbose=False,
                external_data=False,
                opset_version=opset,
                input_names=[one.name for one in graph.inputs],
                output_names=[one.name for one in graph.outputs],
                dynamic_shapes=_dynamic_shapes(graph),
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
    for one, there in zip(graph.inputs, proto.graph.input, strict=True):
        for size, dim in zip(one.shape, there.type.tensor_type.shape.dim, strict=True):
            if not isinstance(size, int) and not dim.dim_param:
                cure = " Leave --dynamic-batch out." if size.name == "batch" else ""
                raise RunError(f"{one.name}: this network is written for one length of {size.name} alone.{cure}")
    return proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the words of the exporter and of its optimizer, which are for their makers."""
    log = logging.getLogger("onnxscript")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _dynamic_shapes(graph: Graph) -> tuple[dict[int, Any], ...] | None:
    """The open axes of every input; None where there are none."""
    import torch

    axes = {axis for one in graph.inputs for axis in one.shape if not isinstance(axis, int)}
    sizes = {axis: torch.export.Dim(axis.name) for axis in axes}
    shapes = [{n: sizes[axis] for n, axis in enumerate(one.shape) if not isinstance(axis, int)} for one in graph.inputs]
    return tuple(shapes) if sizes else None


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
    relative: float
    """The largest in relation to the size of the output, or to 1 where that is smaller."""


def _checked(content: bytes, graph: Graph) -> str:
    """How far ONNX Runtime is from PyTorch.

    Raises:
        RunError: If it is too far.
    """
    if find_spec("onnxruntime") is None:
        return "not checked: onnxruntime is not installed (pip install 'sightline[onnx]')"
    import onnxruntime
    import torch

    with torch.no_grad():
        ours = [graph.outputs_of(graph.module, example) for example in graph.examples]
    theirs = _computed(content, graph)
    turned, theirs = _without_jumps(graph, theirs, ours)
    there = _difference(graph, theirs, ours)
    text = f"checked with ONNX Runtime {onnxruntime.__version__}: at most {there.largest:.2g} from PyTorch"
    if turned:
        text += f", apart from {counted(turned, 'number')} that a rounding turns"
    allowed = TOLERANCE
    if there.relative > allowed and _has_signs(graph.module):
        itself = _difference(graph, ours, _in_float64(graph))
        allowed = max(allowed, OF_FLIPS * itself.relative)
        text += f", which is {itself.largest:.2g} from itself in float64: signs of numbers near 0 flip"
    if not there.relative <= allowed:
        raise RunError(
            f"{text}; {allowed:.2g} of the size of the output is allowed. Nothing was written; try another --opset."
        )
    return text


def _computed(content: bytes, graph: Graph) -> list[tuple[Tensor, ...]]:
    """What ONNX Runtime makes of the examples.

    Raises:
        RunError: If it does not take the file.
    """
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    names, outputs = [one.name for one in graph.inputs], [one.name for one in graph.outputs]
    feeds = [dict(zip(names, (one.numpy() for one in example), strict=True)) for example in graph.examples]
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return [tuple(map(torch.from_numpy, session.run(outputs, feed))) for feed in feeds]
    except Exception as error:  # its errors have no class in common
        reason = printable(" ".join(str(error).split()), limit=300)
        raise RunError(
            f"ONNX Runtime {onnxruntime.__version__} does not run this network: {reason} Nothing was written; leave "
            "--opset out, or try another one."
        ) from error


def _without_jumps(
    graph: Graph, theirs: Sequence[tuple[Tensor, ...]], ours: Sequence[tuple[Tensor, ...]]
) -> tuple[int, list[tuple[Tensor, ...]]]:
    """Their outputs with our numbers where a rounding decides, and how many of these are others."""
    import torch

    if graph.undecided is None:
        return 0, list(theirs)
    turned, settled = 0, []
    for example, their, our in zip(graph.examples, theirs, ours, strict=True):
        with torch.no_grad():
            masks = graph.undecided(*example)
        triples = list(zip(their, our, masks, strict=True))
        turned += sum(int((mask & ~((a - b).abs() <= TOLERANCE)).sum()) for a, b, mask in triples)
        settled.append(tuple(torch.where(mask, b, a) for a, b, mask in triples))
    return turned, settled


def _difference(graph: Graph, one: Sequence[tuple[Tensor, ...]], other: Sequence[tuple[Tensor, ...]]) -> _Difference:
    """Over all outputs and examples; NaN if there is one anywhere."""
    import torch

    largest, relative = [], []
    for output, of_one, of_other in zip(graph.outputs, zip(*one, strict=True), zip(*other, strict=True), strict=True):
        a, b = (torch.cat([part.double().flatten() for part in parts]) for parts in (of_one, of_other))
        apart, size = (a - b).abs(), b.abs() if output.by_element else b.abs().max()
        largest.append(apart.max())
        relative.append((apart / size.clamp(min=1)).max())
    return _Difference(float(torch.stack(largest).max()), float(torch.stack(relative).max()))


def _has_signs(module: nn.Module) -> bool:
    from sightline.models.blocks.binary_layers import QuantisedActivation

    return any(isinstance(one, QuantisedActivation) for one in module.modules())


def _in_float64(graph: Graph) -> list[tuple[Tensor, ...]]:
    import torch

    module = copy.deepcopy(graph.module).double()
    examples = [tuple(one.double() if one.is_floating_point() else one for one in each) for each in graph.examples]
    with torch.no_grad():
        return [graph.outputs_of(module, example) for example in examples]
