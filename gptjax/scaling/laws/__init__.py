"""Everything that laws.json holds, and predictions from it."""
