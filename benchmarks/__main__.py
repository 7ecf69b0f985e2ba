"""``python -m benchmarks`` lists the scripts, ``python -m benchmarks NAME [OPTIONS]`` runs one."""

import ast
import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
NOT_SCRIPTS = {"__init__", "__main__", "loop_model", "loop_peers", "ready", "timing"}


def scripts() -> dict[str, str]:
    """First line of each script's docstring, by name."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        if path.stem not in NOT_SCRIPTS:
            found[path.stem] = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
    return found


def main(arguments: list[str]) -> int:
    """List, or hand the remaining arguments to the ``main(arguments)`` of the script named first."""
    known = scripts()
    if not arguments:
        width = max(map(len, known), default=0)
        for name, text in known.items():
            print(f"{name:<{width}}  {text}")
        return 0
    name = arguments[0].replace("-", "_")
    if name not in known:
        print(f"No benchmark {arguments[0]!r}. There are: {', '.join(known)}.", file=sys.stderr)
        return 2
    importlib.import_module(f"benchmarks.{name}").main(arguments[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
