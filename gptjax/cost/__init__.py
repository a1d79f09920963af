"""Costs before anything runs: FLOPs, memory, time on accelerators, hours and money."""
