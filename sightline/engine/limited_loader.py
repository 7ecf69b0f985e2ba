"""The first batches of every epoch only: a quick run through the whole path."""

from __future__ import annotations

from collections.abc import Iterator

from sightline.engine.task import Fetched, Loader


class LimitedLoader:
    """A loader whose epochs end after ``limit`` batches.

    Args:
        loader: The whole one.
        limit: Batches per epoch, at most.
    """

    def __init__(self, loader: Loader, limit: int) -> None:
        self.loader = loader
        self.batches_per_epoch = min(limit, loader.batches_per_epoch)

    def batch_length(self, index: int) -> int:
        """Samples of the global batch ``index``."""
        return self.loader.batch_length(index)

    def describe(self, index: int) -> str:
        """What the whole one calls sample ``index``; its number if it has no names."""
        describe = getattr(self.loader, "describe", str)
        return str(describe(index))

    def iterate(self, *, epoch: int = 0, index: int = 0, epochs: int) -> Iterator[Fetched]:
        """Batches from batch ``index`` of ``epoch`` to the end of epoch ``epochs - 1``."""
        while epoch < epochs:
            if index < self.batches_per_epoch:
                for fetched in self.loader.iterate(epoch=epoch, index=index, epochs=epoch + 1):
                    yield fetched
                    if fetched.index == self.batches_per_epoch - 1:
                        break
            epoch, index = epoch + 1, 0

    def close(self) -> None:
        """Stop all workers."""
        self.loader.close()


def limited(loader: Loader, limit: int | None) -> Loader:
    """The loader itself without a limit."""
    return loader if limit is None else LimitedLoader(loader, limit)
