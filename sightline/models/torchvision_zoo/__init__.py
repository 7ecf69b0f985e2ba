"""The classifiers of torchvision, by their names."""
