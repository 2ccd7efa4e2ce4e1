"""The tests mirror the package; a test's name is a claim."""
