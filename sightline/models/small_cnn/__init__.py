"""A small convolutional classifier of our own."""
