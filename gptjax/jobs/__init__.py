"""Jobs: one file for each name of `config.job`, with a `gptjax.job.Job` called JOB."""
