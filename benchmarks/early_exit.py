"""ResNet-20 with early exit: the mean number of steps and the accuracy by confidence (docs/results.md).

    python benchmarks/early_exit.py                # three methods on 10,000 test images
    python benchmarks/early_exit.py --images 1000 --methods FTBC
    python benchmarks/early_exit.py --table

Converted with 512 unlabelled training images; the confidence is chosen on 1,000 other training images with labels, at
most half a point below all steps. Results replace those of the same method in the file next to this script.
"""

from __future__ import annotations

import argparse
import json

from common import HERE, cifar, record, resnet20

import rheobase as rb

PATH = HERE / "early_exit.json"
METHODS = {
    "Graded": rb.Graded(timesteps=8, magnitude=2),
    "SNM": rb.SNM(timesteps=16, firing="floor"),
    "FTBC": rb.FTBC(timesteps=16),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--images", type=int, default=10_000, help="test images, a seeded sample")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    results = json.loads(PATH.read_text())["result"] if PATH.exists() else {}
    if not arguments.table:
        (images, labels), test = cifar("train", limit=10_000, seed=0), cifar("test", limit=arguments.images, seed=0)
        for name in arguments.methods.split(","):
            snn = rb.convert(resnet20(), METHODS[name], calibration=images[1000:], num_calibration_images=512)
            found = rb.measure.early_exit(snn, test, validation=(images[:1000], labels[:1000]))
            print(found, flush=True)
            results[name] = {"recipe": METHODS[name].to_dict(), **found.to_json()}
            record(PATH, "python benchmarks/early_exit.py", results)
    print(table(results))


def table(results: dict) -> str:
    """Accuracy and mean T with all steps, and at the chosen confidence, as Markdown."""
    lines = ["| method | T | accuracy, % | confidence | mean T | accuracy, % |", "| --- |" + " --: |" * 5]
    for name, found in results.items():
        last, chosen = found["rows"][-1], found["at_chosen"]
        figures = f"{100 * last['accuracy']:.2f} | {chosen['confidence'] or 'never'} | {chosen['mean_timesteps']:.2f}"
        lines.append(f"| {name} | {found['timesteps']} | {figures} | {100 * chosen['accuracy']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
