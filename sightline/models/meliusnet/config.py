"""What decides a MeliusNet."""

from typing import Literal

from sightline.models.blocks.dense_trunk import SHUFFLED_TRANSITION, DenseTrunkConfig, Layout, spread

Variant = Literal[
    "meliusnet22",
    "meliusnet29",
    "meliusnet42",
    "meliusnet59",
    "meliusnet_a",
    "meliusnet_b",
    "meliusnet_c",
    "naivenet17",
]

LAYOUTS: dict[str, Layout] = {
    "meliusnet22": Layout((4, 5, 4, 4), spread([(320, 160), (480, 224), (480, 256)])),
    "meliusnet29": Layout((4, 6, 8, 6), spread([(320, 128), (512, 192), (704, 256)])),
    "meliusnet42": Layout((5, 8, 14, 10), spread([(384, 160), (672, 256), (1152, 416)])),
    "meliusnet59": Layout((6, 12, 24, 12), spread([(448, 192), (960, 320), (1856, 544)])),
    "meliusnet_a": Layout((4, 5, 5, 6), spread([(320, 160), (480, 256), (576, 288)]), SHUFFLED_TRANSITION, 4),
    "meliusnet_b": Layout((4, 6, 8, 6), spread([(320, 160), (544, 224), (736, 320)]), SHUFFLED_TRANSITION, 2),
    "meliusnet_c": Layout((3, 5, 10, 6), spread([(256, 128), (448, 192), (832, 288)]), SHUFFLED_TRANSITION, 4),
    "naivenet17": Layout((3, 3, 3, 3), spread([(256, 128), (320, 160), (352, 192)])),
}
"""Units of the stages, and the channels before and after every transition."""


class MeliusNetConfig(DenseTrunkConfig):
    """MeliusNets (Bethge et al., "MeliusNet: An Improved Network Architecture for Binary Neural Networks", WACV 2021).

    naivenet17 is the network that the paper starts from: there a unit improves all channels, not only the new ones.
    """

    variant: Variant = "meliusnet22"
    """Which network of the paper; a, b and c shuffle channels and group the convolutions between the stages."""

    @property
    def improves_all(self) -> bool:
        """Whether a unit changes all channels, not only those that it has appended."""
        return self.variant == "naivenet17"

    def standard(self) -> Layout:
        """The numbers of the variant."""
        return LAYOUTS[self.variant]
