"""Fine-tuning and alignment: feeds, objectives and rollouts that make a base model useful.

A method is a feed and an objective for the step that pre-training uses, so that optimizers, meshes,
checkpoints and resumes are the same.
"""
