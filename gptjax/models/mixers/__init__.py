"""Mixers of tokens: attention of every kind, and state-space models, one file each."""
