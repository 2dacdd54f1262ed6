"""Benchmarks for `make bench`: the speed of this project against the alternatives without it."""
