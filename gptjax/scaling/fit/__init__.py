"""The fitter: optimizer, starting points, intervals, certificates, hold-outs, diagnostics."""
