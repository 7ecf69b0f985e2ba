"""What a command prints: styled tables on a terminal, the same words in plain columns where output is piped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from sightline.api import Table


def show(*parts: str | Table) -> None:
    """Print texts and tables, one below the other."""
    for part in parts:
        if isinstance(part, str):
            typer.echo(part)
        elif sys.stdout.isatty():
            _console().print(_styled(part))
        else:
            typer.echo(f"{part}\n")


def show_lines(text: str, style_of: Callable[[str], tuple[str, str, str]]) -> None:
    """Print lines, styled on a terminal.

    Args:
        text: The lines.
        style_of: A line to its bold, plain and dim part, which stand in this order.
    """
    if not sys.stdout.isatty():
        typer.echo(text)
        return
    from rich.text import Text

    console = _console()
    for line in text.splitlines():
        bold, plain, dim = style_of(line)
        console.print(Text.assemble((bold, "bold"), plain, (dim, "dim")), soft_wrap=True)


def origin_style(line: str) -> tuple[str, str, str]:
    """A line of ``--print-config``: bold where a user changed the value; the origin dim."""
    value, sign, origin = line.rpartition("  # ")
    return ("", value, sign + origin) if origin == "recipe" else (value, "", sign + origin)


def help_style(line: str) -> tuple[str, str, str]:
    """A line of ``sightline list RECIPE``: groups bold, help dim."""
    if line.startswith("    "):
        return "", "", line
    group, sign, text = line.partition(".  ")
    return (group + sign, text, "") if sign and " " not in group else ("", line, "")


def fault_style(line: str) -> tuple[str, str, str]:
    """A line of ``sightline check``: kinds of faults bold."""
    return (line, "", "") if line.startswith(("error:", "note:")) else ("", line, "")


def finding_style(line: str) -> tuple[str, str, str]:
    """A line of a preflight: what is not well bold, cures plain, what is well dim."""
    if line.startswith("ok "):
        return "", "", line
    return (line, "", "") if line.startswith(("problem ", "note ")) else ("", line, "")


@contextmanager
def working() -> Iterator[Callable[[str], None]]:
    """One line on the terminal's error stream that says what is being done; nothing where there is no terminal."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("") as status:
        yield lambda text: status.update(escape(text))


@contextmanager
def counting(text: str) -> Iterator[Callable[..., None] | None]:
    """A bar on the terminal's error stream; None where there is no terminal.

    Yields:
        Called with how many are done and, if it is known only then, the total.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=None)

        def tell(done: int, total: int | None = None) -> None:
            bar.update(task, completed=done, total=total)

        yield tell


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)


def _styled(table: Table) -> Any:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    title = Text(table.title) if table.title else None
    styled = RichTable(box=box.SIMPLE_HEAD, show_header=any(table.columns), title=title)
    for place, name in enumerate(table.columns):
        styled.add_column(Text(name), justify="right" if table.is_number(place) else "left", overflow="fold")
    for row in table.rows:
        styled.add_row(*map(Text, row))
    return styled
