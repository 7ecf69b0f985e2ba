"""Imports point one way; this test reads all of them."""

import ast
from pathlib import Path

import sightline

PACKAGE = Path(sightline.__file__).parent

MAY_IMPORT = {
    "ops": {"ops"},
    "config": {"config"},
    "files": {"files", "config"},
    "losses": {"losses", "ops"},
    "metrics": {"metrics", "ops"},
    "data": {"data", "ops", "files", "config"},
    "engine": {"engine", "files", "config"},
    "models": {"models", "ops", "losses", "config"},
    "tasks": {"tasks", "models", "losses", "metrics", "data", "ops", "config", "engine.task"},
    "recipes": {"recipes", "tasks", "models", "data", "engine", "config"},
    "importers": {"importers", "recipes", "models", "files", "config"},
    "report": {"report", "config"},
    "search": {"search", "config"},
    "api": {"*"},
    "cli": {"cli", "api", "config"},
}

ENGINE_ROOMS = {
    "distributed": {"distributed"},
    "run_folder": {"run_folder", "distributed"},
    "trackers": {"trackers", "run_folder"},
}
"""Rooms of the engine, and which of its other rooms they know."""


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("sightline.") for name in found if f"{name}.".startswith("sightline.")}


def test_imports_point_one_way():
    backward = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0]
        if room not in MAY_IMPORT or "*" in MAY_IMPORT[room]:
            continue
        for name in imports_of(path) - {"__version__"}:
            if not any(name == allowed or name.startswith(allowed + ".") for allowed in MAY_IMPORT[room]):
                backward.append(f"{path.relative_to(PACKAGE)} imports sightline.{name}")
    assert not backward, "\n".join(backward)


def test_rooms_of_the_engine_stand_on_each_other():
    rooms = {path.name for path in (PACKAGE / "engine").iterdir() if path.is_dir()}
    for room, known in ENGINE_ROOMS.items():
        for path in (PACKAGE / "engine" / room).rglob("*.py"):
            strangers = {n for n in imports_of(path) for other in rooms - known if n.startswith(f"engine.{other}.")}
            assert not strangers, f"{path}: imports {strangers}"


def test_every_folder_is_a_room_of_the_map():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= set(MAY_IMPORT), f"unknown rooms: {sorted(rooms - set(MAY_IMPORT))}"


def test_model_families_do_not_know_each_other():
    families = {p.name for p in (PACKAGE / "models").iterdir() if p.is_dir()} - {"blocks", "__pycache__"}
    for family in families:
        for path in (PACKAGE / "models" / family).rglob("*.py"):
            strangers = {n for n in imports_of(path) if n.startswith("models.")} - {
                n for n in imports_of(path) if n.startswith((f"models.{family}", "models.blocks"))
            }
            assert not strangers, f"{path}: imports {strangers}"
