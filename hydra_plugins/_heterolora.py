"""The sweeper, in the namespace that Hydra takes plug-ins from.

The underscore keeps every other Hydra application of the environment from importing it at its
start; `heterolora.cli.run` registers it.
"""

from heterolora.cli import sweeper


class GridSweeper(sweeper.GridSweeper):
    """The sweeper of `conf/hydra/sweeper/grid.yaml`."""
