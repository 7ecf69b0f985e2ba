"""A classifier trained by a loop in plain PyTorch."""

import math

import numpy as np
import torch
from spirals import network, spirals
from torch.nn import functional as F

SEED, EPOCHS, BATCH_SIZE, LR = 0, 20, 32, 0.1


def main():
    torch.manual_seed(SEED)
    net = network()
    x, y = spirals(SEED)
    steps = EPOCHS * math.ceil(len(x) / BATCH_SIZE)
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * (step / steps))) / 2)

    for epoch in range(EPOCHS):
        order = np.random.default_rng((SEED, epoch)).permutation(len(x))
        for start in range(0, len(x), BATCH_SIZE):
            rows = torch.from_numpy(order[start : start + BATCH_SIZE])
            loss = F.cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    x, y = spirals(SEED + 1)
    with torch.inference_mode():
        right = (net.eval()(x).argmax(1) == y).sum()
    print(f"accuracy {right / len(x):.3f}")
    return net


if __name__ == "__main__":
    main()
