"""What a training step takes of a device, memory and time, and which switches would make it fit."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from zoo.cost import HALF_BYTES, Cost
from zoo.devices import FLOAT32, Device
from zoo.symbolic import Traced
from zoo.training.distribution import check_batch

if TYPE_CHECKING:
    from zoo.learner import Learner

FLOAT_BYTES = 4
# Forward, and twice as much backward: the gradients of the inputs and of the weights.
TRAINING_PASSES = 3
ALREADY = "the recipe has it already"
# Gradients that live at once: those of the batch, which are clipped in place; with micro-batches also their sums.
GRADIENT_COPIES, SUMMED_GRADIENT_COPIES = 1, 2


@dataclass(frozen=True)
class Switches:
    """What a machine may change about a training step without changing the experiment.

    Attributes:
        micro_batches: parts in which a replica works through its share of the batch.
        policy: of Keras, for what the network computes in.
        recompute: whether blocks are computed again in the backward pass.
        replicas: of the global batch.
        sharded: whether weights, averages and optimizer state are spread over the replicas, as the JAX training step
            does, instead of copied to each.
    """

    micro_batches: int = 1
    policy: str = FLOAT32
    recompute: bool = False
    replicas: int = 1
    sharded: bool = False

    def bindings(self, before: "Switches", scope: str = "") -> list[str]:
        """What to write in a recipe, or to have, to come from other switches to these; `scope` is "base/" or none."""
        precisions = {"mixed_bfloat16": "@BFloat16()", "mixed_float16": "@Float16()", FLOAT32: "@Float32()"}
        texts = []
        if self.sharded and not before.sharded:
            texts.append(f"state sharded over {self.replicas} devices (JAX)")
        elif self.replicas != before.replicas:
            texts.append(f"{self.replicas} devices")
        if self.micro_batches != before.micro_batches:
            texts.append(f"{scope}Training.micro_batches = {self.micro_batches}")
        if self.recompute and not before.recompute:
            texts.append(f"{scope}Training.recomputation = @RecomputeBlocks()")
        if self.policy != before.policy:
            texts.append(f"{scope}Training.precision = {precisions[self.policy]}")
        return texts


def switches_of(stage: "Learner", replicas: int) -> Switches:
    """The switches that a stage's recipe sets."""
    training = stage.training
    check_batch(stage.name, training.batch, replicas, training.micro_batches)
    return Switches(
        training.micro_batches, training.precision.policy, training.recomputation is not None, replicas=replicas
    )


@dataclass(frozen=True)
class Work:
    """What is trained, whatever the machine.

    Attributes:
        parameters: numbers in the weights.
        trainable: those of them that training changes.
        largest_weight: numbers in the largest weight.
        slots: numbers that the optimizer keeps for each weight.
        averages: moving averages of the weights.
        batch: images a step, of all replicas.
        input_bytes: of an image, what is read and drawn for it.
        cost: of an image.
        has_blocks: whether the network can compute blocks again.
        asked: forward passes of a network like it, a teacher's, for the loss of an image.
    """

    parameters: int
    trainable: int
    largest_weight: int
    slots: int
    averages: int
    batch: int
    input_bytes: int
    cost: Cost
    has_blocks: bool
    asked: int = 0

    @property
    def passes(self) -> int:
        """Forward passes that a training step is worth, for each image."""
        return TRAINING_PASSES + self.asked


def work_of(stage: "Learner", traced: Traced, cost: Cost) -> Work:
    """What training a stage is."""
    training = stage.training
    # One slot of the optimizer tells how many it keeps for each weight.
    slots = len(training.optimizer.slots([tf.Variable([0.0])]))
    return Work(
        traced.parameters,
        traced.trainable,
        traced.largest_weight,
        slots,
        len(training.decays),
        training.batch,
        _input_bytes(stage),
        cost,
        bool(traced.blocks),
        stage.asked_passes,
    )


def _input_bytes(stage: "Learner") -> int:
    wanted = ("image", "low_resolution", "text")
    shapes = {name: shape for name, (shape, _) in stage.input_spec(1).items() if name in wanted}
    drawn = [shape for _, shape in stage.randomness(shapes).values()]
    return sum(FLOAT_BYTES * _product(shape) for shape in [*shapes.values(), *drawn])


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


# ------------------------------------------------------------------ memory and time


@dataclass(frozen=True)
class Memory:
    """Bytes of one replica in a training step; the parts add up to the total."""

    weights: float
    """Those of a teacher too."""
    averages: float
    slots: float
    gradients: float
    half_weights: float
    """The weights again, in half precision, while the network computes in it."""
    activations: float
    inputs: float

    @property
    def total(self) -> float:
        return sum(asdict(self).values())

    @property
    def state(self) -> float:
        """What is there whatever the batch: weights, averages, optimizer slots and gradients."""
        return self.weights + self.averages + self.slots + self.gradients


def memory(work: Work, switches: Switches) -> Memory:
    """Of one replica, at the worst moment of a step."""
    share = switches.replicas if switches.sharded else 1
    trained = FLOAT_BYTES * work.trainable / share
    images = -(-work.batch // switches.replicas)
    activations = work.cost.activations(switches.policy).total(switches.recompute) * -(
        -images // switches.micro_batches
    )
    if switches.sharded:  # the layer at work has its weight and its gradient whole
        activations += 2 * FLOAT_BYTES * work.largest_weight
    copies = GRADIENT_COPIES if switches.micro_batches == 1 else SUMMED_GRADIENT_COPIES
    networks = 2 if work.asked else 1
    half = 0.0 if switches.policy == FLOAT32 else HALF_BYTES * work.trainable / share
    return Memory(
        weights=networks * (FLOAT_BYTES * (work.parameters - work.trainable) + trained),
        averages=work.averages * trained,
        slots=work.slots * trained,
        gradients=copies * trained,
        half_weights=networks * half,
        activations=activations,
        inputs=work.input_bytes * images,
    )


def step_seconds(work: Work, switches: Switches, device: Device) -> float:
    """Of one step on every replica at once; what replicas say to one another is not counted."""
    images = -(-work.batch // switches.replicas)
    flops = work.passes * work.cost.flops + (work.cost.block_flops if switches.recompute else 0)
    # The update reads and writes all of the state once.
    state = memory(work, switches).state
    update = 2 * state / device.bandwidth if device.bandwidth else 0.0
    return flops * images / device.rate(switches.policy) + update


def sampling_seconds(work: Work, switches: Switches, device: Device, evaluations: int, count: int) -> float:
    """Of `count` samples on all replicas."""
    images = -(-count // switches.replicas)
    return work.cost.flops * evaluations * images / device.rate(switches.policy)


# ------------------------------------------------------------------ what would make it fit


@dataclass(frozen=True)
class Remedy:
    """A switch that was tried.

    Attributes:
        name: of the switch.
        switches: with it; where it does not suffice alone, with those tried before too.
        memory_bytes: a replica.
        step_seconds: of a step.
        fits: whether that is enough.
        problem: why it could not be tried, or None.
    """

    name: str
    switches: Switches | None = None
    memory_bytes: float | None = None
    step_seconds: float | None = None
    fits: bool = False
    problem: str | None = None


def fits(work: Work, switches: Switches, device: Device) -> bool:
    """Whether a step does not need more memory than the device has for it."""
    return memory(work, switches).total <= device.usable_bytes


def remedies(work: Work, start: Switches, device: Device) -> list[Remedy]:
    """Every switch in turn: alone where that suffices, else together with those before it.

    The order is that of what they ask for: micro-batches cost nothing but small products, recomputation a third more
    time, half precision some accuracy, more replicas money, sharded state another backend.
    """
    found: list[Remedy] = []
    carried = start
    for name, turn in (
        ("micro-batches", _micro_batches),
        ("recomputation", _recomputation),
        ("half precision", _half_precision),
        ("more devices", _more_devices),
        ("sharded state", _sharded_state),
    ):
        outcome = turn(work, start, carried, device)
        if isinstance(outcome, str):
            found.append(Remedy(name, problem=outcome))
            continue
        carried = outcome
        enough = fits(work, outcome, device)
        size = memory(work, outcome).total
        found.append(Remedy(name, outcome, size, step_seconds(work, outcome, device), enough))
    return found


def _first_that_fits(work: Work, candidates: Iterator[Switches], device: Device) -> tuple[Switches | None, bool]:
    """The first of the candidates that fits; else the one that needs least."""
    best: Switches | None = None
    for candidate in candidates:
        if fits(work, candidate, device):
            return candidate, True
        if best is None or memory(work, candidate).total < memory(work, best).total:
            best = candidate
    return best, False


def _split(work: Work, switches: Switches) -> Iterator[Switches]:
    """The same with more and more micro-batches, which divide a replica's share of the batch."""
    images = work.batch // switches.replicas
    for count in _divisors(images):
        if count >= switches.micro_batches:
            yield replace(switches, micro_batches=count)


def _micro_batches(work: Work, start: Switches, carried: Switches, device: Device) -> Switches | str:
    best, _ = _first_that_fits(work, _split(work, start), device)
    return best or start


def _recomputation(work: Work, start: Switches, carried: Switches, device: Device) -> Switches | str:
    if not work.has_blocks:
        return "this network does not say what its blocks are"
    if start.recompute:
        return ALREADY
    return _alone_or_carried(work, start, carried, device, recompute=True)


def _half_precision(work: Work, start: Switches, carried: Switches, device: Device) -> Switches | str:
    if device.half is None:
        return f"{device.title} has none"
    if start.policy != FLOAT32:
        return ALREADY
    return _alone_or_carried(work, start, carried, device, policy=device.half)


def _more_devices(work: Work, start: Switches, carried: Switches, device: Device) -> Switches | str:
    if memory(work, replace(carried, micro_batches=1)).state > device.usable_bytes:
        return "each of them would hold the whole state"
    return _spread(work, start, carried, device, sharded=False)


def _sharded_state(work: Work, start: Switches, carried: Switches, device: Device) -> Switches | str:
    return _spread(work, start, carried, device, sharded=True)


def _alone_or_carried(work: Work, start: Switches, carried: Switches, device: Device, **change: Any) -> Switches:
    alone = replace(start, **change)
    if fits(work, alone, device):
        return alone
    together = replace(carried, micro_batches=start.micro_batches, **change)
    best, _ = _first_that_fits(work, _split(work, together), device)
    return best or together


def _spread(work: Work, start: Switches, carried: Switches, device: Device, sharded: bool) -> Switches | str:
    """Over the fewest devices that suffice: alone, else with the switches before."""
    best: Switches | None = None
    parts = start.micro_batches
    counts = [
        count
        for count in _divisors(work.batch // parts)
        if count > start.replicas or (sharded and count == start.replicas > 1)
    ]
    for base in (start, replace(carried, micro_batches=parts)):
        wider = (replace(base, replicas=count, sharded=sharded) for count in counts)
        best, enough = _first_that_fits(work, wider, device)
        if best is not None and enough:
            return best
    return best or f"a batch of {work.batch} cannot be divided further"


def _divisors(number: int) -> list[int]:
    return [count for count in range(1, number + 1) if number % count == 0]
