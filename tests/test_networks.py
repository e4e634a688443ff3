"""Blocks and U-Net: contracts of every listed slot, and what no golden configuration shows."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from scipy import signal

from zoo import registry
from zoo.diffusion import losses, targets, variances
from zoo.diffusion.objective import Objective
from zoo.diffusion.process import DiscreteProcess
from zoo.diffusion.schedules import CosineSchedule
from zoo.networks import attention, blocks, layers, resampling
from zoo.networks.embeddings import LogSNREmbedding, StepEmbedding, TimeEmbedding, sinusoidal_embedding
from zoo.networks.residual_sums import RescaledSum, ResidualSum
from zoo.networks.unet import BilinearEnlarging, Enlarging, LowResolutionInput, UNet

SIZE, BATCH, CLASSES = 8, 2, 4

# How a listed part is made; the others need no arguments.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "HeadCount": {"count": 2},
    "HeadChannels": {"channels": 16},
    "AttentionPooling": {"heads": attention.HeadChannels(16)},
    "SpatialPooling": {"width": 48},
    "NormalisedSpatialPooling": {"width": 48},
    "ShiftedLogSNREmbedding": {"image_d": 64, "noise_d": 32},
}


def members(family: str) -> list[Any]:
    found = [component.load() for component in registry.load().components.values() if component.family == family]
    assert found, f"registry.yaml lists no {family}"
    return [pytest.param(cls(**ARGUMENTS.get(cls.__name__, {})), id=cls.__name__) for cls in found]


def make(**changes: Any) -> UNet:
    """A U-Net as small as they come: 32 channels, one level of one block, without a class."""
    parts: dict[str, Any] = {
        "channels": 32,
        "multipliers": (1,),
        "blocks": 1,
        "out_channels": 3,
        "time": StepEmbedding(),
        "modulation": blocks.AdaptiveModulation(),
        "resampling": resampling.ConvolutionResampling(),
        "attention": attention.SelfAttention((), attention.HeadCount(2), attention.HeadsLast()),
        # Groups of four channels: in a group of one, an embedding that is added would be removed again.
        "normalisation": layers.GroupNormalisation(groups=8),
    }
    return UNet(**(parts | changes))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def inputs(size: int = SIZE, **more: Any) -> dict[str, Any]:
    return {"image": normal(BATCH, size, size, 3), "time": np.array([3, 700], "float32"), **more}


def perturb(network: keras.Model, seed: int = 5) -> keras.Model:
    """Moves every weight, so that no branch is at its zero start."""
    generator = np.random.default_rng(seed)
    for variable in network.trainable_variables:
        variable.assign_add(0.1 * generator.standard_normal(variable.shape).astype("float32"))
    return network


def built(network: UNet, given: dict[str, Any]) -> keras.Model:
    network(given)
    return perturb(network)


def near(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=tolerance)


def differ(one: Any, other: Any) -> bool:
    """Whether every example of a batch differs by more than rounding."""
    return bool((np.abs(np.asarray(one) - np.asarray(other)).max(axis=(1, 2, 3)) > 1e-3).all())


CONDITIONED: dict[str, Any] = {
    "label": np.array([0, 3], "int32"),
    "low_resolution": normal(BATCH, SIZE // 2, SIZE // 2, 3, seed=2),
    "low_resolution_time": np.array([0, 50], "float32"),
}


@pytest.fixture(scope="module")
def conditioned() -> keras.Model:
    """A perturbed network with all inputs, attention and dropout; tests leave its weights alone."""
    network = make(
        attention=attention.SelfAttention((SIZE,), attention.HeadCount(2), attention.HeadsFirst()),
        low_resolution=LowResolutionInput(BilinearEnlarging(), StepEmbedding()),
        classes=CLASSES,
        dropout=0.5,
    )
    return built(network, inputs(**CONDITIONED))


def hybrid() -> Objective:
    """An objective that uses most of the method: velocity, learned variance, both terms of the loss."""
    process = DiscreteProcess(CosineSchedule(), 40)
    return Objective(process, targets.VelocityTarget(), variances.LearnedRangeVariance(), losses.HybridLoss())


@pytest.fixture(params=["bfloat16", "float16"])
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    """Layers of this test compute in half precision."""
    keras.config.set_dtype_policy(f"mixed_{request.param}")
    yield request.param
    keras.config.set_dtype_policy("float32")


# ------------------------------------------------------------------ the whole network


def test_network_starts_at_zero():
    assert not np.asarray(make()(inputs())).any()


def test_examples_of_a_batch_do_not_mix(conditioned: keras.Model):
    given = inputs(**CONDITIONED)
    whole = conditioned(given)
    for example in range(BATCH):
        alone = conditioned({name: value[example : example + 1] for name, value in given.items()})
        near(alone[0], whole[example])


@pytest.mark.parametrize("name", ["image", "time", *CONDITIONED])
def test_every_input_matters(conditioned: keras.Model, name: str):
    given = inputs(**CONDITIONED)
    other = (given[name] + 1) % CLASSES if name == "label" else given[name] + 20
    assert differ(conditioned(given | {name: other}), conditioned(given))


def test_dropout_is_a_function_of_its_seed(conditioned: keras.Model):
    given = inputs(**CONDITIONED)
    one, again, other = (conditioned(given | {"seed": np.array(seed, "int32")}) for seed in ((7, 1), (7, 1), (7, 2)))
    np.testing.assert_array_equal(one, again)
    assert differ(one, other)
    # without a seed nothing is dropped, twice
    np.testing.assert_array_equal(conditioned(given), conditioned(given))
    assert differ(conditioned(given), one)


def test_dropout_keeps_no_state(conditioned: keras.Model):
    assert len(conditioned.variables) == len(conditioned.trainable_variables)


def variables(network: keras.Model) -> list[tuple[str, tuple[int, ...]]]:
    return [(variable.path.split("/", 1)[1], tuple(variable.shape)) for variable in network.variables]


def test_symbolic_call_makes_the_same_variables(conditioned: keras.Model):
    network = make(
        attention=attention.SelfAttention((SIZE,), attention.HeadCount(2), attention.HeadsFirst()),
        low_resolution=LowResolutionInput(BilinearEnlarging(), StepEmbedding()),
        classes=CLASSES,
        dropout=0.5,
    )
    given = inputs(**CONDITIONED)
    output = network({name: keras.KerasTensor(value.shape, str(value.dtype)) for name, value in given.items()})
    assert output.shape == (BATCH, SIZE, SIZE, 3)
    assert variables(network) == variables(conditioned)
    assert len(set(variables(network))) == len(network.variables)  # checkpoints are by name
    for mine, other in zip(network.variables, conditioned.variables, strict=True):
        mine.assign(other)
    near(network(given), conditioned(given), 1e-6)


def test_half_precision_is_near(policy: str):
    half, given = make(classes=CLASSES), inputs(label=CONDITIONED["label"])
    half(given)
    keras.config.set_dtype_policy("float32")
    full = built(make(classes=CLASSES), given)
    for variable, other in zip(half.variables, full.variables, strict=True):
        assert variable.dtype == "float32"
        variable.assign(other)
    output = half(given)
    assert keras.backend.standardize_dtype(output.dtype) == policy
    expected = np.asarray(full(given))
    difference = np.asarray(ops.cast(output, "float32")) - expected
    assert np.abs(difference).max() < {"bfloat16": 0.05, "float16": 0.005}[policy] * np.abs(expected).max()
    # a time of 701 is not a number of bfloat16: time and class stay precise until they enter the blocks
    near(half.embed(given | {"time": np.array([700, 701], "float32")}), full.embed(given | {"time": [700.0, 701.0]}))


def test_half_precision_can_be_trained(policy: str):
    x = normal(BATCH, SIZE, SIZE, 3)
    random = {"noise": normal(*x.shape, seed=3), "level": np.array([[0, 0], [0.5, 0.5]], "float32")}
    loss = hybrid().training_loss(make(out_channels=6), x, {}, random)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    assert np.isfinite(loss).all()


def test_a_policy_of_the_network_alone_is_that_of_its_layers(policy: str):
    """As a stage sets it: the network is made before, its layers while it is built."""
    keras.config.set_dtype_policy("float32")
    network = make()
    network.dtype_policy = keras.DTypePolicy(f"mixed_{policy}")
    keras.config.set_dtype_policy(f"mixed_{policy}")
    assert keras.backend.standardize_dtype(network(inputs()).dtype) == policy


def test_recomputation_is_asked_for_every_block(conditioned: keras.Model):
    """With the same dropout masks, though each block is run twice."""
    given = inputs(**CONDITIONED, seed=np.array((7, 1), "int32"))
    expected, calls = conditioned(given), []

    def recompute(function: Callable[..., Any], *tensors: Any) -> Any:
        calls.append([tuple(tensor.shape) for tensor in tensors])
        np.testing.assert_array_equal(function(*tensors), function(*tensors))
        return function(*tensors)

    conditioned.recompute = recompute
    try:
        np.testing.assert_array_equal(conditioned(given), expected)
    finally:
        conditioned.recompute = None
    # one block down, the middle, and two up, which take the images that they concatenate
    image, embedding = (BATCH, SIZE, SIZE, 32), (BATCH, 128)
    assert calls == [[embedding, image], [embedding, image], [embedding, image, image], [embedding, image, image]]


# ------------------------------------------------------------------ the slots

SLOTS = {
    "modulations": "modulation",
    "resamplings": "resampling",
    "time embeddings": "time",
    "normalisations": "normalisation",
    "residual sums": "residual_sum",
}


@pytest.mark.parametrize(
    ("slot", "part"),
    [pytest.param(slot, *member.values, id=member.id) for family, slot in SLOTS.items() for member in members(family)],
)
def test_every_part_fits_the_network(slot: str, part: Any):
    """Two levels of 64 and 32 channels: right shapes, zero at first, and then the noise level is heard."""
    network = make(**{"multipliers": (2, 1), slot: part})
    given = inputs(logsnr=np.array([-3, 4], "float32"))
    assert not np.asarray(network(given)).any()
    perturb(network)
    output = network(given)
    assert output.shape == (BATCH, SIZE, SIZE, 3)
    assert np.isfinite(output).all()
    source = network.time.source
    assert differ(network(given | {source: given[source] + 1}), output)


@pytest.mark.parametrize("modulation", members("modulations"))
def test_modulation_of_a_zero_embedding_is_the_normalisation(modulation: blocks.Modulation):
    norm = layers.GroupNorm(8, 1e-5)
    h = normal(BATCH, 4, 5, 32)
    near(modulation(norm, h, np.zeros((BATCH, modulation.factor * 32), "float32")), norm(h))
    assert differ(modulation(norm, h, normal(BATCH, modulation.factor * 32)), norm(h))


@pytest.mark.parametrize("resampling", members("resamplings"))
def test_resampling_halves_and_doubles(resampling: resampling.Resampling):
    x = normal(BATCH, 4, 6, 32)
    down, up = resampling.down(16, "down"), resampling.up(16, "up")
    assert (down is None) == (up is None) == resampling.inside
    if down is not None and up is not None:
        assert down(x).shape[:3] == (BATCH, 2, 3)
        assert up(x).shape[:3] == (BATCH, 8, 12)


def test_halving_and_enlarging_are_means_and_copies():
    x = normal(1, 2, 4, 3)
    near(resampling.halve(x), x.reshape(1, 1, 2, 2, 2, 3).mean(axis=(2, 4)))
    near(resampling.enlarge2(x), np.kron(x, np.ones((1, 2, 2, 1))))
    near(resampling.halve(resampling.enlarge2(x)), x)


@pytest.mark.parametrize("enlarging", members("enlargings"))
def test_enlarging_keeps_flat_images_and_slopes(enlarging: Enlarging):
    near(enlarging(np.full((1, 4, 4, 3), 0.3, "float32"), (8, 16)), np.full((1, 8, 16, 3), 0.3))
    slope = np.broadcast_to(np.arange(8, dtype="float32")[None, :, None, None], (1, 8, 8, 1))
    large = np.asarray(enlarging(slope, (16, 16)))[0, :, 5, 0]
    near(large[4:-4], (np.arange(16) / 2 - 0.25)[4:-4], 1e-4)  # half-pixel centres


@pytest.mark.parametrize("embedding", members("time embeddings"))
def test_embedding_tells_levels_apart(embedding: TimeEmbedding):
    values = ops.convert_to_tensor(np.array([-6, -1, 0, 1, 6], "float32"))
    result = np.asarray(embedding.embed(values, 32))
    assert result.shape == (5, 32)
    distances = np.linalg.norm(result[:, None] - result[None], axis=-1) + np.eye(5)
    assert distances.min() > 0.1


def test_logsnr_embedding_spans_its_range():
    embedding = LogSNREmbedding(smallest=-10.0, largest=30.0)
    values = np.array([-10, 0, 30, -50, 50], "float32")
    expected = sinusoidal_embedding(np.array([0, 250, 1000, 0, 1000], "float32"), 32)
    near(embedding.embed(ops.convert_to_tensor(values), 32), expected, 1e-4)


@pytest.mark.parametrize("kind", ["residual", "attention"])
def test_a_rescaled_sum_is_the_plain_one_over_the_root_of_two(kind: str):
    def block(residual_sum: ResidualSum | None) -> keras.layers.Layer:
        normalisation = layers.GroupNormalisation(groups=8)
        if kind == "attention":
            return attention.AttentionBlock(2, attention.HeadsLast(), normalisation, residual_sum)
        return blocks.ResidualBlock(64, 0.0, normalisation, blocks.AdditiveModulation(), None, residual_sum)

    given = [normal(BATCH, 4, 4, 32)] + [normal(BATCH, 16)] * (kind == "residual")
    plain, rescaled = block(None), block(RescaledSum())
    plain(*given), rescaled(*given)
    for variable, other in zip(rescaled.variables, perturb(plain).variables, strict=True):
        variable.assign(other)
    near(rescaled(*given), np.asarray(plain(*given)) / np.sqrt(2))


def test_every_block_of_a_network_takes_the_sum_it_is_told():
    network = make(
        residual_sum=RescaledSum(),
        attention=attention.SelfAttention((SIZE,), attention.HeadCount(2), attention.HeadsLast()),
    )
    network(inputs())
    made = [layer for group in (*network.down, network.middle, *network.up) for layer in group]
    sums = [layer.residual_sum for layer in made if isinstance(layer, blocks.ResidualBlock | attention.AttentionBlock)]
    assert len(sums) == 9  # a block and attention down, three in the middle, two of each up
    assert all(isinstance(residual_sum, RescaledSum) for residual_sum in sums)


# ------------------------------------------------------------------ attention

CUTS: dict[str, Callable[[np.ndarray, int, int], list[np.ndarray]]] = {
    # projected [B, T, 3C], head h of width w -> its query, key and value
    "HeadsFirst": lambda p, h, w: [p[..., (3 * h + i) * w : (3 * h + i + 1) * w] for i in range(3)],
    "HeadsLast": lambda p, h, w: [p[..., i * p.shape[-1] // 3 :][..., h * w : (h + 1) * w] for i in range(3)],
}


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("order", members("attention orders"))
def test_attention_is_softmax_attention(order: attention.AttentionOrder, heads: int):
    block = attention.AttentionBlock(heads, order, layers.GroupNormalisation(groups=8))
    x = 3 * normal(BATCH, 3, 4, 32)
    near(block(x), x)  # its last map starts at zero
    perturb(block)
    tokens = np.asarray(block.norm(x)).reshape(BATCH, 12, 32)
    projected = np.asarray(block.projection_in(tokens))
    mixed = []
    for head in range(heads):
        query, key, value = CUTS[type(order).__name__](projected, head, 32 // heads)
        weights = np.exp(query @ key.transpose(0, 2, 1) / np.sqrt(32 / heads))
        mixed.append(weights / weights.sum(axis=-1, keepdims=True) @ value)
    added = np.asarray(block.projection_out(np.concatenate(mixed, axis=-1)))
    near(block(x), x + added.reshape(x.shape), 1e-4)


@pytest.mark.parametrize("heads", members("heads"))
def test_heads_divide_the_width(heads: attention.Heads):
    for decoder in (False, True):
        assert 64 % heads.heads(64, decoder) == 0
    with pytest.raises(ValueError, match="must divide the width of every attention layer"):
        heads.heads(33, False)


def test_the_way_up_may_have_other_heads():
    heads = attention.HeadCount(4, decoder=2)
    assert (heads.heads(32, False), heads.heads(32, True)) == (4, 2)
    assert attention.HeadCount(4).heads(32, True) == 4
    assert attention.HeadChannels(16).heads(64, True) == 4


# ------------------------------------------------------------------ layers


@pytest.mark.parametrize(("mean", "tolerance"), [(0.0, 1e-5), (30.0, 2e-3)])
def test_group_norm_is_group_normalisation(mean: float, tolerance: float):
    """One pass over the image costs digits where the mean is large: mean^2 / variance roundings, no more."""
    x = mean + normal(BATCH, 5, 6, 32)
    norm, reference = layers.GroupNorm(8, 1e-3), keras.layers.GroupNormalization(8, epsilon=1e-3)
    norm(x), reference(x)
    for variable, other in zip(perturb(norm).variables, reference.variables, strict=True):
        other.assign(variable)
    expected = np.asarray(reference(x.astype("float64") if mean == 0 else x - mean))
    near(norm(x), expected, tolerance)
    scale, shift = normal(BATCH, 32, seed=1), normal(BATCH, 32, seed=2)
    near(norm(x, scale, shift), expected * (1 + scale[:, None, None]) + shift[:, None, None], 3 * tolerance)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("activation", [layers.Identity(), layers.SiLU()])
def test_gradient_of_group_norm_is_exact(activation: layers.Activation, modulated: bool):
    """Against the automatic gradient of the same formula in float64, without the shortcuts."""
    keras.config.set_dtype_policy("float64")
    try:
        norm = layers.GroupNorm(4, 1e-3, activation)
        x = tf.constant(2 + normal(BATCH, 3, 5, 8).astype("float64"))
        norm(x)
    finally:
        keras.config.set_dtype_policy("float32")
    modulation = [tf.constant(normal(BATCH, 8, seed=seed).astype("float64")) for seed in (1, 2)] if modulated else []
    weights = [variable.value for variable in perturb(norm).trainable_variables]
    upstream = tf.constant(normal(BATCH, 3, 5, 8, seed=3).astype("float64"))

    def plainly(x: tf.Tensor, *modulation: tf.Tensor) -> tf.Tensor:
        grouped = tf.reshape(x, (BATCH, 15, 4, 2))
        mean, variance = tf.nn.moments(grouped, (1, 3), keepdims=True)
        normal = tf.reshape((grouped - mean) / tf.sqrt(variance + 1e-3), x.shape) * weights[0] + weights[1]
        if modulation:
            scale, shift = (value[:, None, None] for value in modulation)
            normal = normal * (1 + scale) + shift
        return tf.nn.silu(normal) if isinstance(activation, layers.SiLU) else normal

    def gradients(function: Callable[..., tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([x, *modulation])
            loss = tf.reduce_sum(function(x, *modulation) * upstream)
        return [loss, *tape.gradient(loss, [x, *weights, *modulation])]

    for found, expected in zip(gradients(norm), gradients(plainly), strict=True):
        near(found, expected, 1e-10)


def test_group_norm_is_precise_where_its_input_is_not(policy: str):
    norm = layers.GroupNorm(8, 1e-5, layers.SiLU())
    x = ops.cast(3 + normal(BATCH, 16, 16, 32), policy)
    output = norm(x)
    assert keras.backend.standardize_dtype(output.dtype) == policy
    keras.config.set_dtype_policy("float32")
    expected = np.asarray(layers.GroupNorm(8, 1e-5, layers.SiLU())(ops.cast(x, "float32")))
    rounding = {"bfloat16": 2.0**-8, "float16": 2.0**-11}[policy]
    near(ops.cast(output, "float32"), expected, rounding)


def test_group_norm_of_a_constant_image_is_finite():
    """The difference of the two moments may round below zero."""
    x = np.full((1, 7, 7, 32), 1234.567, "float32")
    assert np.abs(np.asarray(layers.GroupNorm(8, 1e-5)(x))).max() < 1


@pytest.mark.parametrize("size", [6, 7])
def test_strided_convolution_pads_every_side(size: int):
    """PyTorch's padding; 'same' would pad an even size at the bottom and right alone."""
    layer = layers.convolution(4, stride=2)
    x = normal(1, size, size, 2)
    output = np.asarray(layer(x))
    kernel = np.asarray(layer.kernel)
    for channel in range(4):
        whole = sum(
            signal.correlate2d(x[0, ..., i], kernel[..., i, channel], mode="full", boundary="fill") for i in range(2)
        )
        # "full" pads by two: one more than the layer
        near(output[0, ..., channel], whole[1:-1:2, 1:-1:2])


def test_convolution_of_one_pixel_is_a_linear_map():
    layer = layers.convolution(4, size=1)
    assert isinstance(layer, keras.layers.Dense)
    assert layer(normal(1, 3, 3, 2)).shape == (1, 3, 3, 4)


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: make(channels=0), "channels must be positive, got 0"),
        (lambda: make(blocks=-1), "blocks must be positive, got -1"),
        (lambda: make(out_channels=0), "out_channels must be positive, got 0"),
        (lambda: make(classes=0), "classes must be positive, got 0"),
        (lambda: make(multipliers=()), "multipliers must be positive numbers"),
        (lambda: make(multipliers=(1, 0)), "multipliers must be positive numbers"),
        (lambda: make(dropout=1.0), "dropout must be in [0, 1), got 1.0"),
        (
            lambda: make(multipliers=(1, 1, 1))(inputs(6)),
            "multipliers: 3 levels need an image size divisible by 4, got 6",
        ),
        (lambda: make(channels=20)(inputs()), "channels must be a multiple of the 8 groups"),
        (lambda: layers.GroupNormalisation(groups=0), "groups must be positive, got 0"),
        (lambda: layers.GroupNormalisation(epsilon=0.0), "epsilon must be positive, got 0.0"),
        (lambda: attention.HeadCount(0), "count and decoder must be positive"),
        (lambda: attention.HeadCount(1, decoder=0), "count and decoder must be positive"),
        (lambda: attention.HeadChannels(0), "channels must be positive, got 0"),
        (
            lambda: attention.SelfAttention((0,), attention.HeadCount(), attention.HeadsLast()),
            "resolutions must be sizes",
        ),
        (lambda: LogSNREmbedding(3.0, 3.0), "smallest must be below largest"),
    ],
)
def test_mistakes_name_the_parameter(mistake: Callable[[], Any], message: str):
    with pytest.raises(ValueError) as raised:
        mistake()
    assert message in str(raised.value)
