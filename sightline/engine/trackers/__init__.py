"""Where a run's rows go besides its own files: TensorBoard, a CSV table, MLflow, Weights & Biases.

A tracker (``tracker.py``) takes rows. Each has a bounded queue and a thread of its own (``background.py``), so none
can stop or slow a run; those whose package is not ours have a process of their own too (``apart.py``, ``child.py``).
``following.py`` joins them and is what a session knows.
"""
