"""What decides a LeNet."""

from typing import Literal

from pydantic import Field, PositiveInt

from sightline.config.base import Config
from sightline.models.blocks.initialisation import Initialisation
from sightline.models.blocks.quantisation import QuantisationConfig


class LeNetConfig(Config):
    """LeNet (LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998), as BMXNet has it."""

    variant: Literal["binary", "full_precision"] = "binary"
    """Whether the second convolution and the first dense layer are quantised."""
    channels: PositiveInt = 64
    """Of both convolutions."""
    hidden: PositiveInt = 1000
    """Outputs of the first dense layer."""
    quantisation: QuantisationConfig = Field(default_factory=QuantisationConfig)
    """Bits of the inner layers of the binary variant."""
    initialisation: Initialisation = "xavier"
    """How the weights start: gaussian by the inputs of a layer, xavier by inputs and outputs, for PReLUs prelu_in or
    prelu_average, or small (0.01)."""

    def without_effect(self) -> dict[str, str]:
        """Bits, where nothing is quantised."""
        return {} if self.variant == "binary" else {"quantisation": f"model.variant={self.variant} quantises nothing"}
