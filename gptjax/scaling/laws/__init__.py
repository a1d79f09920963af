"""Laws as saved in laws.json, and predictions from them."""
