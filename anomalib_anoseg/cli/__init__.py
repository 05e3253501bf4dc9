"""What the command `anomalib-anoseg` does: its parser, and the subcommands that stand on their own."""
