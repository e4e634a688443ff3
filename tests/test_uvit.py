"""U-ViT and the U-Net of simple diffusion: the pseudo-code in NumPy, counts, and what every network promises."""

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from zoo import cost, registry, symbolic
from zoo.networks.attention import HeadCount
from zoo.networks.layers import GroupNormalisation
from zoo.networks.patching import ConvolutionPatching, WaveletPatching
from zoo.networks.shifted_embedding import ShiftedLogSNREmbedding
from zoo.networks.simple_diffusion import SimpleDiffusionNetwork
from zoo.networks.simple_unet import DropoutFromResolution, SimpleDiffusionUNet
from zoo.networks.skip_blocks import AttendingBlock, SkipBlock
from zoo.networks.transformer import MLPBlock, PixelAttention, TextAttention, TextInput, Transformer, TransformerBlock
from zoo.networks.uvit import UViT

BATCH, SIZE, CLASSES, TOKENS, WORD = 2, 16, 4, 5, 6
NORMALISATION = GroupNormalisation(groups=8, epsilon=1e-6)


def parts(**changes: Any) -> dict[str, Any]:
    """What both networks take: 32 and 64 channels, embeddings of 48."""
    given: dict[str, Any] = {
        "channels": 32,
        "multipliers": (1, 2),
        "out_channels": 3,
        "embedding_channels": 48,
        "time": ShiftedLogSNREmbedding(image_d=16, noise_d=8),
        "normalisation": NORMALISATION,
        "patching": WaveletPatching(),
        "classes": CLASSES,
    }
    return given | changes


def uvit(**changes: Any) -> UViT:
    given = {"blocks": (1,), "transformer": Transformer(1, HeadCount(4), dropout=0.5), "text": TextInput(WORD)}
    return UViT(**parts(**(given | changes)))


def unet(**changes: Any) -> SimpleDiffusionUNet:
    given = {"blocks": (1, 1), "heads": HeadCount(4), "dropout": DropoutFromResolution(0.5, 4)}
    return SimpleDiffusionUNet(**parts(**(given | {"attention_resolutions": (8,)} | changes)))


NETWORKS: dict[str, Callable[..., SimpleDiffusionNetwork]] = {"UViT": uvit, "SimpleDiffusionUNet": unet}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def inputs(name: str = "UViT", height: int = SIZE, width: int = SIZE) -> dict[str, np.ndarray]:
    """The second text has two tokens less than the first."""
    text = normal(BATCH, TOKENS, WORD, seed=2)
    text[1, -2:] = 0
    given = {
        "image": normal(BATCH, height, width, 3),
        "logsnr": np.array([-3, 4], "float32"),
        "label": np.array([0, 3], "int32"),
    }
    return given | ({"text": text} if name == "UViT" else {})


def perturb(layer: Any, seed: int = 5) -> Any:
    """Moves every weight, so that no branch is at its zero start."""
    generator = np.random.default_rng(seed)
    for variable in layer.trainable_variables:
        variable.assign_add(0.1 * generator.standard_normal(variable.shape).astype("float32"))
    return layer


def near(actual: Any, expected: Any, tolerance: float = 2e-5) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=tolerance)


def differ(one: Any, other: Any) -> bool:
    """Whether every example of a batch differs by more than rounding."""
    return bool((np.abs(np.asarray(one) - np.asarray(other)).max(axis=(1, 2, 3)) > 1e-3).all())


@pytest.fixture(scope="module", params=NETWORKS)
def built(request: pytest.FixtureRequest) -> tuple[SimpleDiffusionNetwork, dict[str, np.ndarray]]:
    """Each network with all its inputs, perturbed; tests leave the weights alone."""
    network, given = NETWORKS[request.param](), inputs(request.param)
    assert not np.asarray(network(given)).any()  # a new network gives zeros
    return perturb(network), given


@pytest.fixture
def half_precision() -> Iterator[Callable[[str], None]]:
    """Sets the policy that layers of this test compute under."""
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy("float32")


# ------------------------------------------------------------------ what every network promises


def test_listed_networks_are_tested():
    listed = [name for name, component in registry.load().components.items() if component.family == "networks"]
    assert set(NETWORKS) <= set(listed)


def test_examples_of_a_batch_do_not_mix(built: tuple[SimpleDiffusionNetwork, dict[str, np.ndarray]]):
    network, given = built
    whole = network(given)
    assert whole.shape == (BATCH, SIZE, SIZE, 3)
    for example in range(BATCH):
        alone = network({name: value[example : example + 1] for name, value in given.items()})
        near(alone[0], whole[example])


def test_every_input_matters(built: tuple[SimpleDiffusionNetwork, dict[str, np.ndarray]]):
    network, given = built
    for name, value in given.items():
        other = (value + 1) % CLASSES if name == "label" else value + normal(*value.shape, seed=3)
        assert differ(network(given | {name: other}), network(given)), name


def test_dropout_is_a_function_of_its_seed(built: tuple[SimpleDiffusionNetwork, dict[str, np.ndarray]]):
    network, given = built
    one, again, other = (network(given | {"seed": np.array(seed, "int32")}) for seed in ((7, 1), (7, 1), (7, 2)))
    np.testing.assert_array_equal(one, again)
    assert differ(one, other)
    # without a seed nothing is dropped
    np.testing.assert_array_equal(network(given), network(given))
    assert differ(network(given), one)
    assert len(network.variables) == len(network.trainable_variables)  # it keeps no state


def test_symbolic_call_makes_the_same_variables(built: tuple[SimpleDiffusionNetwork, dict[str, np.ndarray]]):
    network, given = built
    other = NETWORKS[type(network).__name__]()
    output = other({name: keras.KerasTensor(value.shape, str(value.dtype)) for name, value in given.items()})
    assert output.shape == (BATCH, SIZE, SIZE, 3)
    names = [[(v.path.split("/", 1)[1], tuple(v.shape)) for v in one.variables] for one in (network, other)]
    assert names[0] == names[1]
    assert len(set(names[0])) == len(names[0])  # checkpoints are by name
    for mine, variable in zip(other.variables, network.variables, strict=True):
        mine.assign(variable)
    near(other(given), network(given), 1e-6)


def test_recomputation_is_asked_for_every_block(built: tuple[SimpleDiffusionNetwork, dict[str, np.ndarray]]):
    """With the same dropout masks, though each block is run twice."""
    network, given = built
    given = given | {"seed": np.array((7, 1), "int32")}
    expected, calls = network(given), []

    def recompute(function: Callable[..., Any], *tensors: Any) -> Any:
        calls.append(len(tensors))
        np.testing.assert_array_equal(function(*tensors), function(*tensors))
        return function(*tensors)

    network.recompute = recompute
    try:
        np.testing.assert_array_equal(network(given), expected)
    finally:
        network.recompute = None
    # embedding and image, and a skip on the way up or a text in the transformer
    assert calls == {"UViT": [2, 3, 3], "SimpleDiffusionUNet": [2] * 4 + [3] * 4}[type(network).__name__]


@pytest.mark.parametrize(
    ("name", "policy", "bound"), [("UViT", "float16", 0.005), ("SimpleDiffusionUNet", "bfloat16", 0.05)]
)
def test_half_precision_is_near(name: str, policy: str, bound: float, half_precision: Callable[[str], None]):
    half_precision(f"mixed_{policy}")
    half, given = NETWORKS[name](), inputs(name)
    half(given)
    half_precision("float32")
    full = NETWORKS[name]()
    full(given)
    perturb(full)
    for variable, other in zip(half.variables, full.variables, strict=True):
        assert variable.dtype == "float32"
        variable.assign(other)
    output, expected = np.asarray(half(given)), np.asarray(full(given))
    assert output.dtype == "float32"  # patches are joined in full precision
    difference = np.abs(output - expected).max()
    assert 0 < difference < bound * np.abs(expected).max()
    near(half.embed(given), full.embed(given))


def test_images_that_are_not_square_and_networks_that_are_told_nothing_else():
    networks = (
        uvit(patching=ConvolutionPatching(2), classes=None, text=None),
        unet(patching=None, attention_resolutions=(16,), classes=None, dropout=None),
    )
    for network in networks:
        given = {name: value for name, value in inputs(height=16, width=24).items() if name in ("image", "logsnr")}
        assert network(given).shape == (BATCH, 16, 24, 3)


# ------------------------------------------------------------------ the pseudo-code, in NumPy


def np_norm(x: np.ndarray, layer: Any) -> np.ndarray:
    """Layer normalisation over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * np.asarray(layer.gamma)
    return y if layer.beta is None else y + np.asarray(layer.beta)


def np_group_norm(x: np.ndarray, layer: Any) -> np.ndarray:
    groups = x.reshape(*x.shape[:3], 8, -1)
    centred = groups - groups.mean(axis=(1, 2, 4), keepdims=True)
    y = centred / np.sqrt((centred**2).mean(axis=(1, 2, 4), keepdims=True) + 1e-6)
    return y.reshape(x.shape) * np.asarray(layer.gamma) + np.asarray(layer.beta)


def np_dense(x: np.ndarray, layer: Any) -> np.ndarray:
    return x @ np.asarray(layer.kernel) + np.asarray(layer.bias)


def swish(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


X, EMBEDDING = 2 * normal(BATCH, 3, 4, 32, seed=8), normal(BATCH, 48, seed=9)


def test_mlp_block():
    """The embedding scales and shifts after the swish of the hidden layer."""
    block = MLPBlock(expansion=4, rate=0.3)
    assert not np.asarray(block(X, EMBEDDING)).any()
    perturb(block)
    h = swish(np_dense(np_norm(X, block.norm), block.hidden))
    assert h.shape[-1] == 4 * 32
    scale, shift = (np_dense(EMBEDDING, layer)[:, None, None] for layer in (block.scale, block.shift))
    near(block(X, EMBEDDING), np_dense(h * (1 + scale) + shift, block.projection_out), 1e-4)


def np_attention(block: Any, queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[B, T, C] and twice [B, L, C] -> [B, T, C], four heads."""
    heads = [part.reshape(*part.shape[:2], 4, -1) for part in (queries, keys, values)]
    q, k = np_norm(heads[0], block.norm_queries), np_norm(heads[1], block.norm_keys)
    weights = softmax(np.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k))
    return np_dense(np.einsum("bhqk,bkhd->bqhd", weights, heads[2]).reshape(queries.shape), block.projection_out)


def test_self_attention_normalises_queries_and_keys():
    block = PixelAttention(heads=4)
    assert not np.asarray(block(X)).any()
    perturb(block)
    tokens = np_norm(X, block.norm).reshape(BATCH, 12, 32)
    expected = np_attention(block, *np.split(np_dense(tokens, block.projection_in), 3, axis=-1))
    near(block(X), expected.reshape(X.shape), 1e-4)


def test_cross_attention_sees_the_tokens_that_are_there():
    block, text = TextAttention(heads=4), inputs()["text"]
    assert not np.asarray(block(X, text)).any()
    perturb(block)
    queries = np_dense(np_norm(X, block.norm).reshape(BATCH, 12, 32), block.queries)
    found = np.asarray(block(X, text))
    for example, length in enumerate((TOKENS, TOKENS - 2)):
        told = np_dense(np_norm(text[example : example + 1, :length], block.norm_text), block.keys_and_values)
        expected = np_attention(block, queries[example : example + 1], *np.split(told, 2, axis=-1))
        near(found[example], expected.reshape(3, 4, 32), 1e-4)


def test_no_text_is_a_constant_whatever_its_padding():
    block = TextAttention(heads=4)
    block(X, inputs()["text"])
    perturb(block)
    one, other = (np.asarray(block(X, np.zeros((BATCH, length, WORD), "float32"))) for length in (2, 7))
    near(one, other)
    near(one, np.broadcast_to(one[:1, :1, :1], one.shape))
    assert np.isfinite(one).all()


def test_residual_block_joins_a_skip_as_a_normalised_sum():
    skip = normal(*X.shape, seed=10)
    for others in ((), (skip,)):
        block = SkipBlock(0.0, NORMALISATION)
        near(block(X, EMBEDDING, *others), X)
        perturb(block)
        h = np_group_norm(X, block.norm_in)
        if others:
            h = (h + np_group_norm(skip, block.norm_skip)) / math.sqrt(2)
        scale, shift = np.split(np_dense(EMBEDDING, block.projection)[:, None, None], 2, axis=-1)
        h = np.asarray(block.convolution_in(swish(h).astype("float32")))
        h = swish(np_group_norm(h, block.norm_out) * (1 + scale) + shift)
        near(block(X, EMBEDDING, *others), X + np.asarray(block.convolution_out(h.astype("float32"))), 1e-4)


def test_order_of_the_blocks():
    """MLP first, then attention, each on what the one before gave."""
    block, text = TransformerBlock(4, 4, 0.0), inputs()["text"]
    block(X, EMBEDDING, text)
    perturb(block)
    h = X + np.asarray(block.mlp(X, EMBEDDING))
    h = h + np.asarray(block.attention(h))
    near(block(X, EMBEDDING, text), h + np.asarray(block.text_attention(h, text)), 1e-5)
    attending = AttendingBlock(0.0, 4, NORMALISATION)
    attending(X, EMBEDDING)
    perturb(attending)
    h = attending.block(X, EMBEDDING)
    near(attending(X, EMBEDDING), h + attending.attention(h), 1e-5)


def test_wiring_of_the_uvit():
    """The loops of the pseudo-code, with the blocks of a network."""
    network, given = uvit(multipliers=(1, 1, 2), blocks=(1, 2), patching=None), inputs()
    network(given)
    perturb(network)
    emb = ops.silu(network.embed(given))
    last_h = network.embed_input(given["image"])
    hs = []
    for i_level in range(2):
        for i_block in range((1, 2)[i_level]):
            last_h = network.down[i_level][i_block](last_h, emb)
            hs.append(last_h)
        last_h = network.downsample[i_level](last_h)
    assert last_h.shape == (BATCH, 4, 4, 64)
    last_h += network.positions[None]
    for block in network.middle:
        last_h = block(last_h, emb, given["text"])
    for i_level in reversed(range(2)):
        last_h = network.upsample[i_level](last_h)
        for i_block in range((1, 2)[i_level]):
            last_h = network.up[i_level][i_block](last_h, emb, hs.pop())
    assert not hs
    near(network(given), network.project_output(network.norm_out(last_h)), 1e-5)


def test_wiring_of_the_unet():
    """A skip is what a block or a change of resolution on the way down gave; each is used once, last first."""
    network, given = unet(blocks=(1, 2), attention_resolutions=(16,), patching=None), inputs("SimpleDiffusionUNet")
    network(given)
    perturb(network)
    emb = ops.silu(network.embed(given))
    h0 = network.embed_input(given["image"])
    h1 = network.down[0][0](h0, emb)
    h2 = network.downsample[0](h1)
    h3 = network.down[1][0](h2, emb)
    h4 = network.down[1][1](h3, emb)
    h = network.middle[1](network.middle[0](h4, emb), emb)
    for block, skip in zip(network.up[1], (h4, h3, h2), strict=True):
        h = block(h, emb, skip)
    h = network.upsample[0](h)
    for block, skip in zip(network.up[0], (h1, h0), strict=True):
        h = block(h, emb, skip)
    near(network(given), network.project_output(network.norm_out(h)), 1e-5)


# ------------------------------------------------------------------ embeddings


def test_no_class_is_minus_one():
    network, given = uvit(), inputs()
    network(given)
    perturb(network)
    rows = np.asarray(network.label.kernel)
    none = np.asarray(network.embed(given | {"label": np.array([-1, -1], "int32")}))
    near(network.embed(given), none + rows[[0, 3]])


def logsnr_schedule_cosine(t: float) -> float:
    t_min, t_max = (math.atan(math.exp(-0.5 * end)) for end in (15, -15))
    return -2 * math.log(math.tan(t_min + t * (t_max - t_min)))


def test_ends_of_the_embedding_are_those_of_the_schedule():
    def shifted(t: float, noise_d: int) -> float:
        return logsnr_schedule_cosine(t) + 2 * math.log(noise_d / 512)

    embedding = ShiftedLogSNREmbedding(image_d=512, noise_d=64)
    assert embedding.source == "logsnr"
    assert (embedding.smallest, embedding.largest) == pytest.approx((shifted(1, 64), shifted(0, 64)))
    embedding = ShiftedLogSNREmbedding(image_d=512, noise_d=32, noise_d_high=256)
    ends = [t * shifted(t, 32) + (1 - t) * shifted(t, 256) for t in (1, 0)]
    assert (embedding.smallest, embedding.largest) == pytest.approx(tuple(ends))


# ------------------------------------------------------------------ where blocks stand


def test_dropout_from_a_resolution_downwards():
    network = unet(dropout=DropoutFromResolution(0.3, 4), multipliers=(1, 1, 2), blocks=(1, 1, 1))
    network(inputs("SimpleDiffusionUNet"))

    def rates(blocks: list[Any]) -> set[float]:
        return {(block.block if isinstance(block, AttendingBlock) else block).rate for block in blocks}

    # feature maps of 8, 4 and 2 pixels
    assert [rates(network.down[level] + network.up[level]) for level in range(3)] == [{0.0}, {0.3}, {0.3}]
    assert rates(network.middle) == {0.3}
    assert [len(network.up[level]) for level in range(3)] == [2, 2, 2]
    attending = [{type(block) for block in network.down[level] + network.up[level]} for level in range(3)]
    assert attending == [{AttendingBlock}, {SkipBlock}, {SkipBlock}]


def test_attention_in_place_of_convolutions():
    """Of a level of the U-ViT: transformer blocks, and no skips."""
    network, given = uvit(multipliers=(1, 1, 2), blocks=(1, 2), attention_resolutions=(4,)), inputs()
    network(given)
    kinds = [{type(block) for block in network.down[level] + network.up[level]} for level in range(2)]
    assert kinds == [{SkipBlock}, {TransformerBlock}]
    perturb(network)
    assert differ(network(given | {"text": 2 - given["text"]}), network(given))
    assert not any("text_attention" in variable.path for block in network.down[1] for variable in block.variables)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"attention_resolutions \[7\] are at no level: feature maps have \[8\]"):
        uvit(attention_resolutions=(7,))(inputs())
    with pytest.raises(ValueError, match="width of the text embeddings must be 3, as TextInput says, got 6"):
        uvit(text=TextInput(3))(inputs())
    with pytest.raises(ValueError, match="divisible by 4, got 18 x 16"):
        uvit()(inputs(height=18))
    with pytest.raises(ValueError, match="multipliers one more"):
        uvit(blocks=(1, 1))
    with pytest.raises(ValueError, match="one number a level, got 3 and 2"):
        unet(blocks=(1, 1, 1))
    with pytest.raises(ValueError, match="blocks must be positive, got 0"):
        Transformer(0, HeadCount(4))
    with pytest.raises(ValueError, match="image_d must be a size in pixels"):
        ShiftedLogSNREmbedding(image_d=0, noise_d=64)


# ------------------------------------------------------------------ counts


def traced(network: SimpleDiffusionNetwork, size: int) -> symbolic.Traced:
    """As `describe` traces it."""

    def spec(batch: int) -> dict[str, Any]:
        return {
            "image": ((batch, size, size, 3), "float32"),
            "logsnr": ((batch,), "float32"),
            "label": ((batch,), "int32"),
        }

    stage: Any = SimpleNamespace(network=network, input_spec=spec, output_shape=lambda batch: (batch, size, size, 3))
    return symbolic.build(stage)


def full_uvit(blocks: int) -> UViT:
    """U-ViT 256 with another number of transformer blocks; the paper's has 36."""
    return UViT(
        channels=128,
        multipliers=(1, 2, 4, 16),
        blocks=(2, 2, 2),
        transformer=Transformer(blocks, HeadCount(4), dropout=0.2),
        out_channels=3,
        embedding_channels=1024,
        time=ShiftedLogSNREmbedding(image_d=256, noise_d=64),
        normalisation=GroupNormalisation(epsilon=1e-6),
        patching=WaveletPatching(),
        classes=1000,
    )


def test_count_and_operations_of_the_full_size():
    """A block of the pseudo-code: C = 2048, hidden 4C, embedding 1024, heads of 512; 256 tokens."""
    one, two = (traced(full_uvit(blocks), 256) for blocks in (1, 2))
    c, e, d, tokens = 2048, 1024, 512, 256
    mlp = c + (c * 4 * c + 4 * c) + 2 * (e * 4 * c + 4 * c) + (4 * c * c + c)
    attention = c + 4 * (c * c + c) + 2 * 2 * d
    block = two.parameters - one.parameters
    assert block == mlp + attention
    assert 36 * block == pytest.approx(2.42e9, rel=2e-3)
    assert one.parameters + 35 * block == 2_474_124_812
    products = tokens * (8 * c * c + 4 * c * c) + 2 * 4 * c * e + 2 * tokens * tokens * c
    assert cost.measure(two).flops - cost.measure(one).flops == 2 * products
