"""Approaches beside the whole surface: IsoFLOP valleys, envelopes, best settings, thresholds."""
