"""Advice: which treatment to give each layer of a pretrained net on new data, found by probes and a short race."""
