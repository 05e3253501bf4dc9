"""The command `anomalib-anoseg`: its parser, and the subcommands `config`, `doctor` and `preview`."""
