"""Tracking: the metrics of a run as JSON lines, in TensorBoard, in Weights & Biases."""
