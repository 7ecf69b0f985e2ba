"""Pickles of other systems: plain values are read, and whatever else a pickle names becomes an inert note of it.

The machine is that of ``safe_pickle``, and nothing that a pickle names is imported, called or built here either. Where
that one refuses a file, this one puts a ``Foreign`` into the place of the object, so that the rest can be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from sightline.config.printable import printable
from sightline.files.safe_pickle import Constructor, Machine, PickleRefusedError, Unbuilt, finished, is_plain_key

MOST_PARTS_OF_KEY = 16
"""Of a tuple that is the key of a dictionary."""


@dataclass(eq=False, slots=True, repr=False)
class Foreign:
    """Stands for an object or a name that is not on the list: what the pickle says of it, and nothing else."""

    name: str
    """``module.Class`` of the object, or the function that would have made it."""
    arguments: tuple[Any, ...] | None
    """What the class or function would have been called with; None for the class or function itself. Where the result
    of another call would have been called: the note of that call, and the tuple of arguments. Keywords likewise stand
    behind the tuple. Nothing is copied, as one tuple may be the arguments of many."""
    state: Any = None
    """What the object would have been given afterwards, most often a dictionary of its attributes."""
    elements: list[Any] = field(default_factory=list)
    """Of a kind of list or set."""
    entries: dict[Any, Any] = field(default_factory=dict)
    """Of a kind of dictionary."""

    def __repr__(self) -> str:
        """The name alone: what it holds may be deep, or hold itself."""
        return f"Foreign({printable(self.name, limit=80)!r})"


class TolerantMachine(Machine):
    """Goes on where a name is not on the list. Texts of Python 2 become texts. A value may hold itself."""

    def action(self, name: str) -> Callable[[Machine, Any], None] | None:
        """Of Python's opcodes, all but those of registries and of buffers outside of the pickle."""
        return cast("Callable[[Machine, Any], None] | None", _TOLERANT_ACTIONS.get(name)) or super().action(name)

    def text_of_python_2(self, raw: bytes) -> Any:
        """Words where it may be words: names of tensors are among them."""
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw

    def is_key(self, key: Any) -> bool:
        """Also notes, which are told by their place in memory, and flat tuples."""
        if type(key) is tuple:
            return len(key) <= MOST_PARTS_OF_KEY and all(map(is_plain_key, key))
        return isinstance(key, Foreign) or is_plain_key(key)

    def unknown(self, module: Any, name: Any) -> Foreign:
        """The name alone."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("it asks for a name that is no text")
        self.unfold(len(module) + len(name))
        return Foreign(f"{module}.{name}", None)

    def made(self, maker: Any, arguments: Any) -> Any:
        """A note of the call, unless the name is on the list."""
        if not isinstance(arguments, tuple):
            raise ValueError("it calls something without arguments")
        if isinstance(maker, Foreign):
            return Foreign(maker.name, arguments if maker.arguments is None else (maker, arguments))
        try:
            return super().made(maker, arguments)
        except PickleRefusedError:
            raise
        except (ValueError, TypeError):
            if not isinstance(maker, Constructor) or maker.is_needed:
                raise
            return Foreign(maker.name, arguments)

    def new_object(self, arguments: Any) -> None:
        """An instance of the class on top."""
        self.stack.append(self.made(self.stack.pop(), arguments))

    def new_object_with_keywords(self, _: Any) -> None:
        """As ``new_object``; arguments and keywords are above the class."""
        keywords, arguments = self.stack.pop(), self.stack.pop()
        if type(keywords) is not dict or type(arguments) is not tuple:
            raise ValueError("it calls something without arguments")
        self.new_object((arguments, keywords) if keywords else arguments)

    def object_of_mark(self, name: Any) -> None:
        """An instance of protocols 0 and 1, whose class stands in the opcode or first on the stack."""
        values = self.to_mark()
        if name is None:
            maker = values.pop(0)
        else:
            self.named(*name.split(" ", 1))
            maker = self.stack.pop()
        self.stack.append(self.made(maker, tuple(finished(values))))

    def build(self, _: Any) -> None:
        """The state of what needs none, such as the attributes of a table, is left out."""
        state = self.stack.pop()
        shell = self.stack.pop()
        if isinstance(shell, Unbuilt) and not shell.is_finished:
            shell.is_finished = True
            try:
                shell.value = self.filled(shell, state)
            except PickleRefusedError:
                raise
            except (ValueError, TypeError):
                shell.value = Foreign("numpy.ndarray", (), state)
            shell = shell.value
        elif isinstance(shell, Foreign):
            (shell.state,) = finished([state])
        self.stack.append(shell)

    def append(self, values: list[Any]) -> None:
        """More elements for the list or the note on top."""
        target = self.stack[-1]
        if isinstance(target, Foreign):
            target.elements.extend(finished(values))
        else:
            super().append(values)

    def set_items(self, values: list[Any]) -> None:
        """Keys and values in turn, for the dictionary or the note on top."""
        target = self.stack[-1]
        if isinstance(target, Foreign):
            self.add_items(target.entries, values)
        else:
            super().set_items(values)

    def add_elements(self, _: Any) -> None:
        """More elements for the set on top."""
        values = self.to_mark()
        target = self.stack[-1]
        if isinstance(target, Foreign):
            target.elements.extend(finished(values))
        elif type(target) is set:
            target.update(set_of(values))
        else:
            raise ValueError("it adds elements to something that is no set")


def set_of(values: Any) -> set[Any]:
    """Plain values without an order. Raises ValueError for others, whose hashes may take long."""
    if not isinstance(values, list | tuple) or not all(map(is_plain_key, values)):
        raise ValueError("a set holds something that is no text and no usual number")
    return set(values)


_TOLERANT_ACTIONS: Mapping[str, Callable[[TolerantMachine, Any], None]] = {
    "NEWOBJ": lambda machine, _: machine.new_object(machine.stack.pop()),
    "NEWOBJ_EX": TolerantMachine.new_object_with_keywords,
    "OBJ": TolerantMachine.object_of_mark,
    "INST": TolerantMachine.object_of_mark,
    "EMPTY_SET": lambda machine, _: machine.stack.append(set()),
    "ADDITEMS": TolerantMachine.add_elements,
    "FROZENSET": lambda machine, _: machine.stack.append(set_of(machine.to_mark())),
}
