"""One safetensors file laid out in host memory, refilled for every checkpoint.

The format (https://huggingface.co/docs/safetensors, "Format"): 8 bytes with the length of the header, little
end first; the header, a JSON object with type, shape and place of every tensor, padded with spaces; then the
tensors' bytes without gaps. Tensors of wide types come first, so that each one is aligned when the file is
mapped into memory.
"""

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from sightline.engine.distributed.sharding import is_sharded, whole

CHUNK_BYTES = 4 << 20
"""Bytes that are hashed and written in one go: small enough for a cache, large enough to rarely hold the GIL."""

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class HostBuffer:
    """Memory for the tensors of one file, kept for the whole run.

    Fresh memory is what makes a snapshot slow (every page is a fault), so it is taken once. A tensor whose
    memory format is dense but not row-major (channels_last) is copied as it lies and turned while writing,
    off the critical path.

    Args:
        tensors: What the file will hold; names, shapes and types are fixed from here on.
        notes: Texts for the header, beside what the format itself writes there.

    Raises:
        ValueError: The format has no such type, or the name ``__metadata__`` is used.
    """

    def __init__(self, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
        self._signature = _signature(tensors)
        self._names = file_order(tensors)
        header: dict[str, object] = {"__metadata__": {"format": "pt", **(notes or {})}}
        places = []
        end = 0
        for name in self._names:
            tensor = tensors[name]
            if tensor.dtype not in DTYPE_NAMES:
                raise ValueError(f"{name}: tensors of type {tensor.dtype} cannot be stored.")
            if name in header:
                raise ValueError(f"{name}: this name is the file format's own; give the tensor another one.")
            start, end = end, end + tensor.numel() * tensor.element_size()
            places.append((start, end))
            shape, dtype = list(tensor.shape), DTYPE_NAMES[tensor.dtype]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.header = len(text).to_bytes(8, "little") + text
        self.file_bytes = len(self.header) + end
        """Size of the file."""
        pinned = any(tensor.is_cuda for tensor in tensors.values())
        self._flat = torch.empty(end, dtype=torch.uint8, pin_memory=pinned)
        self._views = [
            # Strides of a dense tensor as they are, of any other row-major.
            self._flat[start:end]
            .view(tensors[name].dtype)
            .as_strided(tensors[name].shape, _dense_strides(tensors[name]))
            for name, (start, end) in zip(self._names, places, strict=True)
        ]
        self._pieces = _pieces(self._flat, self._views, places)

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether these tensors have the layout that the buffer was made for."""
        return _signature(tensors) == self._signature

    def touch(self) -> None:
        """Write to all of the memory once, so that the system hands it out now and not during a snapshot."""
        self._flat.zero_()

    @torch.no_grad()
    def copy_from(self, tensors: Mapping[str, Tensor]) -> list[torch.cuda.Event]:
        """Take a snapshot.

        Copies from CUDA devices are queued on the current streams: work queued later may change the tensors
        without harm, but the snapshot is complete only after the events.

        Returns:
            One event per CUDA device.
        """
        pairs = []
        for view, name in zip(self._views, self._names, strict=True):
            if is_sharded(tensors[name]):  # one at a time: all of them may be more than a process can hold
                view.copy_(whole(tensors[name]), non_blocking=True)
            else:
                pairs.append((view, tensors[name]))
        queued = [(view, tensor) for view, tensor in pairs if tensor.is_cuda]
        copied = [(view, tensor) for view, tensor in pairs if not tensor.is_cuda]
        events = []
        if queued:
            torch._foreach_copy_([view for view, _ in queued], [tensor for _, tensor in queued], non_blocking=True)
        for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
            events.append(torch.cuda.current_stream(device).record_event())
        if copied:
            torch._foreach_copy_([view for view, _ in copied], [tensor for _, tensor in copied])
        return events

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The bytes of the file in order; the memory is the buffer's own wherever it is row-major."""
        yield self.header
        for piece in self._pieces:
            data = piece.contiguous().view(torch.uint8).flatten().numpy().data
            for start in range(0, len(data), CHUNK_BYTES):
                yield data[start : start + CHUNK_BYTES]

    def __len__(self) -> int:
        return len(self._names)


def file_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names in the order of the file: wide types first, and the order of the caller within each width."""
    return sorted(tensors, key=lambda name: -tensors[name].element_size())


def hand_in(tensors: Mapping[str, Tensor]) -> None:
    """This process's parts of tensors in shards, to the one that calls ``copy_from`` with the same ones."""
    for name in file_order(tensors):
        whole(tensors[name])


def _dense_strides(tensor: Tensor) -> tuple[int, ...]:
    is_dense = is_sharded(tensor) or tensor.is_contiguous()
    return tensor.stride() if is_dense else torch.empty_like(tensor, device="meta").stride()


def _signature(tensors: Mapping[str, Tensor]) -> list[tuple[object, ...]]:
    return [(name, t.shape, t.dtype, t.stride(), t.is_cuda) for name, t in tensors.items()]


def _pieces(flat: Tensor, views: list[Tensor], places: list[tuple[int, int]]) -> list[Tensor]:
    """The buffer's content in file order; neighbours that lie row-major already are joined to one flat piece."""
    pieces: list[Tensor] = []
    first = last = 0
    for view, (_, end) in zip(views, places, strict=True):
        if not view.is_contiguous():
            pieces += [flat[first:last], view]
            first = end
        last = end
    return [piece for piece in [*pieces, flat[first:last]] if piece.numel()]
