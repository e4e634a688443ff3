"""The classification accuracy score (arXiv:1905.10887): what it costs, and its pictures class by class.

    python -m harness.cas describe [--count N] [--size S] [--device NAME ...]
    python -m harness.cas pictures RESULT [SAMPLES] [--out STEM]

`describe` prints what the score by ResNet-50 costs, before anything is trained;
the score itself is the component `ResNetAccuracy` of a recipe's evaluation.
`pictures` draws the accuracy of every class by samples and by real images (as
CDM's figure 7), and samples of the best and the worst classes (figures 11, 12).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.console import UserError, command, import_tensorflow, say

if TYPE_CHECKING:
    from harness.features.resnet_training import ResNetPlan
    from zoo.devices import Device

IMAGENET = 1_281_167  # training images
BACKWARD = 2  # times the operations of the forward pass
GIB = 2**30
# Passes over what a convolution gives: it is written; read for its statistics; read, normalised and written; read by
# the next one; and twice as many on the way back. ResNet-50 spends as much time on these as on its products.
PASSES = 15
SCORES = 2  # classifiers: of the samples, and of as many real images


def describe(plan: "ResNetPlan", count: int, size: int, classes: int, devices: Sequence["Device"]) -> list[str]:
    """The lines that the command prints.

    Args:
        plan: network and schedule.
        count: training images, and so samples.
        size: pixels a side of the samples.
        devices: whose time is estimated, one of each.
    """
    from harness.features.resnet import activation_bytes, build_resnet, forward_flops

    network = build_resnet(plan.size, classes, plan.seed, plan.width)
    forward = forward_flops(network)
    seen = count // plan.batch * plan.batch * plan.epochs
    total = (1 + BACKWARD) * forward * seen
    parameters = sum(int(variable.value.shape.num_elements()) for variable in network.trainable_variables)
    lines = [
        f"samples needed    {count:,} of {size}x{size} pixels, labelled as the training images are",
        f"network           ResNet-50, {parameters:,} parameters, {classes:,} classes",
        f"training          {plan.epochs} epochs of batch {plan.batch:,}: {seen // plan.batch:,} steps",
        f"operations        {forward / 1e9:.2f} GFLOP an image forward, {total:.3g} FLOP for one training",
        f"disk              {count * size * size * 3 / GIB:,.0f} GiB for a copy of the images while it trains",
        f"trainings         {SCORES}: the samples, and as many real images (kept for the next score)",
        "",
        f"estimated, one device, float32: products as a U-Net's, and {PASSES} passes over the activations",
    ]
    traffic = PASSES * activation_bytes(network)
    for device in devices:
        seconds = total / device.rate("float32") + (seen * traffic / device.bandwidth if device.bandwidth else 0)
        lines.append(f"  {device.title:<22} {_hours(seconds):>9} a training, {seen / seconds:>7,.0f} images/s")
    return [*lines, "Reading and cropping the images must keep up with that rate."]


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def draw(result: Path, samples: Path | None, stem: Path | None) -> list[Path]:
    """Writes the pictures of a result of any evaluation; returns their paths.

    Raises:
        UserError: it is no result, or has no score by class.
    """
    from harness.class_accuracy import write_pictures
    from harness.measured import read_result
    from harness.samples import open_images

    content = read_result(result)
    images = None if samples is None else open_images(samples)
    written = write_pictures(content, images, stem or result.with_suffix(""))
    if not written:
        raise UserError(f"{result} has no accuracies by class: evaluate with ClassificationAccuracy or ResNetAccuracy")
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.cas", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="action", required=True)
    describing = commands.add_parser("describe", help="operations, time, samples and disk of one score")
    describing.add_argument("--count", type=int, default=IMAGENET, help="training images (default %(default)s)")
    describing.add_argument("--size", type=int, default=256, help="pixels a side of the samples (default %(default)s)")
    describing.add_argument("--classes", type=int, default=1000, help="default %(default)s")
    describing.add_argument("--epochs", type=int, default=90, help="default %(default)s")
    describing.add_argument("--batch", type=int, default=1024, help="images a step (default %(default)s)")
    describing.add_argument("--device", action="append", metavar="NAME", help="default: every device that is known")
    drawing = commands.add_parser("pictures", help="accuracy class by class, as PNG files")
    drawing.add_argument("result", type=Path, metavar="RESULT", help="result.json with `by_class`")
    drawing.add_argument("samples", type=Path, nargs="?", metavar="SAMPLES", help="that were scored, with labels")
    drawing.add_argument("--out", type=Path, metavar="STEM", help="beginning of the files' names (default: RESULT's)")
    options = parser.parse_args(arguments)
    if options.action == "pictures":
        say("\n".join(map(str, draw(options.result, options.samples, options.out))))
    else:
        say("\n".join(_describe(options)))


def _describe(options: argparse.Namespace) -> list[str]:
    for name in ("count", "size", "classes", "epochs", "batch"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} must be positive, got {getattr(options, name)}")
    if options.batch > options.count:
        raise UserError(f"--batch {options.batch} is more than --count {options.count} images")
    import_tensorflow()
    from harness.features.resnet_training import ResNetPlan
    from zoo import devices

    found = [devices.find(name) for name in options.device] if options.device else list(devices.DEVICES.values())
    plan = ResNetPlan(epochs=options.epochs, batch=options.batch)
    return describe(plan, options.count, options.size, options.classes, found)


if __name__ == "__main__":
    command(main)
