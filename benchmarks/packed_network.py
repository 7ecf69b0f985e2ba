"""A binary ResNet-18 that counts equal bits beside the same network in floats: time, throughput and size."""

import argparse
from typing import Any

import torch

from benchmarks.timing import emit, paired, ratios

IMAGE_SIZE = 32
CLAIMED = 16
"""Images of a batch whose figure is claimed."""


def networks() -> tuple[Any, Any, Any, int]:
    """The network as it trains, packed counting bits and multiplying signs, and the bytes of its weights."""
    from sightline.models.binary_resnet.config import BinaryResNetConfig
    from sightline.models.binary_resnet.model import BinaryResNet
    from sightline.models.blocks.packed_file import sizes
    from sightline.models.blocks.packed_layers import load_packed, pack_network

    torch.manual_seed(0)
    config = BinaryResNetConfig(variant="resnet18_e1")
    latent, packed, floats = (BinaryResNet(config, 10, image_size=IMAGE_SIZE) for _ in range(3))
    with torch.no_grad():
        latent(torch.randn(32, 3, IMAGE_SIZE, IMAGE_SIZE))  # running statistics
    network = pack_network(latent.eval())
    load_packed(packed, network)
    load_packed(floats, network, count_bits=False)
    return latent, packed, floats, sum(row.bytes for row in sizes(network))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks packed-network", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    latent, packed, floats, size = networks()
    rows: dict[int, dict[str, Any]] = {}
    with torch.no_grad():
        for batch in (1, CLAIMED, 64):
            images = torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE)
            expected = latent(images)
            assert torch.equal(packed(images), expected) and torch.equal(floats(images), expected), "the same bits"
            fns = {
                "packed": lambda x=images: packed(x),
                "floats": lambda x=images: floats(x),
                "latent": lambda x=images: latent(x),  # takes the signs of its weights anew every time
            }
            row = ratios(paired(fns, options.rounds), "floats")
            speed = {name: round(1e3 * batch / values["cpu_ms"], 1) for name, values in row.items()}
            rows[batch] = {**row, "images_a_second": speed}
    emit(
        "packed_network",
        figure=rows[CLAIMED]["packed"]["cpu"],
        unit=f"of the time of the same network in floats, ResNet-18 E1, {CLAIMED} images, one thread",
        peer=f"torch {torch.__version__}, float32, signs of the weights ready",
        goal="<= 1.25",
        rounds=options.rounds,
        packed_bytes=size,
        float_bytes=sum(4 * value.numel() for value in latent.state_dict().values() if value.is_floating_point()),
        rows=rows,
    )


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
