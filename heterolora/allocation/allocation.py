"""What a search decides."""

from dataclasses import dataclass

from heterolora.sites import Site


@dataclass(frozen=True)
class Allocation:
    """The sites that are on, and how clearly the scores decided that.

    Attributes:
        enabled: the sites that are on.
        parameters: the adapter parameters at these sites.
        degenerate: all scores that compete for a budget were equal, so that the choice among them
            is random throughout.
        tied: sites on either side of the cut whose scores equal the score at the cut, of which
            some are on and some off by the random tie-break; 0 where the cut is clear.
    """

    enabled: frozenset[Site]
    parameters: int
    degenerate: bool = False
    tied: int = 0
