"""Vision encoders, and language models that see images."""
