"""Stages that jobs share: plan, tune, train, fit and report."""
