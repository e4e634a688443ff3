"""The training step against second derivations: gradients, clipping, optimizers, averages, rates; and the loop."""

import csv
import inspect
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

from zoo import registry
from zoo.console import UserError
from zoo.training import randomness
from zoo.training.distribution import choose
from zoo.training.optimizers import (
    Adam,
    LinearDecay,
    Momentum,
    Optimizer,
    RateSchedule,
    WarmUp,
    WarmUpCosine,
    average,
)
from zoo.training.trainer import Trainer, Training, restore_network

KEY = randomness.key(0, "test")
ZERO = tf.constant(0, tf.int64)


def trainer_of(folder: Path, name: str, *bindings: str) -> Trainer:
    """A trainer of a tiny stage on one device, with weights for which no gradient is zero."""
    trainer = Trainer(tiny.stage(name, *bindings), choose("one").make(), folder, seed=0)
    tiny.unsettle(trainer.state)
    return trainer


def step_of(trainer: Trainer, batch: dict[str, tf.Tensor], step: int) -> np.ndarray:
    """One optimizer step; [loss, gradient norm]."""
    number = tf.constant(step, tf.int64)
    return trainer.strategy.run(trainer.step.replica_step, args=(batch, number, number)).numpy()[:2]


# ---- randomness


def test_keys_differ_and_repeat():
    draws = {"noise": ("normal", (4, 3)), "level": ("uniform", (4, 2))}
    keys = [
        KEY,
        randomness.fold(KEY, 0),
        randomness.fold(KEY, 1),
        randomness.fold(KEY, 0, 1),
        randomness.key(1, "test"),
    ]
    keys += [randomness.key(0, "other")]
    noises = [randomness.draw(key, draws)["noise"].numpy() for key in keys]
    assert len({noise.tobytes() for noise in noises}) == len(keys)
    assert np.array_equal(noises[1], randomness.draw(randomness.fold(KEY, 0), draws)["noise"])
    # Each name has a stream of its own, whatever else is drawn.
    assert np.array_equal(noises[0], randomness.draw(KEY, {"noise": draws["noise"]})["noise"])
    with pytest.raises(ValueError, match="must be normal or uniform, got poisson"):
        randomness.draw(KEY, {"noise": ("poisson", (2,))})


def test_draws_have_their_distributions():
    draws = randomness.draw(KEY, {"noise": ("normal", (40_000,)), "level": ("uniform", (40_000,))})
    noise, level = draws["noise"].numpy(), draws["level"].numpy()
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert (noise**4).mean() == pytest.approx(3, abs=0.15)
    assert np.histogram(level, 10, (0, 1))[0] == pytest.approx(4000, abs=250)
    assert abs(np.corrcoef(noise, level)[0, 1]) < 0.02


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_draws_are_the_same_under_xla(kind: str):
    """So a TPU trains on the same noise as a processor."""

    def draws(key: tf.Tensor) -> dict[str, tf.Tensor]:
        return randomness.draw(key, {"it": (kind, (50, 30))})

    plain, compiled = tf.function(draws)(KEY)["it"], tf.function(draws, jit_compile=True)(KEY)["it"]
    np.testing.assert_allclose(plain, compiled, atol=2e-6)


def test_a_row_depends_on_its_index_alone():
    draws = {"start": ("normal", (0, 5, 2)), "level": ("uniform", (0, 2))}
    rows = randomness.draw_each(KEY, tf.constant([3, 100_000, 7]), draws)
    other = randomness.draw_each(KEY, tf.constant([7, 1, 3, 2]), draws)
    assert rows["start"].shape == (3, 5, 2)
    for name in draws:
        assert np.array_equal(rows[name][0], other[name][2])
        assert np.array_equal(rows[name][2], other[name][0])
        assert len({row.numpy().tobytes() for row in other[name]}) == 4
    assert randomness.draw_each(KEY, tf.constant([1]), {}) == {}


# ---- the step


def test_micro_batches_change_no_gradient(tmp_path: Path):
    """Losses and gradients of 1 and 4 micro-batches with the same batch and draws, to 1e-5 of each tensor's norm."""
    results = []
    for parts in (1, 4):
        trainer = trainer_of(tmp_path, "sr", f"Training.micro_batches = {parts}")
        batch = tiny.batch_of(trainer.stage, tiny.BATCH)
        loss, gradients, losses = trainer.step.gradients(batch, trainer.step.draw(batch, KEY, ZERO), KEY)
        assert float(tf.reduce_sum(losses)) / tiny.BATCH == pytest.approx(float(loss), rel=1e-5)
        results.append((float(loss), [gradient.numpy() for gradient in gradients]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    norms = [np.linalg.norm(gradient) for gradient in results[0][1]]
    assert min(norms) > 1e-6  # else the comparison below says nothing of that tensor
    for name, norm, one, four in zip(trainer.state.names, norms, results[0][1], results[1][1], strict=True):
        assert np.linalg.norm(one - four) <= 1e-5 * norm, name


def test_the_loss_of_a_share_is_divided_by_the_global_batch(tmp_path: Path):
    trainer = trainer_of(tmp_path, "base")
    batch = tiny.batch_of(trainer.stage, tiny.BATCH)
    random = trainer.step.draw(batch, KEY, ZERO)
    whole, gradients, _ = trainer.step.gradients(batch, random, KEY)
    halves = []
    for rows in (slice(0, 4), slice(4, 8)):
        share, draws = tf.nest.map_structure(lambda x, rows=rows: x[rows], (batch, random))
        halves.append(trainer.step.gradients(share, draws, KEY))
    assert float(whole) == pytest.approx(float(halves[0][0] + halves[1][0]), rel=1e-5)
    for gradient, one, other in zip(gradients, halves[0][1], halves[1][1], strict=True):
        assert np.linalg.norm(gradient - one - other) <= 1e-5 * np.linalg.norm(gradient)


@pytest.mark.parametrize("clip", [None, 0.01])
def test_a_step_clips_moves_and_averages(tmp_path: Path, clip: float | None):
    """With plain gradient descent at rate 1 the update is the clipped gradient."""
    bindings = ("Training.optimizer = @Momentum()", "Momentum.learning_rate = 1.0", "Momentum.momentum = 0.0")
    trainer = trainer_of(tmp_path, "base", *bindings, f"Training.clip = {clip}")
    batch = tiny.batch_of(trainer.stage, tiny.BATCH)
    key = randomness.fold(trainer.step.key, 3, 0)
    expected, gradients, _ = trainer.step.gradients(batch, trainer.step.draw(batch, key, ZERO), key)
    length = math.sqrt(sum(float(np.square(gradient).sum()) for gradient in gradients))
    before = [variable.numpy() for variable in trainer.state.raw]
    averages = [variable.numpy() for variable in trainer.state.ema]

    loss, norm = step_of(trainer, batch, step=3)

    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert norm == pytest.approx(length, rel=1e-5)
    assert length > 0.1
    after = [variable.numpy() for variable in trainer.state.raw]
    scale = 1.0 if clip is None else clip / length
    for old, new, gradient in zip(before, after, gradients, strict=True):
        np.testing.assert_allclose(old - new, scale * gradient, rtol=1e-3, atol=1e-6)
    for old, new, average_now in zip(averages, after, trainer.state.ema, strict=True):
        share = 0.1 / (1 - 0.9**4)  # the fourth step
        np.testing.assert_allclose(average_now, (1 - share) * old + share * new, rtol=1e-5, atol=1e-6)


def losses_of(folder: Path, *bindings: str) -> tuple[Trainer, np.ndarray]:
    """A trainer after twenty steps, and its losses."""
    trainer = Trainer(tiny.stage("base", "base/Training.steps = 20", *bindings), choose("one").make(), folder, seed=0)
    trainer.run()
    return trainer, np.array([float(row["loss"]) for row in rows(folder / "metrics.csv")])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BFloat16", "Float16"])
def test_half_precision_follows_single(tmp_path: Path, name: str):
    """The same losses within a few per cent; weights, averages and slots stay float32."""
    _, expected = losses_of(tmp_path / "single")
    trainer, found = losses_of(tmp_path / "half", f"Training.precision = @{name}()")
    np.testing.assert_allclose(found, expected, rtol=0.04)
    assert not np.array_equal(found, expected)
    assert {variable.dtype for group in trainer.state.groups.values() for variable in group.values()} <= {
        tf.float32,
        tf.int64,
    }
    assert keras.config.dtype_policy().name == "float32"  # the policy is that of the network alone
    assert ("loss_scale" in trainer.state.groups) == (name == "Float16")
    # float32 goes on from it, and float16 from float32
    for precision in ("None", "@Float16()"):
        bindings = ("base/Training.steps = 22", f"Training.precision = {precision}")
        trainer = Trainer(tiny.stage("base", *bindings), choose("one").make(), tmp_path / "half", seed=0)
        trainer.run()
        assert trainer.checkpoints.latest() == 22


def test_the_scale_of_the_loss_adapts(tmp_path: Path):
    """Overflows halve it and take no step; enough steps without one double it."""
    scale = ("Training.precision = @Float16()", "Float16.initial_scale = 1e9", "Float16.growth_every = 3")
    trainer = trainer_of(tmp_path, "base", *scale)
    batch, taken, scales = tiny.batch_of(trainer.stage, tiny.BATCH), [], []
    step = tf.function(trainer.step.replica_step)
    for number in range(30):
        before = [variable.numpy() for variable in trainer.state.raw]
        at = tf.constant(number, tf.int64)
        loss, norm, sound, _ = trainer.strategy.run(step, args=(batch, at, at)).numpy()
        taken.append(bool(sound))
        scales.append(float(trainer.state.scale))
        moved = any(not np.array_equal(a, b) for a, b in zip(before, trainer.state.raw, strict=True))
        assert moved == taken[-1]
        assert (loss > 0) == (norm > 0) == taken[-1]
    assert not taken[0]
    assert scales[0] == 0.5e9
    assert any(taken)
    first = taken.index(True)
    assert scales[first] == scales[first - 1]
    assert max(scales[first:]) > scales[first]  # it grew again


def test_several_averages_at_once(tmp_path: Path):
    trainer, _ = losses_of(tmp_path, "Training.ema = (0.9, 0.5)")
    one, _ = losses_of(tmp_path / "alone", "Training.ema = 0.5")
    assert set(trainer.state.groups) == {"raw", "ema", "ema_0.5", "first", "second"}
    for several, alone in zip(trainer.state.averages[1], one.state.ema, strict=True):
        np.testing.assert_allclose(several, alone, rtol=1e-4, atol=1e-5)
    stage = tiny.stage("base", "Training.ema = (0.9, 0.5)")
    network, _, _ = restore_network(stage, tmp_path, "last", 0, decay=0.5)
    assert np.array_equal(network.trainable_variables[0], trainer.state.averages[1][0])
    with pytest.raises(UserError, match=r"--ema must be one of Training.ema = \(0.9, 0.5\), got 0.7"):
        restore_network(stage, tmp_path, "last", 0, decay=0.7)


@pytest.mark.parametrize(
    ("switch", "dropout"),
    # XLA draws dropout masks by another algorithm
    [("Training.recomputation = @RecomputeBlocks()", 0.3), ("Training.compiler = @XLA()", 0.0)],
)
def test_a_switch_changes_no_gradient(tmp_path: Path, switch: str, dropout: float):
    results = []
    for bindings in ((), (switch,)):
        trainer = trainer_of(tmp_path, "sr", f"UNet.dropout = {dropout}", *bindings)
        batch = tiny.batch_of(trainer.stage, tiny.BATCH)
        function = tf.function(trainer.step.gradients)
        loss, gradients, _ = trainer.strategy.run(function, args=(batch, trainer.step.draw(batch, KEY, ZERO), KEY))
        results.append((float(loss), [gradient.numpy() for gradient in gradients]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(one)


def test_initial_weights_are_a_function_of_the_seed():
    weights = []
    for seed in (0, 0, 1):
        keras.random.normal((3,))  # what was drawn before does not matter
        weights.append([w.numpy() for w in tiny.stage("base").build_network(seed).trainable_variables])
    assert all(np.array_equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    different = [not np.array_equal(a, b) for a, b in zip(weights[0], weights[2], strict=True)]
    assert sum(different) > 5  # zeros and ones stay what they are


# ---- optimizers


def adam(
    variable: np.ndarray, gradients: list[np.ndarray], rate: float, settings: dict[str, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AdamW as PyTorch writes it, in float64: decay first, epsilon after the bias correction."""
    first, second = np.zeros_like(variable), np.zeros_like(variable)
    for step, gradient in enumerate(gradients, start=1):
        variable = variable * (1 - rate * settings["weight_decay"])
        first = settings["beta_1"] * first + (1 - settings["beta_1"]) * gradient
        second = settings["beta_2"] * second + (1 - settings["beta_2"]) * gradient**2
        unbiased = first / (1 - settings["beta_1"] ** step)
        spread = np.sqrt(second / (1 - settings["beta_2"] ** step))
        variable = variable - rate * unbiased / (spread + settings["epsilon"])
    return variable, first, second


@pytest.mark.parametrize(
    "settings",
    [
        {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0},
        # an epsilon as large as the gradients, so that its place shows
        {"beta_1": 0.8, "beta_2": 0.99, "epsilon": 0.5, "weight_decay": 0.3},
    ],
)
def test_adam_is_pytorchs(settings: dict[str, float]):
    generator = np.random.default_rng(0)
    shapes = [(4, 3), (3,)]
    values = [generator.normal(size=shape) for shape in shapes]
    gradients = [[generator.normal(size=shape) for shape in shapes] for _ in range(5)]
    variables = [tf.Variable(value, dtype=tf.float32) for value in values]
    optimizer = Adam(0.05, **settings)
    slots = optimizer.slots(variables)
    for step, now in enumerate(gradients):
        optimizer.apply(variables, slots, [tf.constant(g, tf.float32) for g in now], tf.constant(step, tf.int64))
    for i, value in enumerate(values):
        expected = adam(value, [now[i] for now in gradients], 0.05, settings)
        for found, wanted in zip((variables[i], slots["first"][i], slots["second"][i]), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=3e-5, atol=1e-6)


def test_adam_follows_its_schedule():
    optimizer = Adam(0.1, schedule=WarmUp(4))
    rates = [float(optimizer.rate(tf.constant(step, tf.int64))) for step in range(6)]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    # A first step of Adam is as long as its rate.
    variable = tf.Variable([1.0, -2.0])
    optimizer.apply([variable], optimizer.slots([variable]), [tf.constant([3.0, -0.5])], tf.constant(0, tf.int64))
    np.testing.assert_allclose(variable, [1 - 0.025, -2 + 0.025], rtol=1e-5)


def test_momentum_is_the_recurrence():
    variable, optimizer = tf.Variable([1.0, 2.0]), Momentum(0.1, momentum=0.5)
    slots = optimizer.slots([variable])
    expected, velocity = np.array([1.0, 2.0]), np.zeros(2)
    for step in range(4):
        gradient = np.array([1.0 + step, -1.0])
        optimizer.apply([variable], slots, [tf.constant(gradient, tf.float32)], tf.constant(step, tf.int64))
        velocity = 0.5 * velocity + gradient
        expected -= 0.1 * velocity
    np.testing.assert_allclose(variable, expected, rtol=1e-6)
    np.testing.assert_allclose(slots["velocity"][0], velocity, rtol=1e-6)


def test_average_is_its_closed_form():
    """After n steps: sum_k decay^(n - k) x_k over the sum of its weights; the initial value has no part in it."""
    generator = np.random.default_rng(1)
    decay, start, values = 0.7, generator.normal(size=(3,)), generator.normal(size=(6, 3))
    mean, variable = tf.Variable(start, dtype=tf.float32), tf.Variable(tf.zeros(3))
    for step, value in enumerate(values):
        variable.assign(value.astype(np.float32))
        average([mean], [variable], decay, tf.constant(step, tf.int64))
    powers = decay ** np.arange(len(values))[::-1]
    expected = (powers[:, None] * values).sum(axis=0) / powers.sum()
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-7)


# ---- contracts of the families

SETTINGS = {"learning_rate": 0.05, "steps": 40, "warm_up": 5}


def members(family: str) -> list[str]:
    return [name for name, component in registry.load().components.items() if component.family == family]


def make(name: str) -> Any:
    """A component with the values of SETTINGS where it has no defaults."""
    target = registry.load().components[name].load()
    required = [p.name for p in inspect.signature(target).parameters.values() if p.default is p.empty]
    return target(**{parameter: SETTINGS[parameter] for parameter in required})


@pytest.mark.parametrize("name", members("optimizers"))
def test_contract_of_optimizers(name: str):
    optimizer = make(name)
    assert isinstance(optimizer, Optimizer)
    variables = [tf.Variable([[3.0, -2.0]]), tf.Variable([1.5])]
    slots = optimizer.slots(variables)
    for slot in slots.values():
        assert [variable.shape for variable in slot] == [variable.shape for variable in variables]
        assert not any(variable.trainable for variable in slot)
        assert not any(variable.numpy().any() for variable in slot)

    @tf.function
    def step(number: tf.Tensor) -> None:
        optimizer.apply(variables, slots, [2 * variable for variable in variables], number)

    heights = []
    for number in range(120):  # down the parabola of |x|^2
        step(tf.constant(number, tf.int64))
        heights.append(float(sum(tf.reduce_sum(variable**2) for variable in variables)))
    assert heights[0] < 15.25
    assert heights[-1] < 0.05 * heights[0]
    rate = optimizer.rate(tf.constant(3, tf.int64))
    assert (rate.dtype, rate.shape) == (tf.float32, ())
    assert 0 < float(rate) <= SETTINGS["learning_rate"] * 1.000001
    with pytest.raises(ValueError, match="learning_rate must be positive, got -1"):
        type(optimizer)(learning_rate=-1.0)


@pytest.mark.parametrize("name", members("rate schedules"))
def test_contract_of_rate_schedules(name: str):
    schedule = make(name)
    assert isinstance(schedule, RateSchedule)
    factors = [schedule(tf.constant(step, tf.int64)) for step in range(60)]
    assert {(factor.dtype, factor.shape.rank) for factor in factors} == {(tf.float32, 0)}
    values = np.array(factors)
    assert np.isfinite(values).all()
    assert values.min() >= 0
    assert values.max() == pytest.approx(1, abs=1e-6)
    assert values[0] > 0  # a first step at rate zero would be wasted
    assert np.abs(np.diff(values)).max() < 0.3  # no jumps
    parameters = {parameter: -3 for parameter in SETTINGS if parameter in inspect.signature(type(schedule)).parameters}
    with pytest.raises(ValueError, match="must be positive"):
        type(schedule)(**parameters)


def test_values_of_the_schedules():
    def values(schedule: RateSchedule, *steps: int) -> list[float]:
        return [float(schedule(tf.constant(step, tf.int64))) for step in steps]

    assert values(WarmUp(10), 0, 4, 9, 10, 10_000) == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert values(LinearDecay(10), 0, 5, 9, 10, 11) == pytest.approx([1, 0.5, 0.1, 0, 0])
    # after warm-up half a cosine: a quarter of the way down it is (1 + cos(pi / 4)) / 2
    falling = WarmUpCosine(steps=50, warm_up=10)
    expected = [0.1, 0.5, 1, (1 + math.cos(math.pi / 4)) / 2, 0.5, 0, 0]
    assert values(falling, 0, 4, 9, 19, 29, 49, 80) == pytest.approx(expected, abs=1e-6)


def test_a_trainer_refuses_such_a_batch(tmp_path: Path):
    message = "batch = 8 does not divide into 3 micro-batches; the nearest that does: 6 or 9"
    with pytest.raises(UserError, match=message):
        trainer_of(tmp_path, "base", "Training.micro_batches = 3")


# ---- the loop


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Loss falls; rows, checkpoints and grids come when they are due; nothing is traced twice."""
    bindings = ["base/Training.steps = 48", "Training.steps_per_call = 5", "Monitoring.log_every = 8"]
    bindings += ["Monitoring.checkpoint_every = 20", "Monitoring.grid_every = 24", "Monitoring.grid_images = 4"]
    trainer = Trainer(tiny.stage("base", *bindings), choose("one").make(), tmp_path, seed=0)
    trainer.run()
    found = rows(tmp_path / "metrics.csv")
    assert [int(row["step"]) for row in found] == [8, 16, 24, 32, 40, 48]
    assert [int(row["images"]) for row in found] == [8 * step for step in (8, 16, 24, 32, 40, 48)]
    losses = [float(row["loss"]) for row in found]
    assert losses[-1] < 0.8 * losses[0]
    seconds = [float(row["seconds"]) for row in found]
    assert seconds == sorted(seconds)
    assert trainer.checkpoints.steps() == [40, 48]
    grids = sorted(path.name for path in (tmp_path / "grids").iterdir())
    assert grids == [f"{step:08d}-{kind}.png" for step in (24, 48) for kind in ("ema", "raw")]
    assert len({(tmp_path / "grids" / name).read_bytes() for name in grids}) == 4
    assert list(tmp_path.glob("events.*"))
    assert trainer.step._compiled.experimental_get_tracing_count() == 1
    capsys.readouterr()
    trainer.run()
    assert capsys.readouterr().out == "base: trained, 48 steps\n"


def test_rows_after_the_checkpoint_are_dropped(tmp_path: Path):
    """They will come again; so is a row that a killed process left half."""
    trainer = trainer_of(tmp_path, "base")
    header, end = "step,images,loss,gradient_norm,learning_rate,images_per_second,seconds", ",16,0.5,1,0.1,9,"
    lines = [header, *(f"{step}{end}{step}.5" for step in (2, 4, 6)), "8,64,0."]
    (tmp_path / "metrics.csv").write_text("\n".join(lines))
    trainer.monitor.start(4, 24)
    trainer.monitor.finish()
    assert (tmp_path / "metrics.csv").read_text().splitlines() == lines[:3]
    assert trainer.monitor.seconds == 4.5


def test_an_untrained_stage_can_be_sampled(tmp_path: Path):
    trainer = trainer_of(tmp_path, "base", "base/Training.steps = 0")
    trainer.run()
    assert trainer.checkpoints.steps() == [0]
    assert not (tmp_path / "metrics.csv").exists()


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("batch", 0), ("micro_batches", 0), ("steps_per_call", 0), ("steps", -1), ("ema", 1.0), ("clip", 0.0)],
)
def test_training_refuses(parameter: str, value: float):
    good = tiny.stage("base").training
    settings = {"batch": 8, "steps": 4, "optimizer": good.optimizer, "monitoring": good.monitoring}
    with pytest.raises(ValueError, match=f"{parameter} must .*, got {value}"):
        Training(**{**settings, parameter: value})
