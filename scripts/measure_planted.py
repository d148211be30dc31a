"""Check that the planted sites of the planted task are the right ones.

python scripts/measure_planted.py outputs/planted_sites --seeds 0 13 42

For each planting the same budget goes to all sites, to the planted ones only, and to two other
values, one early and one late; the unchanged model is the reference. Each run is made by train.py.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd

from heterolora.harness.data.planted import planted_sites
from heterolora.harness.records.load import load
from heterolora.sites import Site

TRAIN = Path(__file__).parents[1] / "train.py"
SITES = [Site(layer, role) for layer in range(8) for role in "qv"]


def alone(sites: set[Site]) -> list[str]:
    """The budget of rank 2 at all sites for these alone, at the factor alpha 16 / rank 2."""
    rank = 2 * len(SITES) // len(sites)
    left_out = ",".join(str(site) for site in SITES if site not in sites)
    return [
        f"search_space.exclude=[{left_out}]",
        f"rank_budget.lora_rank={rank}",
        f"search_space.lora_alpha={16 // 2 * rank}",
    ]


def arms(planting: int) -> dict[str, list[str]]:
    """What each arm overrides."""
    planted = set(planted_sites(planting))
    # The next layer of the same half of the model.
    others = {Site(site.layer // 4 * 4 + (site.layer + 1) % 4, "v") for site in planted}
    return {
        "unchanged": ["training.epochs=1", "optimizer.learning_rate=1e-30"],
        "homogeneous": [],
        "planted": alone(planted),
        "others": alone(others),
    }


def main() -> None:
    """Run what is missing, and print the best accuracy of each arm in percent."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--plantings", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    asked = parser.parse_args()
    for planting in asked.plantings:
        for name, overrides in arms(planting).items():
            grid = [f"seed={','.join(map(str, asked.seeds))}", f"name={name}", *overrides]
            task = ["task=starter_planted", f"task.planting={planting}", "strategy=homogeneous"]
            rest = [f"output={asked.output}", "tracking=local", "device=cpu"]
            subprocess.run([sys.executable, TRAIN, "-m", *task, *grid, *rest], check=True)
    runs, _ = load(asked.output)
    rows = [
        {"arm": run.setting("name"), "planting": run.setting("task.planting"), "best": run.best}
        for run in runs
    ]
    print(pd.DataFrame(rows).pivot_table("best", "planting", "arm").round(1).to_string())


if __name__ == "__main__":
    main()
