"""Stages: what several jobs do alike: plan, tune, train, fit and report."""
