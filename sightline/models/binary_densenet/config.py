"""What decides a binary DenseNet."""

from typing import Literal

from sightline.models.blocks.dense_trunk import DenseTrunkConfig, Layout

Variant = Literal["densenet28", "densenet37", "densenet45"]

LAYOUTS: dict[str, Layout] = {
    "densenet28": Layout((6, 6, 6, 5), (2.7, 2.7, 2.2)),
    "densenet37": Layout((6, 8, 12, 6), (3.3, 3.3, 4.0)),
    "densenet45": Layout((6, 12, 14, 8), (2.7, 3.3, 4.0)),
}


class BinaryDenseNetConfig(DenseTrunkConfig):
    """Binary DenseNets (Bethge et al., "BinaryDenseNet", ICCV Workshops 2019)."""

    variant: Variant = "densenet28"
    """Units of the four stages: densenet28 (6, 6, 6, 5), densenet37 (6, 8, 12, 6), densenet45 (6, 12, 14, 8)."""

    def standard(self) -> Layout:
        """The numbers of the variant."""
        return LAYOUTS[self.variant]
