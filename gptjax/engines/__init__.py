"""Engines: how cells become processes, here or on a cluster."""
