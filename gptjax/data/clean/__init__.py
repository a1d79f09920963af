"""Cleaning: documents from a crawl or an export, judged one by one, then against each other."""
