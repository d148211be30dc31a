"""The numbers of the paper (arXiv 2406.14956)."""

from collections.abc import Mapping

FIGURE4: Mapping[str, Mapping[str, float]] = {
    "r8_combined": {"q": 4.6, "v": 87.6, "res1": 5.2, "res2": 15.1, "in": 26.7, "cut": 11.2},
    "r32_combined": {"q": 5.9, "v": 87.3, "res1": 5.0, "res2": 15.9, "in": 30.9, "cut": 5.2},
    "r8_separated": {"q": 3.1, "v": 46.9, "res1": 14.3, "res2": 25.8, "in": 40.0, "cut": 20.8},
    "r32_separated": {"q": 2.6, "v": 47.4, "res1": 12.2, "res2": 24.7, "in": 43.8, "cut": 20.2},
}
"""Percent of the searches that switch a site on, by the rank of a site that is on and the pool.

Means over layers and three seeds: OPT-350M, MRPC, dynamic GRAD-NORM, LoRA and shortcuts.
"""
