"""Benchmarks: cells (networks and batches) against peers, each in a process of its own."""
