"""Benchmarks beside their peers. Never imported by hegpu."""
