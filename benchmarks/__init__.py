"""Figures of speed, beside the machine's limits and beside peers."""
