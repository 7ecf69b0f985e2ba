"""One script per speed figure that we claim.

``python -m benchmarks`` lists them, ``python -m benchmarks NAME`` runs one.
"""
