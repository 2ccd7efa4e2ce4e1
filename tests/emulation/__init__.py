"""The existing memory server, emulated with its traps, for tests and benchmarks."""
