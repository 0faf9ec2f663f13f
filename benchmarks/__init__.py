"""Ratios against floors, measured in turns in one process; `make bench` writes them to results/bench.md."""
