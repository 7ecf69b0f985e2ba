import torch
from torch import nn

from sightline.tasks.operations import count_operations


def convolution():
    """(B, 3, H, W) to 8 channels of half the size."""
    return nn.Conv2d(3, 8, 3, stride=2, padding=1)


def test_operations_of_a_convolution_by_hand():
    # 32 x 32 outputs of 8 channels; each takes 3 * 3 * 3 multiplications and as many additions.
    network = convolution()
    assert count_operations(network, network, (1, 3, 64, 64)) == 2 * 32 * 32 * 8 * 27


def test_operations_of_a_dense_layer_by_hand():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    assert count_operations(network, network, (2, 3, 2, 2)) == 2 * 2 * 5 * 12


def test_a_network_in_training_stays_in_training():
    network = nn.Sequential(convolution(), nn.BatchNorm2d(8)).train()
    count_operations(network, network, (1, 3, 8, 8))
    assert network.training and network[1].num_batches_tracked == 0


def test_counting_operations_compiles_nothing_and_leaves_compiling_to_the_run():
    network, compiled_for = convolution(), []

    def backend(graph, inputs):
        compiled_for.append(tuple(inputs[-1].shape))
        return graph.forward

    network.compile(backend=backend)
    assert count_operations(network, network, (1, 3, 32, 32), is_compiled=True) == 2 * 16 * 16 * 8 * 27
    assert compiled_for == []
    network(torch.zeros(1, 3, 32, 32))
    assert len(compiled_for) == 1
