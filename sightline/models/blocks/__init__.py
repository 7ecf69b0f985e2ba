"""Network parts that two families or more use."""
