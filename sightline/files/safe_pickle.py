"""Pickles from strangers as plain values: nothing that a pickle names is imported, called or built.

A pickle is a program for a small stack machine, whose opcodes are described in Python's own ``pickletools``. This is
such a machine of ours. It builds None, bool, int, float, str, bytes, list, tuple, dict and plain NumPy arrays; a name
of a class or function stands for one of our own few constructors, or the file is refused. Texts of Python 2 become
bytes. Time and memory grow with the size of the file only.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pickletools import genops
from typing import Any, Protocol

import numpy as np

from sightline.config.printable import printable

PLAIN_KEYS = (str, bytes, int, float, bool, type(None))
MOST_OF_INTEGER_KEY = 1 << 64
"""Larger integers may take long to hash, or share a hash with as many others as a file wants."""
MOST_LETTERS = 1000
"""Of the name of a module, class or function."""
MOST_ARGUMENTS = 64
"""Of a call."""
MOST_SIDE = 1 << 62
"""Of an array, elements."""
MOST_PLACE = 1 << 32
"""Of a value in the memo."""
SPARE_BYTES = 1 << 20
"""How much more may be copied than was read."""


class PickleRefusedError(ValueError):
    """A pickle is broken, or asks for something that is not on the list."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        """Byte of the opcode that was refused."""


@dataclass(frozen=True)
class Constructor:
    """What we do in place of a function or class that a pickle names."""

    name: str
    build: Callable[..., Any]
    """Positional values of the pickle -> a plain value, or an ``Unbuilt``. Raises ValueError or TypeError."""
    is_needed: bool = False
    """Whether even a machine that goes on where something cannot be built must stop where this cannot."""


class Unbuilt:
    """A value whose content follows in the pickle."""

    def __init__(self, finish: Callable[[Any], Any]) -> None:
        self.finish = finish
        """State of the pickle -> the value. Raises ValueError or TypeError."""
        self.is_finished = False
        self.value: Any = None


class Stream(Protocol):
    """What a pickle is read from. ``read`` gives no more than there is, without taking memory for what is asked."""

    def read(self, count: int, /) -> bytes:
        """So many bytes, or fewer at the end."""

    def readline(self) -> bytes:
        """Bytes up to a line break."""

    def tell(self) -> int:
        """Bytes before the next one."""


def _plain_dtype(text: object, order: object = "=") -> np.dtype[Any]:
    name, order = _short_text(text), _short_text(order)
    if name[:1] not in tuple("biufc") or not name[1:].isdecimal():
        raise ValueError(f"arrays of the type {printable(repr(name), limit=40)} are not read")
    if order not in ("<", ">", "|", "="):
        raise ValueError(f"no byte order is called {printable(repr(order), limit=40)}")
    return np.dtype(name if order in "|=" else order + name)


def _short_text(given: object) -> str:
    """A text, cut after what a type is called; of anything else only the kind is told, as it may be vast."""
    if not isinstance(given, str | bytes):
        raise ValueError(f"the type of an array is a {type(given).__name__}, not a text")
    return given[:20] if isinstance(given, str) else given[:20].decode("latin-1")


def _dtype(name: object, *_: object) -> Unbuilt:
    def finish(state: Any) -> np.dtype[Any]:
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise ValueError("the type of an array is not a plain one")
        return _plain_dtype(name, state[1])

    return Unbuilt(finish)


def _array(shape: Any, dtype: Any, raw: Any, *, is_fortran: bool) -> np.ndarray[Any, Any]:
    if not isinstance(dtype, np.dtype) or not isinstance(raw, bytes | bytearray | str):
        raise ValueError("an array has no plain type or no bytes")
    if not isinstance(shape, tuple) or len(shape) > 32:
        raise ValueError("the shape of an array is impossible")
    if not all(type(side) is int and 0 <= side <= MOST_SIDE for side in shape):
        raise ValueError("the shape of an array is impossible")
    raw = raw.encode() if isinstance(raw, str) else raw  # a text of Python 2 that was taken for words
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"an array of shape {shape} and type {dtype} has {len(raw):,} bytes")
    flat = np.frombuffer(raw, dtype) if raw else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _reconstruct(*_: object) -> Unbuilt:
    """An array of NumPy as protocols 0 to 4 write it: empty at first, then its state."""

    def finish(state: Any) -> np.ndarray[Any, Any]:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("the state of an array is not one of NumPy")
        _, shape, dtype, is_fortran, raw = state
        return _array(shape, dtype, raw, is_fortran=bool(is_fortran))

    return Unbuilt(finish)


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray[Any, Any]:
    """An array of NumPy as protocol 5 writes it."""
    return _array(shape, dtype, raw, is_fortran=order == "F")


def _scalar(dtype: Any, raw: Any) -> Any:
    return _array((), dtype, raw, is_fortran=False).item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes of Python 3 in protocols 0 to 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in an encoding that is not read")
    return text.encode("latin-1")


def _dict() -> dict[Any, Any]:
    return {}


def _no_bytes() -> bytes:
    """Empty bytes of Python 3 in protocols 0 to 2."""
    return b""


def _never(*_: object) -> Any:
    raise ValueError("it is not made on its own")


_NUMPY_ROOMS = ("numpy.core", "numpy._core")
CONSTRUCTORS: Mapping[tuple[str, str], Constructor] = {
    (module, name): Constructor(name, build)
    for modules, name, build in (
        (tuple(f"{room}.multiarray" for room in _NUMPY_ROOMS), "_reconstruct", _reconstruct),
        (tuple(f"{room}.multiarray" for room in _NUMPY_ROOMS), "scalar", _scalar),
        (tuple(f"{room}.numeric" for room in _NUMPY_ROOMS), "_frombuffer", _frombuffer),
        (("numpy",), "ndarray", _never),
        (("numpy",), "dtype", _dtype),
        (("_codecs",), "encode", _encode),
        (("__builtin__", "builtins"), "bytes", _no_bytes),
        (("collections",), "OrderedDict", _dict),
    )
    for module in modules
}
"""What stands for the names of plain data."""


def read_pickle(data: bytes, *, constructors: Mapping[tuple[str, str], Constructor] = CONSTRUCTORS) -> Any:
    """The value of a pickle of plain data, of any protocol.

    Args:
        data: The file.
        constructors: (module, name) -> what is done in its place. Everything else is refused.

    Raises:
        PickleRefusedError: With the byte where it is broken, or where it asks for more than plain data.
    """
    return run_pickle(io.BytesIO(data), Machine(constructors))


def run_pickle(stream: Stream, machine: Machine) -> Any:
    """The value that a machine makes of a pickle, which is read up to its end mark.

    Raises:
        PickleRefusedError: With the byte where it is broken, or where it asks for more than the machine gives.
    """
    start = stream.tell()
    try:
        for opcode, argument, place in genops(stream):  # type: ignore[arg-type]  # no more of a file is used
            machine.offset = (place or start) - start
            if opcode.name == "STOP":
                return machine.result()
            machine.step(opcode.name, argument)
    except PickleRefusedError:
        raise
    except (ValueError, TypeError, IndexError, OverflowError, RecursionError, struct.error) as error:
        raise PickleRefusedError(_told(error), machine.offset) from None
    raise PickleRefusedError("it ends before its end mark", stream.tell() - start)


def _told(error: Exception) -> str:
    if isinstance(error, IndexError):
        return "it takes from an empty stack"
    return printable(error, limit=200) or "it is broken"


class Machine:
    """The stack, the marks and the memo.

    Args:
        constructors: (module, name) -> what is done in its place.
        persistent: Id -> the value outside of the pickle that it names. Raises ValueError or TypeError. Without it
            ids are refused.
    """

    def __init__(
        self,
        constructors: Mapping[tuple[str, str], Constructor],
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.constructors = constructors
        self.persistent = persistent
        self.offset = 0
        """Byte of the opcode."""
        self.unfolded = 0
        """Bytes and elements that were copied, hardly more than were read: one value may be used again and again."""
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """Stacks that marks have set aside."""
        self.memo: dict[int, Any] = {}

    def result(self) -> Any:
        """What is on top at the end."""
        value = self.stack.pop()
        if isinstance(value, Unbuilt | Constructor):
            raise ValueError("it ends with something unfinished")
        return value

    def step(self, name: str, argument: Any) -> None:
        """Do what one opcode says."""
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _TEXTS_OF_PYTHON_2:
            self.stack.append(self.text_of_python_2(argument.encode("latin-1")))
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            if argument >= MOST_PLACE:
                raise ValueError("it keeps a value at an impossible place")
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._recall(argument)
        elif name not in ("PROTO", "FRAME"):
            action = self.action(name)
            if action is None:
                raise ValueError(f"the opcode {name} is not needed for plain data")
            action(self, argument)

    def action(self, name: str) -> Callable[[Machine, Any], None] | None:
        """What an opcode does; None for one that is refused."""
        return _PERSISTENT_ACTIONS.get(name) if self.persistent and name in _PERSISTENT_ACTIONS else _ACTIONS.get(name)

    def text_of_python_2(self, raw: bytes) -> Any:
        """Bytes, as nobody knows whether they are words."""
        return raw

    def persistent_id(self, key: Any) -> None:
        """What an id of a value outside of the pickle stands for."""
        assert self.persistent is not None
        self.stack.append(self.persistent(key))

    def _recall(self, key: int) -> None:
        if key not in self.memo:
            raise ValueError("it recalls a value that it never kept")
        value = self.memo[key]
        self.stack.append(value.value if isinstance(value, Unbuilt) and value.is_finished else value)

    def mark(self, _: Any) -> None:
        """Set what is on the stack aside."""
        self.below.append(self.stack)
        self.stack = []

    def to_mark(self) -> list[Any]:
        """Everything above the newest mark, which goes."""
        values = self.stack
        self.stack = self.below.pop()
        return values

    def pop(self, _: Any) -> None:
        """Drop the top, or an empty part above a mark."""
        if self.stack:
            self.stack.pop()
        else:
            self.to_mark()

    def pop_mark(self, _: Any) -> None:
        """Drop everything above the newest mark."""
        self.to_mark()

    def dup(self, _: Any) -> None:
        """The top once more."""
        self.stack.append(self.stack[-1])

    def tuple_(self, count: int | None) -> None:
        """The uppermost values, or those above the mark, as a tuple."""
        values = self.to_mark() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(finished(values)))

    def list_(self, _: Any) -> None:
        """The values above the mark as a list."""
        values = self.to_mark()
        self.stack.append(finished(values))

    def append(self, values: list[Any]) -> None:
        """More elements for the list on top."""
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("it appends to something that is no list")
        target.extend(finished(values))

    def set_items(self, values: list[Any]) -> None:
        """Keys and values in turn, for the dictionary on top."""
        target = self.stack[-1]
        if type(target) is not dict:
            raise ValueError("it sets items of something that is no dictionary")
        self.add_items(target, values)

    def add_items(self, target: dict[Any, Any], values: list[Any]) -> None:
        """Keys and values in turn, for a dictionary."""
        keys = values[::2]
        if len(values) % 2:
            raise ValueError("it sets an item without a value")
        if not all(map(self.is_key, keys)):
            raise ValueError("a key of a dictionary is no text and no usual number")
        target.update(zip(keys, finished(values[1::2]), strict=True))

    def is_key(self, key: Any) -> bool:
        """Whether it may be a key: its hash must be taken in a time that does not depend on the file."""
        return is_plain_key(key)

    def unfold(self, count: int) -> None:
        """Note that so much of the file's values is about to be copied.

        Raises:
            PickleRefusedError: It is far more than was read.
        """
        self.unfolded += count
        if self.unfolded > self.offset + SPARE_BYTES:
            raise PickleRefusedError("it unfolds to far more than its own size", self.offset)

    def dict_(self, _: Any) -> None:
        """Keys and values above the mark as a dictionary."""
        values = self.to_mark()
        self.stack.append({})
        self.set_items(values)

    def named(self, module: Any, name: Any) -> None:
        """What stands for a name."""
        if any(isinstance(part, str | bytes) and len(part) > MOST_LETTERS for part in (module, name)):
            raise ValueError(f"it asks for a name of more than {MOST_LETTERS:,} letters")
        module, name = (part.decode("latin-1") if isinstance(part, bytes) else part for part in (module, name))
        is_known = isinstance(module, str) and isinstance(name, str) and (module, name) in self.constructors
        self.stack.append(self.constructors[module, name] if is_known else self.unknown(module, name))

    def unknown(self, module: Any, name: Any) -> Any:
        """What stands for a name that is not on the list."""
        words = printable(f"{module}.{name}", limit=80)
        raise ValueError(f"it asks for {words}, which is not plain data and may run code")

    def stack_named(self, _: Any) -> None:
        """As ``named``; module and name are the uppermost values."""
        name = self.stack.pop()
        self.named(self.stack.pop(), name)

    def reduce(self, _: Any) -> None:
        """A call: the function, and a tuple of its arguments above it."""
        arguments = self.stack.pop()
        self.stack.append(self.made(self.stack.pop(), arguments))

    def made(self, maker: Any, arguments: Any) -> Any:
        """What stands for the result of a call."""
        if not isinstance(maker, Constructor) or not isinstance(arguments, tuple):
            raise ValueError("it calls something that is no function")
        if len(arguments) > MOST_ARGUMENTS:
            raise ValueError(f"it calls something with {len(arguments):,} arguments")
        self.unfold(sum(len(one) for one in arguments if isinstance(one, str | list | tuple)))
        return maker.build(*arguments)

    def build(self, _: Any) -> None:
        """Give the state on top to the value below it."""
        state = self.stack.pop()
        shell = self.stack.pop()
        if not isinstance(shell, Unbuilt) or shell.is_finished:
            raise ValueError("it gives a state to something that has none")
        shell.value = self.filled(shell, state)
        shell.is_finished = True
        self.stack.append(shell.value)

    def filled(self, shell: Unbuilt, state: Any) -> Any:
        """The value of a shell with its state."""
        if isinstance(state, tuple) and state and isinstance(state[-1], str):
            self.unfold(len(state[-1]))  # the bytes of an array as a text, which are encoded
        return shell.finish(state)


def is_plain_key(key: Any) -> bool:
    """Whether it is a plain value that is hashed in a time, and to a hash, that a file cannot choose."""
    return isinstance(key, PLAIN_KEYS) and not (isinstance(key, int) and abs(key) > MOST_OF_INTEGER_KEY)


def finished(values: list[Any]) -> list[Any]:
    """The values themselves. Raises ValueError if one of them is still without its content."""
    if any(isinstance(value, Unbuilt) for value in values):
        raise ValueError("it uses an array before it has its content")
    return values


_PUSHED = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_TEXTS_OF_PYTHON_2 = frozenset(("STRING", "BINSTRING", "SHORT_BINSTRING"))
_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_ACTIONS: Mapping[str, Callable[[Machine, Any], None]] = {
    "MARK": Machine.mark,
    "POP": Machine.pop,
    "POP_MARK": Machine.pop_mark,
    "DUP": Machine.dup,
    "TUPLE": lambda machine, _: machine.tuple_(None),
    "TUPLE1": lambda machine, _: machine.tuple_(1),
    "TUPLE2": lambda machine, _: machine.tuple_(2),
    "TUPLE3": lambda machine, _: machine.tuple_(3),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "LIST": Machine.list_,
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.to_mark()),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "DICT": Machine.dict_,
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop() for _ in range(2)][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.to_mark()),
    "GLOBAL": lambda machine, argument: machine.named(*argument.split(" ", 1)),
    "STACK_GLOBAL": Machine.stack_named,
    "REDUCE": Machine.reduce,
    "BUILD": lambda machine, _: machine.build(_),
}
_PERSISTENT_ACTIONS: Mapping[str, Callable[[Machine, Any], None]] = {
    "PERSID": Machine.persistent_id,
    "BINPERSID": lambda machine, _: machine.persistent_id(machine.stack.pop()),
}
