"""Loss functions: tensors in, tensor out, nothing reduced that the caller cannot see."""
