"""Benchmarks: ratios against peers in one run. They are run by hand and assert nothing."""
