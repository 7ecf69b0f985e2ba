"""LeNet for small grey images, binary and in full precision."""
