"""Several processes: how they find each other, how they agree, and statistics over all of them."""
