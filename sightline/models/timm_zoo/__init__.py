"""The classifiers of timm, an extra, by their names."""
