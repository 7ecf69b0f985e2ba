"""Binary DenseNets (Bethge et al., ICCV Workshops 2019)."""
