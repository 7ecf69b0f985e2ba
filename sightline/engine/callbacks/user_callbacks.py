"""Callbacks that users write: a class in a file of their own, named in the configuration.

Whether a file may run is not decided here, see ``sightline.api.user_code``. Here its content is turned into a class,
the class into a callback, and every mistake in it into a message with file and line.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.abc
import importlib.util
import inspect
import json
import re
import sys
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, create_model, field_validator, model_validator

from sightline.config.base import Config
from sightline.config.errors import ConfigError, did_you_mean
from sightline.config.explain import explain
from sightline.config.override import expand_path
from sightline.config.printable import printable
from sightline.config.safe_file import FileReadError, read_regular_file
from sightline.engine.callback import Callback
from sightline.engine.callbacks.crew import MOMENTS

MAX_CODE_BYTES = 4 << 20


class CallbackConfig(Config):
    """A callback of yours. ``FILE.py:CLASS`` is short for file and name without options."""

    file: Annotated[Path, BeforeValidator(expand_path)]
    """Python file; it stands alone: modules beside it cannot be imported."""
    name: str = Field(pattern=r"^[^\W\d]\w*$")
    """Class in it, a subclass of Callback."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the class."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """The file's content; written down by the run, so that a resume runs the same code or none."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        file, colon, name = given.rpartition(":")
        if not colon or not re.fullmatch(r"[^\W\d]\w*", name):
            raise ValueError(f"write FILE.py:CLASS or {{file: FILE.py, name: CLASS}}, got {given!r}")
        return {"file": file, "name": name}

    @field_validator("options")
    @classmethod
    def _plain(cls, options: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(options)
        except (TypeError, ValueError):
            raise ValueError("must be plain values: numbers, texts, lists, mappings") from None
        return options

    @property
    def shown(self) -> str:
        """``my_callbacks.py:Beeper``, safe to print."""
        return f"{printable(self.file)}:{self.name}"


def read_code(config: CallbackConfig) -> tuple[bytes, str]:
    """The content of a callback's file, and its SHA-256.

    Raises:
        ConfigError: If it cannot be read.
    """
    try:
        content = read_regular_file(config.file, limit=MAX_CODE_BYTES)
    except FileReadError as error:
        near = did_you_mean(config.file.name, [one.name for one in config.file.parent.glob("*.py")])
        raise ConfigError(f"callbacks: {printable(config.file)}: {error.message}.{near}") from None
    return content, hashlib.sha256(content).hexdigest()


def load_callback(config: CallbackConfig, content: bytes) -> Callback:
    """Run the code of a callback's file and make the callback. Nothing but ``content`` is run: no compiled copy of it.

    Args:
        config: Which class of it, and its options.
        content: What ``read_code`` gave.

    Raises:
        ConfigError: If the code, the class or an option is wrong; names file and line.
    """
    module = _module_of(config, content)
    kind = getattr(module, config.name, None)
    shown = printable(config.file)
    if kind is None:
        there = [name for name, one in vars(module).items() if _is_callback(one) and one.__module__ == module.__name__]
        near = did_you_mean(config.name, there) or (f" There are: {', '.join(there)}." if there else "")
        raise ConfigError(f"{shown}: has no class {config.name!r}.{near}")
    place = f"{shown}:{_line_of(config.name, content)}"
    if not _is_callback(kind):
        raise ConfigError(
            f"{place}: {config.name} is no callback. Write: from sightline.engine.callback import Callback, "
            f"and class {config.name}(Callback)."
        )
    _check_moments(kind, shown)
    options = _checked_options(kind, config.options, place)
    try:
        callback = kind(**options)
    except (Exception, SystemExit) as error:
        raise ConfigError(_blame(error, config)) from error
    assert isinstance(callback, Callback)
    return callback


class _Content(importlib.abc.SourceLoader):
    """Gives the bytes that were judged, whatever the file has become; without dates, so that no ``.pyc`` is used."""

    def __init__(self, path: str, content: bytes) -> None:
        self.path, self.content = path, content

    def get_filename(self, fullname: str) -> str:
        return self.path

    def get_data(self, path: bytes | str | int) -> bytes:
        return self.content


def _module_of(config: CallbackConfig, content: bytes) -> ModuleType:
    """The module of a file, run once for each content."""
    path = str(config.file.absolute())
    name = f"user_callbacks_{hashlib.sha256(path.encode('utf-8', 'surrogateescape') + content).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _Content(path, content)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(_blame(error, config)) from error
    return module


def _blame(error: BaseException, config: CallbackConfig) -> str:
    """``file:line: what went wrong``."""
    shown, path = printable(config.file), str(config.file.absolute())
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"{shown}:{error.lineno}: {type(error).__name__}: {printable(error.msg)}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    text = printable(str(error).partition("\n")[0], limit=400)
    hint = " Modules beside the file cannot be imported." if isinstance(error, ModuleNotFoundError) else ""
    return f"{shown}:{lines[-1] if lines else 1}: {type(error).__name__}: {text}.{hint}"


def _is_callback(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Callback)


def _line_of(name: str, content: bytes) -> int:
    """Line where a class of this name is defined."""
    nodes = ast.walk(ast.parse(content))
    return next((node.lineno for node in nodes if isinstance(node, ast.ClassDef) and node.name == name), 1)


def _check_moments(kind: type[Callback], shown: str) -> None:
    """A moment that is misspelt would never be called, and one with other arguments would fail in mid-run."""
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        place = f"{shown}:{method.__code__.co_firstlineno}: {kind.__name__}.{name}"
        if name not in MOMENTS:
            if name.startswith("on_") and (near := did_you_mean(name, MOMENTS)):
                raise ConfigError(f"{place} is never called.{near}")
            continue
        wanted = list(inspect.signature(getattr(Callback, name)).parameters)
        try:
            inspect.signature(method).bind(*wanted)
        except TypeError:
            raise ConfigError(f"{place} must take {', '.join(wanted)}.") from None


def _checked_options(kind: type[Callback], options: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Options as the class's signature wants them: a ``Config`` as its only argument, or each by its name."""
    parameters = dict(list(inspect.signature(kind.__init__).parameters.items())[1:])
    try:
        hints = get_type_hints(kind.__init__)
    except Exception:  # Python runs a class whose annotations nobody can read; then options are checked by name alone
        hints = {}
    only = next(iter(parameters)) if len(parameters) == 1 else None
    if only is not None and inspect.isclass(hints.get(only)) and issubclass(hints[only], Config):
        return {only: _validated(hints[only], options, place)}
    fields: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        fields[name] = (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    base: type[Config] = _Anything if takes_any else _Options
    with warnings.catch_warnings(action="ignore"):  # of arguments that are called like a method of the checker
        wanted = create_model(kind.__name__, __base__=base, **fields)
    checked = _validated(wanted, options, place)
    return {name: getattr(checked, name) for name in checked.model_fields_set}


class _Options(Config):
    """The arguments of a class."""

    model_config = ConfigDict(arbitrary_types_allowed=True, validate_default=False)


class _Anything(_Options):
    model_config = ConfigDict(extra="allow")


def _validated(wanted: type[Config], options: Mapping[str, Any], place: str) -> Config:
    try:
        return wanted.model_validate(dict(options))
    except ValidationError as error:
        origins = dict.fromkeys([*options, *wanted.model_fields], f"{place}, options")
        raise ConfigError(explain(error, wanted, origins)) from None
