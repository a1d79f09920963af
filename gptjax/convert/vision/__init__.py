"""Models that see images: vision transformers, Llava and Llama 3.2 Vision."""
