import ast
import json

import pytest

from benchmarks import __main__ as command
from benchmarks import timing

SCRIPTS = sorted({path.stem for path in command.FOLDER.glob("*.py")} - command.NOT_SCRIPTS)


def call_of_emit(script: str) -> ast.Call:
    """The one call that prints the script's line."""
    tree = ast.parse((command.FOLDER / f"{script}.py").read_text())
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    (call,) = [call for call in calls if call.func.id == "emit"]
    return call


def test_the_list_names_every_script_with_what_it_measures(capsys):
    assert command.main([]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert sorted(lines) == SCRIPTS
    assert all(len(text) > 20 for text in lines.values())


def test_every_figure_that_was_promised_has_a_script():
    promised = {"loop", "mosaic_sample", "loader_cost", "coco_ap", "checkpoint", "ota_loss", "startup"}
    assert promised <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_prints_its_name_and_a_goal_in_numbers(script):
    call = call_of_emit(script)
    assert ast.literal_eval(call.args[0]) == script
    goal = {keyword.arg: keyword.value for keyword in call.keywords}["goal"]
    assert any(character.isdigit() for character in ast.literal_eval(goal))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_takes_its_arguments_from_the_command(script):
    tree = ast.parse((command.FOLDER / f"{script}.py").read_text())
    (main,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    assert [argument.arg for argument in main.args.args] == ["arguments"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_does_the_same_as_a_module_of_its_own(script):
    tree = ast.parse((command.FOLDER / f"{script}.py").read_text())
    last = tree.body[-1]
    assert isinstance(last, ast.If)
    assert ast.unparse(last.test) == "__name__ == '__main__'"
    assert ast.unparse(last.body[-1]) == "main(sys.argv[1:])"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_tells_its_options(script, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main([script, "--help"])
    assert stop.value.code == 0
    assert f"python -m benchmarks {script.replace('_', '-')}" in capsys.readouterr().out


def test_an_unknown_name_is_refused_with_the_names_there_are(capsys):
    assert command.main(["lop"]) == 2
    assert "loop" in capsys.readouterr().err


def test_a_line_is_json_with_the_machine_it_was_measured_on(capsys):
    timing.emit("loop", figure=12.5, unit="us", peer="by hand", goal="<= 25", rounds=3, rows={"ours": 1})
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert {"name", "figure", "unit", "peer", "goal", "rounds", "machine", "rows"} == set(found)
    assert found["machine"]["cpus"] >= 1


def test_rounds_are_paired_and_their_order_rotates():
    calls = []
    fns = {name: lambda name=name: calls.append(name) for name in "abc"}
    samples = timing.paired(fns, rounds=3, inner=2)
    assert "".join(calls) == "abc" + "aabbcc" + "bbccaa" + "ccaabb"
    assert {name: len(times) for name, times in samples.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_ratio_is_the_median_over_rounds_of_the_ratio_inside_a_round():
    samples = {"base": [(1.0, 1.0), (2.0, 4.0), (1.0, 2.0)], "ours": [(3.0, 0.5), (2.0, 4.0), (2.0, 0.5)]}
    ours = timing.ratios(samples, "base")["ours"]
    assert ours["cpu"] == 0.5  # of 0.5, 1.0 and 0.25
    assert ours["wall"] == 2.0  # of 3, 1 and 2
    assert ours["cpu_ms"] == 500.0
