"""Model families; each folder tells one paper's whole story."""
