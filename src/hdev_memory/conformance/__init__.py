"""The promises of `backends/base.py` as named checks, which any backend can be put through."""
