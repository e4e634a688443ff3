"""Published checkpoints as runs of this zoo, and networks trained here as published checkpoints.

    python -m zoo.convert adm --flags flags.json --weights ema_0.9999_540000.pt --out runs/adm64
    python -m zoo.convert adm --published adm_imagenet64 --out runs/adm64     fetches the weights first
    python -m zoo.convert adm --published adm_classifier64 --out runs/guided  and then adm_imagenet64: two stages
    python -m zoo.convert adm --export runs/mine --out mine.pt                and mine.json, the flags
    python -m zoo.convert adm --list                                          what is published

adm: checkpoints of openai/guided-diffusion (ADM); iddpm: of
openai/improved-diffusion (Improved DDPM). flags.json has the command-line flags
of that program as a map; weights are a .pt or a .safetensors file, and nothing
in them is run. Afterwards: python -m zoo.run --workdir runs/adm64 --do sample
"""

import argparse
import contextlib
import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from zoo import registry
from zoo.console import UserError, command, import_tensorflow, say
from zoo.download import asset_folder, download, is_offline, recorded_hash
from zoo.spelling import did_you_mean

if TYPE_CHECKING:
    from zoo.convert.run_folders import Weights
    from zoo.registry import PublishedCheckpoint

PROJECTS = {"adm": "guided-diffusion", "iddpm": "improved-diffusion"}
DECAY = 0.9999
"""Of the average in checkpoints whose name does not say it: that of every published one."""
AVERAGED_NAME = re.compile(r"ema_(0?\.\d+)_(\d+)$")
RAW_NAME = re.compile(r"model(\d+)$")
OPTIMIZER_NAME = re.compile(r"opt(\d+)$")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = _parser().parse_args(arguments)
    if options.list:
        _list(options.project)
    elif options.out is None:
        raise UserError("--out is needed: a folder for the run, with --export a file for the weights")
    elif options.export is not None:
        _export(options)
    elif options.published is not None:
        _convert_published(options)
    else:
        _convert(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m zoo.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("project", choices=list(PROJECTS), help="whose checkpoints")
    parser.add_argument("--flags", type=Path, help="JSON file with the published command-line flags as a map")
    parser.add_argument("--weights", type=Path, help="the averaged weights (ema_...): what is sampled from")
    parser.add_argument("--raw", type=Path, help="the weights that were not averaged (model...), beside or instead")
    parser.add_argument(
        "--recipe",
        help="the recipe of the weights; by default it is chosen or written by the flags, without which it is needed",
    )
    parser.add_argument("--step", type=int, help="optimizer steps behind the weights; by default what their name says")
    parser.add_argument("--out", type=Path, help="the folder of the run; of --export the file of weights")
    parser.add_argument("--published", metavar="NAME", help="fetch these weights and convert them")
    parser.add_argument("--folder", type=Path, default=asset_folder(), help="of fetched files (default %(default)s)")
    parser.add_argument("--offline", action="store_true", help="never use the network (or ZOO_OFFLINE=1)")
    parser.add_argument("--export", type=Path, metavar="RUN", help="write the weights of this run to --out")
    parser.add_argument("--stage", help="of the run; by default its only one, or the one with the network of the flags")
    parser.add_argument("--checkpoint", default="last", help="last, best or a step of the run")
    parser.add_argument("--ema", type=float, help="export the average of this decay; by default the first")
    parser.add_argument("--not_averaged", action="store_true", help="export the weights instead of their average")
    parser.add_argument(
        "--names_only",
        action="store_true",
        help="export the tensors without the flags, of a network that the public code has not; --recipe reads it back",
    )
    parser.add_argument("--list", action="store_true", help="what is published, and whether it is here")
    return parser


# ------------------------------------------------------------------ published -> here


def _convert(options: argparse.Namespace) -> None:
    if (options.flags is None and options.recipe is None) or (options.weights is None and options.raw is None):
        raise UserError(
            "--flags (or --recipe) and --weights (or --raw) are needed, or --published NAME, or --export RUN"
        )
    flags = None if options.flags is None else _read_flags(options.flags)
    _write(flags, options.weights, options.raw, options, options.recipe)


def _convert_published(options: argparse.Namespace) -> None:
    from zoo.convert.adm_flags import from_text

    entry = _published(options.published, options.project)
    weights = _fetch(entry, options.folder, options.offline or is_offline())
    _write(from_text(entry.flags), weights, None, options, options.recipe or entry.recipe)


def _read_flags(path: Path) -> dict[str, Any]:
    try:
        flags = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--flags must be a JSON file with a map of flags: {path}: {error}") from error
    if not isinstance(flags, dict):
        raise UserError(f"--flags must hold a map such as {{'image_size': 64}}, got a {type(flags).__name__} in {path}")
    return flags


def _write(
    flags: Mapping[str, Any] | None,
    average: Path | None,
    raw: Path | None,
    options: argparse.Namespace,
    name: str | None,
) -> None:
    """Reads weights, finds their recipe, and writes the run; without flags the recipe is named."""
    import_tensorflow()
    from zoo import recipe as recipes
    from zoo.convert import adm_recipe, run_folders, state_dicts

    improved = PROJECTS[options.project] == adm_recipe.IMPROVED
    decay, step = _told_apart(average, raw)
    groups = _read_groups(average, raw)
    there = options.out / "recipe.gin"  # of a run that gets the weights of another of its stages
    if name is None and flags is not None and "class" in flags and not there.is_file():
        raise UserError("a map of class and kwargs says nothing of the process: give --recipe, or the flags themselves")
    chosen, text = (str(there) if there.is_file() else name), None
    if chosen is None:
        assert flags is not None, "without flags the recipe is named"
        chosen = adm_recipe.choose(flags, improved)
        text = None if chosen else adm_recipe.write(flags, improved)
    with _recipe_file(chosen, text, options.out) as file:
        asked = recipes.load(file)
        if there.is_file() and options.recipe and recipes.load(options.recipe).identity() != asked.identity():
            raise UserError(f"{options.out} is a run of another recipe than {options.recipe}: choose another --out")
        stage = _stage(asked.build().stages, flags, options.stage, chosen)
        if decay != DECAY and stage.training.decays != (decay,):
            if there.is_file():
                raise UserError(
                    f"by their name the weights have an average of decay {decay}, and Training.ema of stage "
                    f"'{stage.name}' is {stage.training.decays} in {there}"
                )
            asked = recipes.load(file, [f"{stage.name}/Training.ema = {decay}"])
        known, step = options.step if options.step is not None else step, stage.training.steps
        by = "" if known is not None else " by the recipe (--step says another)"
        step = step if known is None else known
        say(f"recipe {chosen or 'written from the flags'}, stage {stage.name}; step {step:,}{by}")
        origin = None if chosen is None else recipes.load(file).path
        parts = run_folders.write_run(options.out, asked, stage.name, origin, step, groups)
        others = [name for name in (one.name for one in asked.stages()) if not _has(options.out, name)]
    for line in state_dicts.report(parts):
        say(line)
    numbers = sum(math.prod(part.shape) for part in parts)
    report = options.out / "stages" / stage.name / "parity.txt"
    say(f"{len(parts)} tensors, {numbers:,} numbers, all of them used; the same report is {report}")
    if others:
        say(f"still without weights: {', '.join(others)}; convert them with the same --out, or train them")
    say(f"python -m zoo.run --workdir {options.out} --do sample")


def _has(run: Path, stage: str) -> bool:
    return (run / "stages" / stage / "checkpoints").is_dir()


def _stage(stages: Sequence[Any], flags: Mapping[str, Any] | None, name: str | None, recipe: str | None) -> Any:
    """The stage that the weights are of: by its name, the only one, or the one whose network the flags describe."""
    from zoo.convert import adm, adm_recipe
    from zoo.networks.encoder import Encoder

    if flags is None:
        known: dict[str, list[str]] = {stage.name: [] for stage in stages if isinstance(stage.network, Encoder)}
        if not known:
            raise UserError(f"no stage of the recipe {recipe} has a network of the public code's family")
    else:
        try:
            network = adm.network(flags)
            known = {stage.name: adm_recipe.differences(stage.network, network) for stage in stages}
        except ValueError as error:
            raise UserError(f"the flags describe no network: {error}") from error
    fitting = [stage for stage, wrong in known.items() if not wrong]
    if name is not None and name not in known:
        raise UserError(f"--stage must be one of {', '.join(known)}, got '{name}'")
    if name is None and len(stages) > 1 and len(fitting) != 1:
        raise UserError(
            f"{len(fitting)} stages of the recipe {recipe} may be meant: say by --stage which of "
            f"{', '.join(known)} the weights are of"
        )
    chosen = name or (fitting or list(known))[0]
    if known[chosen]:
        raise UserError("\n  ".join([f"the recipe {recipe} does not have the network of the flags:", *known[chosen]]))
    return next(stage for stage in stages if stage.name == chosen)


def _told_apart(average: Path | None, raw: Path | None) -> tuple[float, int | None]:
    """The decay of the average, 0 where there are raw weights alone, and the step, by the names of the files."""
    for path, wrong, other in ((average, RAW_NAME, "--raw"), (raw, AVERAGED_NAME, "--weights")):
        if path is not None and wrong.search(path.stem):
            kind = "raw" if other == "--raw" else "averaged"
            raise UserError(f"by its name {path.name} holds {kind} weights: give it as {other} {path}")
        if path is not None and OPTIMIZER_NAME.search(path.stem):
            raise UserError(f"by its name {path.name} holds the state of an optimizer, not weights")
    named = None if average is None else AVERAGED_NAME.search(average.stem)
    steps = {int(found[2]) for found in [named] if found}
    found = None if raw is None else RAW_NAME.search(raw.stem)
    steps |= {int(found[1])} if found else set()
    if len(steps) > 1:
        raise UserError(f"--weights and --raw are of different steps: {' and '.join(map(str, sorted(steps)))}")
    decay = 0.0 if average is None else float(named[1]) if named else DECAY
    return decay, steps.pop() if steps else None


def _read_groups(average: Path | None, raw: Path | None) -> "dict[str, Weights]":
    from zoo.convert.run_folders import AVERAGE, RAW, Weights
    from zoo.convert.weight_files import read_weights

    given = {RAW: raw, AVERAGE: average}
    return {group: Weights(read_weights(path), path) for group, path in given.items() if path is not None}


@contextlib.contextmanager
def _recipe_file(chosen: str | None, text: str | None, out: Path) -> Iterator[str | Path]:
    """The recipe that was chosen, or a file with the text of one, which is there meanwhile."""
    if chosen is not None:
        yield chosen
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{out.name}.gin"
        path.write_text(text or "", encoding="utf-8")
        yield path


# ------------------------------------------------------------------ the network's files


def _published(name: str, project: str) -> "PublishedCheckpoint":
    known = registry.load().checkpoints
    own = {key: entry for key, entry in known.items() if entry.project == PROJECTS[project]}
    if name in own:
        return own[name]
    if name in known:
        raise UserError(
            f"{name} is of {known[name].project}: say {'iddpm' if project == 'adm' else 'adm'} for {project}"
        )
    raise UserError(f"no checkpoint {name} was published; {did_you_mean(name, own)}")


def _file(entry: "PublishedCheckpoint", folder: Path) -> Path:
    return folder / "checkpoints" / PurePosixPath(urlsplit(entry.address).path).name


def _fetch(entry: "PublishedCheckpoint", folder: Path, offline: bool) -> Path:
    """Where the weights are, fetched if they are not here yet."""
    path = _file(entry, folder)
    if path.is_file():
        return path
    if offline:
        raise UserError(f"{entry.name} is not here, and the network is forbidden: put {entry.address} at {path}")
    download(entry.address, path, entry.name, entry.sha256)
    say(f"{entry.name}: SHA-256 {recorded_hash(path)}, recorded beside {path}")
    return path


def _list(project: str) -> None:
    for entry in registry.load().checkpoints.values():
        if entry.project == PROJECTS[project]:
            path = _file(entry, asset_folder())
            here = f"here, SHA-256 {recorded_hash(path) or 'not recorded'}" if path.is_file() else "not here"
            say(f"{entry.name:26} recipe {entry.recipe or '-':26} {here}\n    {entry.address}")
            say("\n".join(registry.below(entry.flags)))


# ------------------------------------------------------------------ here -> published


def _export(options: argparse.Namespace) -> None:
    import_tensorflow()
    from zoo import recipe as recipes
    from zoo.convert import adm, adm_recipe, run_folders
    from zoo.convert.weight_files import write_weights
    from zoo.whole_files import write_text

    recipe_file = options.export / "recipe.gin"
    if not recipe_file.is_file():
        raise UserError(f"--export must be the folder of a run, which has a recipe.gin, got {options.export}")
    pipeline = recipes.load(recipe_file).build()
    if options.stage is None and len(pipeline.stages) > 1:
        raise UserError(f"--stage must be one of {', '.join(stage.name for stage in pipeline.stages)}")
    stage = pipeline.stage(options.stage) if options.stage else pipeline.stages[0]
    flags = None if options.names_only else adm_recipe.flags_of(stage)
    network, step = run_folders.read_run(
        stage, options.export, options.checkpoint, pipeline.seed, options.not_averaged, options.ema
    )
    state = adm.export(network)
    write_weights(options.out, state)
    say(f"{len(state)} tensors of step {step:,}: {options.out}")
    if flags is not None:
        path = options.out.with_suffix(".json")
        write_text(path, json.dumps(flags, indent=1))
        say(f"their flags: {path}\n    " + " ".join(f"--{name} {value}" for name, value in flags.items()))


if __name__ == "__main__":
    command(main)
