"""Leaderboards: models compared on the same data, by the same metrics, with what each one costs.

A board runs a grid of anomalib's benchmark (:mod:`~anomalib_anoseg.board.run.board`) and leaves a folder
(:mod:`~anomalib_anoseg.board.run.run_folder`) to which costs are added and from which reports are written.
"""
