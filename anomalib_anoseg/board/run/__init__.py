"""Run a board: its grid, its jobs, and the folder that they leave."""
