"""What watches a run: pictures, histograms, times, early stopping, and callbacks of users' own."""
