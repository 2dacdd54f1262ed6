"""Fetching, checking and unpacking what the datasets are published as."""
