"""QVM's appendix A.1 (Fig. 6): one layer of neurons, the same total input timed in four ways.

    python benchmarks/input_scenarios.py
    python benchmarks/input_scenarios.py --rounding floor --figure scenarios.png

The paper's numbers are the defaults; it does not say how many inputs a neuron has: 1000 here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import HERE
from post_training import add

import rheobase as rb
from rheobase.measure.plots import scenario_plot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounding", default="round", choices=("floor", "round", "ceil"))
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    result = rb.measure.input_scenarios(rounding=arguments.rounding, inputs=arguments.inputs, trials=arguments.trials)
    print(result)
    if arguments.figure:
        scenario_plot(result, arguments.figure)
    command = f"python benchmarks/input_scenarios.py --rounding {arguments.rounding} --inputs {arguments.inputs}"
    add(
        HERE / "input_scenarios.json",
        f"{command} --trials {arguments.trials}",
        f"{arguments.rounding}, {arguments.inputs} inputs",
        {**result.to_json(), "images": arguments.trials},
    )


if __name__ == "__main__":
    main()
