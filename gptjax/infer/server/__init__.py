"""HTTP server: OpenAI's completions and chat completions over one batcher.

Needs the extra gptjax[serve]; `gptjax.jobs.serve` starts it.
"""
