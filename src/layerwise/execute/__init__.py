"""Executors: the ways to get the runs of a plan done. They give the same results, to the bit."""
