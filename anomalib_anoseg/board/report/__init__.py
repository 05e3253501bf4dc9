"""Report what a board found: tables, statistics, plots and contact sheets on one page."""
