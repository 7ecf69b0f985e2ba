"""What can be wrong with a user's file, class or options is told with file and line before anything is trained."""

import py_compile
import sys
from pathlib import Path

import pytest

from sightline.config.errors import ConfigError
from sightline.engine.callbacks.user_callbacks import CallbackConfig, load_callback, read_code
from tests.engine.toy import toy_run

HEAD = "from sightline.engine.callback import Callback\n\n"
GOOD = (
    HEAD
    + """
class Beeper(Callback):
    def __init__(self, every: int, word: str = "beep", *, loud: bool = False):
        self.given = (every, word, loud)
"""
)


def load(folder, code, name="Beeper", **options):
    path = folder / "mine.py"
    path.write_text(code)
    config = CallbackConfig(file=path, name=name, options=options)
    return load_callback(config, read_code(config)[0])


def refusal(folder, code, name="Beeper", **options):
    """What is said, with the file's folder left out."""
    with pytest.raises(ConfigError) as caught:
        load(folder, code, name, **options)
    return str(caught.value).replace(f"{folder}/", "")


def test_options_are_the_arguments_of_the_class(tmp_path):
    assert load(tmp_path, GOOD, every=3, loud=True).given == (3, "beep", True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": 3, "wrd": "x"}, "mine.py:4, options: unknown key 'wrd'. Did you mean 'word'?"),
        ({"every": "often"}, "mine.py:4, options: every: must be a valid integer, got 'often'."),
        ({}, "mine.py:4, options: every: is missing."),
    ],
)
def test_a_wrong_option_is_named(tmp_path, options, said):
    assert refusal(tmp_path, GOOD, **options) == said


def test_options_may_be_a_config(tmp_path):
    code = (
        HEAD
        + """
from pydantic import PositiveInt
from sightline.config.base import Config

class BeeperConfig(Config):
    every: PositiveInt = 5

class Beeper(Callback):
    def __init__(self, config: BeeperConfig):
        self.config = config
"""
    )
    assert load(tmp_path, code, every=2).config.every == 2
    assert load(tmp_path, code).config.every == 5
    assert "mine.py:10, options: every: must be greater than 0, got 0." in refusal(tmp_path, code, every=0)


@pytest.mark.parametrize("annotation", ["OnlyOfTypeCheckers", "in steps", "Callback.Steps"])
def test_where_annotations_cannot_be_read_options_are_checked_by_name(tmp_path, annotation):
    code = GOOD.replace("every: int", f'every: "{annotation}"')
    assert load(tmp_path, code, every="often").given == ("often", "beep", False)
    assert refusal(tmp_path, code, every=3, wrd="x").endswith("unknown key 'wrd'. Did you mean 'word'?")


def test_a_class_that_takes_anything_gets_it(tmp_path):
    code = HEAD + "class Beeper(Callback):\n    def __init__(self, **rest):\n        self.rest = rest\n"
    assert load(tmp_path, code, a=1, b=[2]).rest == {"a": 1, "b": [2]}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\nimport no_such_module\n", "mine.py:2: ModuleNotFoundError: No module named 'no_such_module'."),
        ("def x(:\n", "mine.py:1: SyntaxError: invalid syntax"),
        ("def f():\n    raise KeyError('k')\n\nf()\n", "mine.py:2: KeyError: 'k'."),
        ("import sys\nsys.exit(0)\n", "mine.py:2: SystemExit: 0."),
        (HEAD + "class Beper(Callback): ...\n", "mine.py: has no class 'Beeper'. Did you mean 'Beper'?"),
        (HEAD + "class Other(Callback): ...\n", "mine.py: has no class 'Beeper'. There are: Other."),
        (HEAD + "\nclass Beeper: ...\n", "mine.py:4: Beeper is no callback. Write: from sightline.engine.callback"),
        (HEAD + "Beeper = 3\n", "mine.py:1: Beeper is no callback."),
        (
            HEAD + "class Beeper(Callback):\n    def on_steps_end(self, training, report): ...\n",
            "mine.py:4: Beeper.on_steps_end is never called. Did you mean 'on_step_end'?",
        ),
        (
            HEAD + "class Beeper(Callback):\n    def on_epoch_end(self, training): ...\n",
            "mine.py:4: Beeper.on_epoch_end must take self, training, epoch.",
        ),
        (
            HEAD + "class Beeper(Callback):\n    def __init__(self):\n        raise ValueError('no')\n",
            "mine.py:5: ValueError: no.",
        ),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_line(tmp_path, code, said):
    assert refusal(tmp_path, code).startswith(said)


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    (tmp_path / "mine.py").write_text(GOOD)
    for name, said in (
        ("mien.py", r"mien.py: the file does not exist. Did you mean 'mine.py'\?"),
        (".", "is a folder"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_code(CallbackConfig(file=tmp_path / name, name="Beeper"))


def test_only_the_content_that_was_judged_runs(tmp_path):
    """A compiled copy that lies beside the file, with its date and size, is not the file."""
    path = tmp_path / "mine.py"
    path.write_text(HEAD + "class Beeper(Callback):\n    word = 'evil'\n")
    py_compile.compile(str(path), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    callback = load(tmp_path, HEAD + "class Beeper(Callback):\n    word = 'good'\n")
    assert callback.word == "good"
    config = CallbackConfig(file=path, name="Beeper")
    content, _ = read_code(config)
    path.write_text(HEAD + "class Beeper(Callback):\n    word = 'late'\n")
    assert load_callback(config, content).word == "good"


def test_modules_beside_the_file_are_not_found(tmp_path):
    (tmp_path / "beside.py").write_text("ran = True\n")
    assert "Modules beside the file cannot be imported." in refusal(tmp_path, "import beside\n")
    assert "beside" not in sys.modules


def test_short_and_long_forms_are_equal():
    short = toy_run(callbacks="a/mine.py:Beeper").callbacks
    assert short == toy_run(callbacks=["a/mine.py:Beeper"]).callbacks
    assert short == toy_run(callbacks=[{"file": Path("a/mine.py"), "name": "Beeper"}]).callbacks


@pytest.mark.parametrize("wrong", ["mine.py", "mine.py:", "mine.py:a-b", 3, [{"name": "Beeper"}]])
def test_what_names_no_class_is_refused(wrong):
    with pytest.raises(ValueError, match="callbacks"):
        toy_run(callbacks=wrong)


def test_options_are_plain_values():
    with pytest.raises(ValueError, match="plain values"):
        CallbackConfig(file="mine.py", name="Beeper", options={"x": {1, 2}})
