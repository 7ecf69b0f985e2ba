"""The pages are true: commands parse, keys exist, links lead somewhere, files are there.

``python -m tests.test_docs`` writes the table of keys anew.
"""

import ast
import importlib
import json
import re
import shlex

import pytest
import typer
import yaml

from sightline import api
from sightline.api.search_plan import Decides, make_plan
from sightline.cli.main import app
from sightline.config.base import Config, field_help
from sightline.config.errors import UserError
from sightline.config.explain import keys_of
from sightline.recipes import RECIPES, recipe
from tests.conftest import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
PAGE_IDS = [str(page.relative_to(ROOT)) for page in PAGES]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)

KEY_RECIPE = "yolov7-tiny"
KEY_PAGE = DOCS / "configuration.md"
KEYS_BEGIN = "<!-- keys: written by `python -m tests.test_docs`, checked by the tests -->\n"
KEYS_END = "<!-- /keys -->\n"

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"\.(py|jsonl?|yaml|safetensors|txt)$")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PYTEST = ".venv/bin/pytest"


def blocks(page, *languages):
    return [text for language, text in BLOCK.findall(page.read_text()) if language in languages]


def prose(page):
    """The page without its blocks."""
    return BLOCK.sub("", page.read_text())


def shell_lines(page):
    """Commands of a page: all lines of shell blocks, those behind a ``$`` elsewhere."""
    for text in blocks(page, "sh"):
        yield from (line for line in text.splitlines() if line.strip())
    for text in blocks(page, "text"):
        yield from (line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ "))


def words(line):
    return shlex.split(line, comments=True)


def commands(page, program):
    """Arguments of every use of a program on a page, in shell lines and in code inside of sentences.

    In a sentence a command may stand by its name alone.
    """
    for line in [*shell_lines(page), *INLINE.findall(prose(page))]:
        found = words(line) if line.count("'") % 2 == 0 else []
        while found and re.fullmatch(r"[A-Z_]+=\S+", found[0]):
            found = found[1:]
        if found[: len(words(program))] == words(program) and found != words(program):
            yield line, found[len(words(program)) :]


def parsed(arguments):
    """Command, its options and arguments as the command line understands them."""
    command, name = typer.main.get_command(app), "sightline"
    while hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
        assert arguments[0] in command.commands, f"there is no command {arguments[0]!r}"
        name, *arguments = arguments
        command = command.commands[name]
    return command.make_context(name, arguments).params if arguments[:1] not in ([], ["--help"]) else {}


def keys_of_all_recipes():
    return {key for name in RECIPES for key in keys_of(type(recipe(name)))}


def groups_of_all_recipes():
    keys = {key for name in RECIPES for key in keys_of(type(recipe(name)))}
    return {key.rsplit(".", n)[0] for key in keys for n in range(1, key.count(".") + 1)}


def is_placeholder(text):
    return text.isupper() or "..." in text


def test_pages_and_pictures_are_there():
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= set(PAGE_IDS)
    sizes = [path.stat().st_size for path in (DOCS / "pictures").iterdir()]
    assert max(sizes) < 150_000 and sum(sizes) < 450_000


def test_the_tests_of_this_file_find_what_they_look_at():
    text = "".join(map(prose, PAGES))
    assert sum(len(list(commands(page, "sightline"))) for page in PAGES) > 50
    assert sum(code.partition("=")[0] in keys_of_all_recipes() for code in INLINE.findall(text)) > 50
    assert len(LINK.findall(text)) > 50
    assert all(any(blocks(page, language) for page in PAGES) for language in ("sh", "text", "yaml", "python"))


@EVERY_PAGE
def test_code_in_sentences_ends_on_its_line(page):
    # What runs over the end of a line is found by none of the tests here.
    for line in prose(page).splitlines():
        assert line.count("`") % 2 == 0, line


@pytest.fixture
def with_data(tmp_path, monkeypatch):
    """A folder in which the data sets that the pages speak of exist."""
    monkeypatch.chdir(tmp_path)
    for name in ("my_data", "other_data", "cifar-10-python.tar.gz", "mnist", "imagenet", "kitti"):
        (tmp_path / name).mkdir()
    return tmp_path


@EVERY_PAGE
@pytest.mark.usefixtures("with_data")
def test_commands_are_what_the_command_line_takes(page):
    for line, arguments in commands(page, "sightline"):
        options = parsed(arguments)
        name, changes = options.get("recipe"), options.get("changes") or []
        if name is not None and "=" in name:
            name, changes = None, [name, *changes]
        if "momentun" in line:  # a mistake that is shown with its error, see below
            continue
        if name is not None and is_placeholder(name):
            continue
        if name is not None and "space" in options:  # values may be ranges
            make_plan(name, changes, Decides(*(options[key] for key in Decides._fields)), jobs=options["jobs"])
        elif name is not None and not name.endswith(".yaml"):
            api.resolve(name, changes, data=options.get("data"))
        elif changes:  # of a run or a file, which is not there
            api.resolve(KEY_RECIPE, changes)


def test_errors_on_the_pages_are_those_that_are_said():
    shown = re.findall(r"^\$ sightline train (.*)\nerror: (.*)$", "\n".join(p.read_text() for p in PAGES), re.MULTILINE)
    assert shown
    for line, error in shown:
        recipe_name, *changes = words(line)
        with pytest.raises(UserError, match=re.escape(error)):
            api.resolve(recipe_name, changes)


def test_every_command_is_shown():
    used = [arguments[0] for page in PAGES for _, arguments in commands(page, "sightline")]
    assert {name for name in used if not name.startswith("-")} == set(typer.main.get_command(app).commands)


@EVERY_PAGE
def test_make_targets_benchmarks_and_tests_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line, arguments in commands(page, "make"):
        assert set(arguments) <= targets, line
    for line, arguments in commands(page, "python -m benchmarks"):
        if arguments and not is_placeholder(arguments[0]):
            assert (ROOT / "benchmarks" / f"{arguments[0].replace('-', '_')}.py").exists(), line
    for line, arguments in commands(page, PYTEST):
        assert all((ROOT / one).exists() for one in arguments if not one.startswith("-")), line


@EVERY_PAGE
def test_change_files_fit_their_recipe(page, with_data):
    for text in blocks(page, "yaml"):
        assert "recipe" in yaml.safe_load(text)
        (with_data / "changes.yaml").write_text(text)
        api.resolve(with_data / "changes.yaml")


@EVERY_PAGE
def test_keys_in_sentences_exist(page):
    known, groups = keys_of_all_recipes(), groups_of_all_recipes()
    for code in INLINE.findall(prose(page)):
        key, equals, value = code.partition("=")
        key = key.removesuffix(".*")
        is_dotted = "." in key and key.partition(".")[0] in groups and not FILE.search(key)
        is_change = equals and re.fullmatch(r"[a-z][a-z0-9_.]*", key) and code != "key=value"
        if not is_dotted and not is_change:
            continue
        assert key in known, f"{code}: no such key"
        if equals and not is_placeholder(value):
            fits = [name for name in RECIPES if not _refusal(name, code)]
            assert fits, _refusal(KEY_RECIPE, code)


def _refusal(name, change):
    """Why a recipe does not take a change, or an empty text."""
    try:
        api.resolve(name, [change])
    except UserError as error:
        return f"{change}: {error}"
    return ""


@EVERY_PAGE
def test_files_in_sentences_exist(page):
    for code in INLINE.findall(prose(page)):
        if re.match(r"(sightline|tests|benchmarks|docs)/", code) and not re.search(r"[A-Z*{ ]", code):
            assert (ROOT / code).exists(), code


@EVERY_PAGE
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@EVERY_PAGE
def test_python_is_python_and_what_it_names_exists(page, monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "examples")
    for text in blocks(page, "python"):
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), text
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sightline":
                assert hasattr(importlib.import_module("sightline"), node.attr), f"sightline.{node.attr}"


@EVERY_PAGE
def test_pages_name_no_place_of_a_machine_and_leave_nothing_open(page):
    text = page.read_text()
    for word in ("/work", "/tmp", "/home", "../shared", "TODO", "FIXME", "TBD", "localhost"):
        assert word not in text, word


def test_the_site_lists_every_page_once():
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in PAGES if DOCS in page.parents)
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text())["docs_dir"] == "docs"


def names_in_table(page, head):
    """Names in the first column of the table with this head."""
    (table,) = re.findall(rf"^\| {re.escape(head)} \|\n\| --- .*\n((?:\|.*\n)+)", page.read_text(), re.MULTILINE)
    return [name for row in table.splitlines() for name in INLINE.findall(row.split(" | ")[0])]


def test_every_recipe_is_told():
    pages = (DOCS / "2d-detection.md", DOCS / "classification.md", DOCS / "lidar-3d.md")
    assert [name for page in pages for name in names_in_table(page, "Recipe | What it is")] == list(RECIPES)


OPTIONS_OF_BMXNET = """
dataset data-dir data-path batch-size dtype num-worker augmentation
model bits weight-quantization bits-a activation-method clip-threshold approximation initial-layers initialization
use-pretrained fp-downsample-sc pool-downsample-sc downsample-sc-groups slices growth-rate init-features block-config
reduction downsample-structure dilated
optimizer momentum wd lr lr-mode lr-steps lr-factor warmup-epochs warmup-lr
epochs start-epoch resume resume-states seed gpus cpu kvstore mode builtin-profiler profile log-interval log progress
write-summary save-frequency prefix interrupt-at dry-run test-run plot-network
"""


def test_every_option_of_bmxnets_script_is_told():
    text = (DOCS / "coming-from-bmxnet.md").read_text()
    rows = "\n".join(row.split(" | ")[0] for row in text.splitlines() if row.startswith("| `--"))
    assert set(re.findall(r"`--([a-z-]+)", rows)) == set(OPTIONS_OF_BMXNET.split())


def test_every_room_is_told():
    package = ROOT / "sightline"
    rooms = {f"sightline/{path.name}" for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"}
    head = "Room | Knows | Has never heard of | May import"
    assert set(names_in_table(DOCS / "architecture.md", head)) == rooms


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A run with everything in it, as small as can be."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        small = ["model.width=0.125", "image_size=64", "batch_size=4", "epochs=1", "device=cpu", "workers=0"]
        small += ["data.world.scenes=10", "evaluate.every_epochs=1", "augment.close_mosaic=0"]
        result = api.train(
            "yolov7-tiny-small", changes=[*small, "log.every_steps=1", "ema.decay=0.9"], out=folder / "run"
        )
    assert result.exit_code == 0
    return result.run_dir


def test_every_figure_of_an_evaluation_is_told(finished_run):
    figures = json.loads((finished_run / "evaluation.json").read_text())["figures"]
    assert names_in_table(DOCS / "2d-detection.md", "Figure | Meaning") == list(figures)


def test_the_page_of_the_run_folder_tells_every_file(finished_run):
    page = DOCS / "run-folder.md"
    told = names_in_table(page, "File | What it is")
    told_of_checkpoint = names_in_table(page, "File | Holds")
    found = [path.relative_to(finished_run) for path in finished_run.rglob("*") if path.is_file()]
    for file in found:
        if file.parent.name.startswith("step_"):
            assert file.name in told_of_checkpoint
        else:
            assert any(file.match(name) for name in told) or f"{file.parent}/" in told, f"{file} is not told"
    of_one_run = [name for name in told if not name.startswith((".lock", "checkpoints/step_"))]
    for name in of_one_run:
        assert list(finished_run.glob(name.rstrip("/"))), f"{name} is told, but not there"


@pytest.mark.parametrize(
    "file", ["metrics.jsonl", "timing.jsonl", "status.json", "run.json", "data.json", "evaluation.json", "state.json"]
)
def test_the_page_of_the_run_folder_tells_every_field(finished_run, file):
    text = (DOCS / "run-folder.md").read_text()
    (content,) = (path.read_text() for path in finished_run.rglob(file))
    objects = [json.loads(line) for line in content.splitlines()] if file.endswith(".jsonl") else [json.loads(content)]
    objects += [part for one in objects for name in ("sessions", "classes", "faults") for part in one.get(name, ())]
    fields = {field for one in objects for field in one} - {"sha256"}
    assert fields
    assert not [field for field in fields if f"`{field}`" not in text]


def key_table():
    """All keys of a recipe as Markdown tables, one for each group, in their order."""
    lines = []

    def add(config, prefix, title, about):
        texts = {name: _markdown(text) for name, text in field_help(type(config)).items()}
        values = {name: getattr(config, name) for name in type(config).model_fields}
        groups = {name: value for name, value in values.items() if isinstance(value, Config)}
        rows = [
            f"| `{prefix}{name}` | `{_shown(value)}` | {texts.get(name, '')} |"
            for name, value in values.items()
            if name not in groups
        ]
        lines.extend([f"### {title}", "", *([about, ""] if about else [])])
        if rows:
            lines.extend(["| Key | Value | Meaning |", "| --- | --- | --- |", *rows, ""])
        for name, group in groups.items():
            first_line = _markdown((type(group).__doc__ or "").split("\n\n")[0])
            add(group, f"{prefix}{name}.", f"{prefix}{name}", texts.get(name) or first_line)

    add(recipe(KEY_RECIPE), "", "top level", "")
    return "\n".join(lines)


def _markdown(text):
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def _shown(value):
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, Config):
        defaults = {name: field.default for name, field in type(value).model_fields.items()}
        given = {name: item for name, item in value if item != defaults[name] or name == "rule"}
        return "{" + ", ".join(f"{name}: {_shown(item)}" for name, item in given.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def with_key_table(text):
    begin, end = text.index(KEYS_BEGIN) + len(KEYS_BEGIN), text.index(KEYS_END)
    return f"{text[:begin]}\n{key_table()}\n{text[end:]}"


def test_the_table_of_keys_is_that_of_the_recipe():
    text = KEY_PAGE.read_text()
    assert text == with_key_table(text), "write it anew with: python -m tests.test_docs"


def test_nearly_every_key_is_explained():
    rows = re.findall(r"^\| `[a-z_.]+` \| `.*` \| (.*) \|$", key_table(), re.MULTILINE)
    assert len(rows) > 100
    assert sum(not about for about in rows) < 0.1 * len(rows)


if __name__ == "__main__":
    KEY_PAGE.write_text(with_key_table(KEY_PAGE.read_text()))
