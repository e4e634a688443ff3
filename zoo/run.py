"""Assembles, trains, samples and scores a diffusion system from a Gin recipe.

    python -m zoo.run --recipe recipes/quickstart.gin            train, sample, evaluate
    python -m zoo.run --recipe R --do check                      is it right? R may be a folder
    python -m zoo.run --recipe R --do describe                   parameters, FLOPs, memory, time
    python -m zoo.run --recipe R --do train --stage sr           one stage; again: goes on
    python -m zoo.run --recipe R --do sample --labels 2,3 --count 8   PNG files and a grid
    python -m zoo.run --recipe R --do sample --prompts 'a red circle; a blue star'
    python -m zoo.run --recipe R --do embed                      embeddings of captions, for later
    python -m zoo.run --recipe R --do evaluate                   score the samples again
    python -m zoo.run --recipe R --do likelihood                 bits per dimension of real images
    python -m zoo.run --recipe R --do interpolate --images A.png,B.png    what lies between them
    python -m zoo.run --recipe R --do sweep --sweep 'sr/GaussianNoise.s = 0, 25, 100'
                                                                 sample and score over values
    python -m zoo.run --list                                     the recipes of this zoo

The same command after a crash goes on where the last checkpoint or shard ends.
Exit codes: 1 --do check found mistakes, 2 a mistake that the message explains,
3 training went astray again and again, 69 a device or worker does not answer,
75 stopped by SIGTERM, 130 stopped by the keyboard.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from zoo.console import UserError, command, import_tensorflow, say

if TYPE_CHECKING:
    from zoo.experiment import Experiment
    from zoo.pipeline import Pipeline
    from zoo.recipe import Recipe
    from zoo.sweep_plan import SweepPlan

ACTIONS = (
    "all", "train", "embed", "sample", "evaluate", "likelihood", "encode", "interpolate", "sweep", "check", "describe",
)  # fmt: skip

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "recipe", None, "a .gin file; with --do check or describe also a folder. Default: WORKDIR/recipe.gin"
)
flags.DEFINE_enum("do", "all", ACTIONS, "what is done; all = train, sample, evaluate")
flags.DEFINE_string("workdir", None, "where everything is written. Default: runs/NAME-OF-RECIPE")
flags.DEFINE_multi_string("gin_bindings", [], "a binding that overrides the recipe's, 'SampleSet.count = 50_000'")
flags.DEFINE_multi_string(
    "sweep", [], "a binding over values, 'sr/GaussianNoise.s = 0, 25, 100'; several give all combinations"
)
flags.DEFINE_string("sweep_metric", None, "chooses the best value: fid, is_mean, ... Default: the recipe's first")
flags.DEFINE_string("sweep_name", None, "folder below WORKDIR/sweeps. Default: from the bindings")
flags.DEFINE_string("stage", None, "only this stage (train, sample, likelihood, encode, interpolate)")
flags.DEFINE_string(
    "strategy", None, "auto, one, mirrored, multiworker or tpu. Default: the recipe's machines, or auto"
)
flags.DEFINE_integer("devices", None, "how many devices of this machine (mirrored, describe)", lower_bound=1)
flags.DEFINE_boolean("deterministic", False, "the same bits in every process on the same devices; slower")
flags.DEFINE_string(
    "checkpoint",
    "last",
    "its weights: last, best (needs Monitoring.selection), a step, or steps of stages: base=5000,sr=2000",
)
flags.DEFINE_float("ema", None, "the average of this decay, one of Training.ema. Default: the first")
flags.DEFINE_string("device", None, "describe for a named device, such as a100-80. Default: what is here")
flags.DEFINE_boolean("measure", False, "describe from a short training run on the devices here")
flags.DEFINE_string("shard", "1/1", "part i of n of samples or likelihood, as one of n workers: 3/8")
flags.DEFINE_list("labels", None, "classes of pictures: sampled, or of the --images")
flags.DEFINE_string("prompts", None, "sample these texts, as pictures for a person: 'a red circle; a blue star'")
flags.DEFINE_list("images", None, "picture files, or an npz, that encode and interpolate (between pairs) start from")
flags.DEFINE_boolean("portrait", False, "pictures taller than wide, of a model that is told the orientation")
flags.DEFINE_integer("count", None, "how many pictures (interpolate: of a pair), or images (likelihood)", lower_bound=1)
flags.DEFINE_integer("seed", None, "seed of the pictures; the recipe's Pipeline.seed by default", lower_bound=0)
flags.DEFINE_string("low_resolution", None, "npz with uint8 images (arr_0) that the super-resolution stages enlarge")
flags.DEFINE_boolean("list", False, "show the recipes of this zoo")
flags.DEFINE_boolean("json", False, "list and describe as JSON")
flags.DEFINE_boolean("names_only", False, "check names and types alone, without building anything")
flags.DEFINE_boolean("help", False, "this text")


def main() -> int:
    """Reads the command line and does what it says; returns the exit code."""
    try:
        rest = FLAGS(sys.argv)[1:]
    except flags.Error as error:
        raise UserError(f"{error}; see python -m zoo.run --help") from error
    if FLAGS.help:
        print(__doc__ + FLAGS.module_help(sys.modules[__name__]).replace("__main__:", "Flags:"))
        return 0
    if rest:
        cure = "every binding needs a --gin_bindings of its own" if "=" in rest[0] else "every argument is a flag"
        raise UserError(f"unexpected argument '{rest[0]}': {cure}; see python -m zoo.run --help")
    if FLAGS.list:
        return _list()
    path = _recipe_path()
    from zoo import recipe as recipes

    if FLAGS.do == "check":
        return recipes.check(path, FLAGS.gin_bindings, depth="names" if FLAGS.names_only else "full")
    if FLAGS.do == "describe" and Path(path).is_dir():
        return _overview(Path(path))
    recipe = recipes.load(path, FLAGS.gin_bindings)
    plan = _sweep_plan(recipe)  # what is wrong with it is said before TensorFlow is imported
    import_tensorflow()
    if FLAGS.deterministic:
        make_deterministic()
    pipeline = (recipe if plan is None else plan.points[0].recipe).build()
    if FLAGS.do == "describe":
        return _describe(recipe, pipeline)
    # Before the first tensor: some strategies must be made when TensorFlow starts.
    strategy = _strategy(pipeline)
    from zoo.experiment import Experiment

    workdir = Path(FLAGS.workdir or Path("runs") / Path(path).stem)
    experiment = Experiment(recipe, pipeline, workdir, strategy)
    return _run(experiment) if plan is None else _sweep(experiment, plan)


def make_deterministic() -> None:
    """One thread between operations: sums are made in one order, whatever else the machine does."""
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(os.cpu_count() or 1)
    tf.config.experimental.enable_op_determinism()
    say("deterministic: one thread between operations; docs/benchmarks.md says what that costs a step")


def _strategy(pipeline: "Pipeline") -> Any:
    """The tf.distribute strategy that --strategy or the recipe names."""
    from zoo.training.distribution import choose

    if pipeline.machines and not FLAGS.strategy and not FLAGS.devices:
        return pipeline.machines.make()
    return choose(FLAGS.strategy or "auto", FLAGS.devices).make()


def _recipe_path() -> str:
    if FLAGS.recipe:
        return FLAGS.recipe
    if FLAGS.workdir and (Path(FLAGS.workdir) / "recipe.gin").is_file():
        return str(Path(FLAGS.workdir) / "recipe.gin")
    raise UserError("--recipe FILE is needed (python -m zoo.run --list shows them), or --workdir of an earlier run")


def _list() -> int:
    from zoo import registry

    catalogue = registry.load()
    if not FLAGS.json:
        say(registry.render_list(catalogue))
        return 0
    from harness import rows

    listed = [entry | {"rows": rows.rows_naming(catalogue.root / entry["file"])} for entry in catalogue.recipes_json()]
    say(json.dumps(listed, indent=1))
    return 0


def _overview(folder: Path) -> int:
    """One table of all the recipes of a folder; 1 where a network is not of the size that the catalogue says."""
    import_tensorflow()
    from zoo import overview, registry

    found = []
    with contextlib.redirect_stdout(sys.stderr) if FLAGS.json else contextlib.nullcontext():
        say(overview.HEADER)
        for row in overview.rows(folder, FLAGS.gin_bindings, registry.load()):
            say(overview.render(row))
            found.append(row)
    if FLAGS.json:
        say(json.dumps([overview.as_json(row) for row in found], indent=1))
    return 1 if any(row.published not in (None, row.parameters) for row in found) else 0


def _describe(recipe: "Recipe", pipeline: "Pipeline") -> int:
    from zoo import describe, description_text, measure

    if FLAGS.measure and FLAGS.device:
        raise UserError("--measure runs on the devices here: it cannot be joined with --device")
    strategy = _strategy(pipeline) if FLAGS.measure else None  # before the first tensor
    devices = FLAGS.devices if strategy is None else strategy.num_replicas_in_sync
    with contextlib.redirect_stdout(sys.stderr):  # what measuring says on its way is not part of the description
        run = None if strategy is None else lambda plans: measure.measure(recipe.build(), strategy, plans)
        description = describe.describe(pipeline, FLAGS.device, devices, run, _papers_hardware(recipe))
    say(json.dumps(description, indent=1) if FLAGS.json else description_text.render(description))
    return 0


def _papers_hardware(recipe: "Recipe") -> dict[str, str]:
    """What the paper trained the stages of a recipe of the catalogue on."""
    entries = recipe.registry.recipes.values()
    return next((e.hardware for e in entries if (recipe.registry.root / e.file).resolve() == recipe.path.resolve()), {})


def _run(experiment: "Experiment") -> int:
    pipeline = experiment.pipeline
    stages = pipeline.stages if FLAGS.stage is None else [pipeline.stage(FLAGS.stage)]
    part = _part(FLAGS.shard)
    pictures = FLAGS.labels or FLAGS.prompts is not None or FLAGS.low_resolution
    if part != (1, 1) and (FLAGS.do not in ("sample", "likelihood") or pictures):
        raise UserError(
            "--shard is for a sample set (--do sample without --labels) and for --do likelihood: nothing else is done "
            "in parts"
        )
    if experiment.is_chief:
        _greet(experiment)
    if FLAGS.do in ("encode", "interpolate") or (FLAGS.do == "sample" and pictures):
        return _pictures(experiment)
    if pictures or FLAGS.portrait or (FLAGS.count and FLAGS.do != "likelihood"):
        raise UserError(
            "--labels, --prompts, --low_resolution and, with one of them, --count and --portrait make pictures: they "
            "need --do sample"
        )
    if FLAGS.images:
        raise UserError(f"--images is for --do encode and --do interpolate, got --do {FLAGS.do}")
    if part != (1, 1) and experiment.workers > 1:
        raise UserError("--shard is for independent processes: workers of one strategy divide the samples themselves")
    experiment.record()
    if FLAGS.do == "likelihood":
        _likelihood(experiment, part)
    if FLAGS.do == "embed":
        experiment.embed(stages)
    if FLAGS.do in ("all", "train"):
        experiment.train(stages, scored=FLAGS.do == "all" and FLAGS.stage is None)
    if FLAGS.do == "all" and not any(stage in pipeline.makers for stage in stages):
        experiment.part()  # classifiers alone: they are trained, and make no images
        return 0
    if FLAGS.do in ("all", "sample"):
        experiment.sample_set(stages, FLAGS.checkpoint, part, FLAGS.ema)
        if FLAGS.do == "sample" and experiment.is_chief:
            say(f"samples of the stages in {experiment.workdir / 'samples'}; --do evaluate scores the last one's")
    if FLAGS.do in ("all", "evaluate") and FLAGS.stage is None and experiment.is_chief:
        _evaluate(experiment)
    experiment.part()
    return 0


def _greet(experiment: "Experiment") -> None:
    say(f"work directory: {experiment.workdir}")
    replicas = experiment.strategy.num_replicas_in_sync
    if replicas > 1:
        workers = f" on {experiment.workers} workers" if experiment.workers > 1 else ""
        say(f"{type(experiment.strategy).__name__}: {replicas} replicas{workers}")


def _part(text: str) -> tuple[int, int]:
    number, _, total = text.partition("/")
    if not (number.isdigit() and total.isdigit() and 1 <= int(number) <= int(total)):
        raise UserError(f"--shard must be i/n with 1 <= i <= n, such as 3/8, got '{text}'")
    return int(number), int(total)


def _pictures(experiment: "Experiment") -> int:
    """Pictures for a person."""
    from zoo import pictures

    chosen = {"checkpoint": FLAGS.checkpoint, "decay": FLAGS.ema}
    if FLAGS.do == "sample":
        low = None if not FLAGS.low_resolution else pictures.read_npz(Path(FLAGS.low_resolution), "--low_resolution")
        prompts = None if FLAGS.prompts is None else [text.strip() for text in FLAGS.prompts.split(";")]
        given = FLAGS.count, FLAGS.seed, prompts
        pictures.write_samples(experiment, _labels(), *given, low_resolution=low, portrait=FLAGS.portrait, **chosen)
        return 0
    if not FLAGS.images:
        raise UserError(f"--do {FLAGS.do} needs --images A.png,B.png or one npz file with images in arr_0")
    if FLAGS.low_resolution or FLAGS.prompts is not None or (FLAGS.count and FLAGS.do == "encode"):
        raise UserError(
            f"--do {FLAGS.do} takes all of --images: leave out --low_resolution, --prompts and, to encode, --count"
        )
    if FLAGS.do == "encode":
        pictures.write_encoded(experiment, FLAGS.images, _labels(), stage=FLAGS.stage, **chosen)
    else:
        pictures.write_interpolations(experiment, FLAGS.images, _labels(), FLAGS.count, stage=FLAGS.stage, **chosen)
    return 0


def _labels() -> list[int] | None:
    try:
        return None if FLAGS.labels is None else [int(label) for label in FLAGS.labels]
    except ValueError as error:
        raise UserError(f"--labels must be whole numbers such as 207,933, got {','.join(FLAGS.labels)}") from error


def _likelihood(experiment: "Experiment", part: tuple[int, int]) -> None:
    """Measures bits per dimension; prints them, and draws the terms of the bound."""
    makers = experiment.pipeline.makers
    stages = [stage for stage in makers if FLAGS.stage == stage.name] if FLAGS.stage else experiment.pipeline.cascade
    if not stages:
        names = ", ".join(stage.name for stage in makers)
        raise UserError(f"--do likelihood is for stages that make images ({names or 'there is none'}), not classifiers")
    from harness import likelihood_report, report
    from zoo.likelihood_run import LikelihoodRun, result_file

    settings = experiment.pipeline.likelihood.of(FLAGS.count)
    for name, result in LikelihoodRun(experiment, settings, FLAGS.checkpoint, FLAGS.ema).run(stages, part).items():
        for line in likelihood_report.render(result):
            say(line)
        path = result_file(experiment.workdir, name)
        likelihood_report.write_picture(result, path.with_suffix(".png"))
        page = report.write_report(experiment.workdir)
        say(f"terms    {path.with_suffix('.png')}\nresult   {path}\nreport   {page}")


def _evaluate(experiment: "Experiment") -> None:
    """Scores the last stage's samples and prints the row beside the published one."""
    evaluation = experiment.pipeline.evaluation
    if evaluation is None:
        say("the recipe has no Pipeline.evaluation: nothing is scored")
        return
    from harness import report

    name = experiment.pipeline.last.name
    rows = _published_rows(experiment)
    report.print_row(experiment.score(evaluation, rows), rows)
    page = report.write_report(experiment.workdir)
    results = experiment.workdir / "results"
    say(f"\nsamples  {results / f'{name}.png'}\nresult   {results / f'{name}.json'}\nreport   {page}")


def _published_rows(experiment: "Experiment") -> list[str]:
    """The published rows that name this recipe, with the bindings of this run."""
    from harness import rows

    return rows.rows_of(experiment.origin(), experiment.recipe.overrides())


def _sweep_plan(recipe: "Recipe") -> "SweepPlan | None":
    """The points of --sweep."""
    asked = FLAGS.do == "sweep"
    given = {"sweep": FLAGS.sweep, "sweep_metric": FLAGS.sweep_metric, "sweep_name": FLAGS.sweep_name}
    strange = [name for name, value in given.items() if value and not asked]
    if strange:
        raise UserError(f"--{strange[0]} needs --do sweep, got --do {FLAGS.do}")
    if not asked:
        return None
    for name in ("stage", "labels", "prompts", "count", "low_resolution", "seed"):
        if FLAGS[name].value is not None:
            raise UserError(f"--do sweep scores the sample set of the last stage: leave out --{name}")
    if _part(FLAGS.shard) != (1, 1):
        raise UserError("--do sweep runs in one process: leave out --shard")
    if not FLAGS.sweep:
        raise UserError("--do sweep needs --sweep 'KEY = VALUE, VALUE, ...', such as 'sr64/GaussianNoise.s = 0, 251'")
    from zoo import sweep_plan

    return sweep_plan.plan(recipe, FLAGS.gin_bindings, FLAGS.sweep, FLAGS.sweep_name)


def _sweep(experiment: "Experiment", plan: "SweepPlan") -> int:
    """Samples and scores every value, and shows table and curve."""
    from harness import rows, sweep_report
    from zoo.sweep import Sweep

    _greet(experiment)
    if experiment.pipeline.evaluation is not None:
        sweep_report.check_metric(experiment.pipeline.evaluation, FLAGS.sweep_metric)
    sweep = Sweep(plan, experiment, FLAGS.checkpoint, FLAGS.ema)
    origin = experiment.origin()
    account = sweep.run(
        lambda recipe: rows.rows_of(origin, recipe.overrides()),
        lambda folder, made: sweep_report.SweepReport(made, FLAGS.sweep_metric).write(folder),
    )
    for line in sweep_report.SweepReport(account, FLAGS.sweep_metric).render():
        say(line)
    written = [name for name in ("sweep.png", "sweep.json", "best.gin") if (sweep.folder / name).is_file()]
    say(f"{', '.join(written)} in {sweep.folder}")
    return 0


if __name__ == "__main__":
    command(main, at_once=True)
