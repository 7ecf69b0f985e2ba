"""Text from files and file names, made safe to print, and counts as people say them."""


def printable(text: object, *, limit: int | None = None) -> str:
    r"""``str(text)`` with every control, direction-changing or undecodable character written as an escape.

    A file name may hold ESC sequences that move a terminal's cursor, line breaks that fake a log line, or bytes that
    are no text at all; messages show them as ``\x1b``, ``\n`` and ``\udcff``.

    Args:
        text: Anything; most often a path or a piece of a broken file.
        limit: Longest result in characters; what is cut off is shown as ``...``.
    """
    words = str(text)
    if limit is not None and len(words) > limit:
        words = words[: max(limit - 3, 0)] + "..."
    if words.isprintable():
        return words
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in words)


def counted(count: int, noun: str) -> str:
    """``1 image``, ``2 images``, ``12,000 boxes``."""
    plural = f"{noun}es" if noun.endswith(("x", "s")) else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"
