"""What decides how well the models learn: studies, each with a page beside its script."""
