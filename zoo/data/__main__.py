"""`python -m zoo.data NAME-OR-FOLDER`: what a dataset holds and what is wrong with it."""

import argparse
from pathlib import Path

from zoo.console import UserError, command, import_tensorflow, say


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m zoo.data",
        description="Says what a dataset holds: splits, classes, image sizes, and corrupt files by name. "
        "Exit code 1 if anything is corrupt.",
    )
    parser.add_argument(
        "dataset",
        metavar="NAME-OR-FOLDER",
        help="shapes, imagenet, lsun/CATEGORY, a TensorFlow Datasets name (TFDS_DATA_DIR is read), a folder of images, "
        "or TFRecord files such as 'data/{split}-*'",
    )
    parser.add_argument(
        "--directory",
        help="where a dataset given by name lies (default: the environment variable ZOO_IMAGENET of imagenet, ZOO_LSUN "
        "of lsun, TFDS_DATA_DIR of all)",
    )
    parser.add_argument("--split", help="only this split (default: all)")
    parser.add_argument("--size", type=int, help="side of the grid's images (default: that of the first image)")
    parser.add_argument("--grid", type=Path, metavar="OUT.png", help="also write a picture of 100 images")
    return parser.parse_args()


def main() -> int:
    """Describes one dataset; the exit code is 1 if anything in it is corrupt."""
    arguments = parse()
    if arguments.size is not None and arguments.size <= 0:
        raise UserError(f"--size must be positive, got {arguments.size}")
    import_tensorflow()
    from zoo.data import summary

    source = summary.find_source(arguments.dataset, arguments.directory)
    corrupt = summary.describe(source, arguments.split, arguments.size)
    if arguments.grid is not None:
        split = arguments.split or source.splits()[0]
        summary.write_grid(source, split, arguments.size or summary.common_size(source, split), arguments.grid)
        say(f"\nwrote {arguments.grid}")
    return 1 if corrupt else 0


if __name__ == "__main__":
    command(main)
