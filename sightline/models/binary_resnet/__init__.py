"""Binary residual networks with a shortcut around every convolution: ResNetE and its relatives."""
