"""Foreign weights give here what they give there: against PyTorch and diffusers, random weights."""

import copy
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import jaxddim
from jaxddim.runs import build as builds
from jaxddim.runs.config import Config, DataConfig, DiffusionConfig, ModelConfig, OptimConfig
from jaxddim.weights import containers, diffusers, names, official, reader, schedulers, seed
from jaxddim.weights.imported import abstract

torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
from tests import tiny  # noqa: E402
from tests.weights import foreign  # noqa: E402

pytestmark = pytest.mark.slow  # networks are compiled here and run there


def largest(found, expected):
    """The largest difference over the largest absolute value."""
    found, expected = (np.asarray(a, np.float64) for a in (found, expected))
    return np.abs(found - expected).max() / np.abs(expected).max()


def nchw(x):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def nhwc(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def inputs(size=16, num=4):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num, size, size, 3)).astype(np.float32)
    return x, np.array([0, 3, 500, 999][:num], np.int32)


def ours(found, **options):
    """The network of an import, as a function of (x, index)."""
    model = builds.build_model(found.model)
    return jax.jit(functools.partial(model.apply, found.averaged, **options))


# -- the seed --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_seed(tmp_path_factory):
    """A network of the seed after three steps of its Adam, and the file that it saves."""
    network = foreign.scramble(foreign.Seed((16, 32, 64)))
    optimizer = torch.optim.Adam(network.seed_parameters(), lr=8e-5)
    for step in range(3):
        adam_step(network, optimizer, step)
    path = tmp_path_factory.mktemp("seed") / "3.pth"
    content = {"epoch": 3, "state_dict": network.seed_state(), "optimizer": optimizer.state_dict()}
    torch.save(content, path)
    return network, optimizer, path


def adam_step(network, optimizer, step):
    network.train()
    x, index = inputs()
    target = np.random.default_rng(10 + step).normal(size=x.shape).astype(np.float32)
    output = network(nchw(x), torch.from_numpy(index))
    optimizer.zero_grad()
    torch.nn.functional.l1_loss(output, nchw(target)).backward()
    optimizer.step()
    return x, index, target, output


def test_the_seeds_network_in_both_modes_and_its_statistics(trained_seed):
    network, _, path = trained_seed
    found = seed.read(reader.load(path), str(path))
    assert (found.step, found.learning_rate, found.image_size) == (3, 8e-5, 64)
    x, index = inputs()
    network.eval()
    theirs = nhwc(network(nchw(x), torch.from_numpy(index)))
    exact = nhwc(copy.deepcopy(network).double()(nchw(x).double(), torch.from_numpy(index)))
    rounding = largest(theirs, exact)  # 1.6e-6 on a Xeon with AVX-512
    assert largest(ours(found)(x, index), theirs) <= np.clip(rounding, 1e-6, 2e-6)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()
    expected = nhwc(network(nchw(x), torch.from_numpy(index)))
    output, updates = ours(found, train=True, mutable=["batch_stats"])(x, index)
    assert largest(output, expected) <= 1e-5
    state = names.given(names.SEED, {"batch_stats": updates["batch_stats"]})
    for name, tensor in network.seed_state().items():
        if "running" in name:
            assert largest(state[name], tensor) <= 1e-6
    network.load_state_dict(before)


def test_the_seeds_network_in_float64(trained_seed):
    network, _, path = trained_seed
    found = seed.read(reader.load(path), str(path))
    x, index = inputs()[0].astype(np.float64), np.zeros(4, np.int32)  # whose sines are exact
    theirs = copy.deepcopy(network).eval().double()(nchw(x), torch.from_numpy(index))
    with jax.enable_x64(True):
        model = builds.build_model(found.model).clone(dtype=np.float64)
        output = jax.jit(model.apply)(jax.tree.map(np.float64, found.averaged), x, index)
    assert largest(output, nhwc(theirs)) <= 1e-7  # the output is rounded to float32


def test_three_more_steps_of_adam_are_the_same(trained_seed):
    network, optimizer, path = trained_seed
    found = seed.read(reader.load(path), str(path))
    model = builds.build_model(found.model)
    tx = builds.build_optimizer(OptimConfig(learning_rate=found.learning_rate, clip=0.0))
    params, stats = found.variables["params"], found.variables["batch_stats"]
    state = optax.tree_utils.tree_set(tx.init(params), **found.adam._asdict())

    @jax.jit
    def step(params, stats, state, x, index, target):
        def loss(params):
            variables = {"params": params, "batch_stats": stats}
            output, updates = model.apply(variables, x, index, train=True, mutable=["batch_stats"])
            return jnp.mean(jnp.abs(output - target)), updates["batch_stats"]

        grads, stats_ = jax.grad(loss, has_aux=True)(params)
        updates, state_ = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), stats_, state_

    for number in range(3, 6):
        x, index, target, _ = adam_step(network, optimizer, number)
        params, stats, state = step(params, stats, state, x, index, target)
    after = names.given(names.SEED, {"params": params, "batch_stats": stats})
    for name, tensor in network.seed_state().items():
        if "num_batches" not in name:
            assert largest(after[name], tensor) <= 1e-5, name


def test_the_seeds_file_written_here_is_loaded_there(trained_seed, tmp_path):
    network, _, path = trained_seed
    found = seed.read(reader.load(path), str(path))
    content = seed.write(found.variables, found.adam, found.learning_rate, 3)
    with (tmp_path / "4.pth").open("wb") as file:
        containers.write(file, content)
    there = torch.load(tmp_path / "4.pth", weights_only=True)
    first = reader.load(path)
    assert list(there["state_dict"]) == foreign.seed_names(2) == list(first["state_dict"])
    for name, tensor in there["state_dict"].items():
        if "num_batches" not in name:
            np.testing.assert_array_equal(tensor.numpy(), first["state_dict"][name])
    optimizer = torch.optim.Adam(network.seed_parameters(), lr=1.0)
    optimizer.load_state_dict(there["optimizer"])
    for key, entry in first["optimizer"]["state"].items():
        for name in ("exp_avg", "exp_avg_sq"):
            np.testing.assert_array_equal(optimizer.state_dict()["state"][key][name], entry[name])
    assert optimizer.param_groups[0]["lr"] == 8e-5


# -- the official code -----------------------------------------------------------------

SHAPES = {
    "cifar10": (32, (1, 2, 2, 2), (16,), 328, 35_746_307),
    "celeba": (64, (1, 2, 2, 2, 4), (16,), 390, 78_700_803),
    "lsun": (256, (1, 1, 2, 2, 4, 4), (16,), 450, 113_673_219),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_published_shapes_are_a_bijection(kind):
    size, multipliers, attention, tensors, parameters = SHAPES[kind]
    with torch.device("meta"):
        network = foreign.Official(128, multipliers, 2, attention, size)
    theirs = {name: tuple(t.shape) for name, t in network.official_state().items()}
    model = builds.build_model(ModelConfig(multipliers=multipliers, attention=attention))
    found = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(abstract(model, size, 3)):
        path = tuple(key.key for key in keys)
        array = np.broadcast_to(np.float32(0), leaf.shape)
        pointwise = path[-2] in names.OFFICIAL.pointwise
        found[names.OFFICIAL.name(path)] = names._outward(path, array, pointwise).shape
    assert found == theirs
    assert len(found) == tensors and sum(map(np.prod, found.values())) == parameters
    assert sorted(found, key=official.order) == list(theirs)


SMALL = [((1, 2), (8,), 1), ((1, 2, 2), (16, 4), 2), ((2, 1), (), 1)]


@pytest.fixture(scope="module", params=SMALL)
def official_file(request, tmp_path_factory):
    multipliers, attention, blocks = request.param
    network = foreign.scramble(foreign.Official(32, multipliers, blocks, attention, 16))
    averaged = foreign.scramble(foreign.Official(32, multipliers, blocks, attention, 16), seed=1)
    state = {f"module.{name}": t for name, t in network.official_state().items()}
    whole = [state, {"state": {}, "param_groups": [usual_group(len(state))]}, 7, 900]
    whole.append(averaged.official_state())
    path = tmp_path_factory.mktemp("official") / "ckpt.pth"
    torch.save(whole, path)
    return network.eval(), averaged.eval(), path, whole


def usual_group(size):
    return {
        "lr": 2e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False,
        "params": list(range(size)),
    }  # fmt: skip


def test_the_official_network_and_its_average(official_file, tmp_path):
    network, averaged, path, whole = official_file
    x, index = inputs()
    found = official.read(reader.load(path), str(path), size=16)
    assert (found.step, found.learning_rate) == (900, 2e-4)
    theirs = nhwc(averaged(nchw(x), torch.from_numpy(index)))
    assert largest(ours(found)(x, index), theirs) <= 5e-6
    raw = found._replace(averaged=found.variables)
    theirs = nhwc(network(nchw(x), torch.from_numpy(index)))
    assert largest(ours(raw)(x, index), theirs) <= 5e-6
    for items in (whole[:4], whole[4]):  # without an average, and a converted DDPM model
        torch.save(items, tmp_path / "other.ckpt")
        found = official.read(reader.load(tmp_path / "other.ckpt"), "other.ckpt", size=16)
        jax.tree.map(np.testing.assert_array_equal, found.averaged, found.variables)


def test_the_official_list_written_here_is_loaded_there(official_file, tmp_path):
    _, _, path, whole = official_file
    found = official.read(reader.load(path), str(path), size=16)
    content = official.write(found.variables, found.averaged, found.step, None, 2e-4)
    with (tmp_path / "ckpt.pth").open("wb") as file:
        containers.write(file, content)
    there = torch.load(tmp_path / "ckpt.pth", weights_only=True)
    assert there[3] == 900 and list(there[0]) == list(whole[0]) and list(there[4]) == list(whole[4])
    for part in (0, 4):
        for name, tensor in there[part].items():
            assert torch.equal(tensor, whole[part][name].contiguous())


# -- diffusers -------------------------------------------------------------------------

BLOCKS = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "sample_size": 16,
}
DDPM = {
    "freq_shift": 1, "flip_sin_to_cos": False, "norm_eps": 1e-6, "downsample_padding": 0,
    "attention_head_dim": None,
}  # fmt: skip
KINDS = {
    "the example's": BLOCKS,
    "DDPM's": BLOCKS | DDPM,
    "DDPM's deeper": DDPM | {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (32, 64, 64), "layers_per_block": 2, "sample_size": 16,
    },
    "with classes": BLOCKS | {"num_class_embeds": 5},
    "wide images": BLOCKS | {"sample_size": (16, 24)},
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def pipeline(request, tmp_path_factory):
    library = pytest.importorskip("diffusers", reason="diffusers is not installed")
    network = foreign.scramble(library.UNet2DModel(**KINDS[request.param])).eval()
    folder = tmp_path_factory.mktemp("pipeline")
    library.DDPMPipeline(network, library.DDPMScheduler()).save_pretrained(folder)
    return network, folder


def labels_of(network, num):
    classes = network.config.num_class_embeds
    return None if classes is None else torch.full((num,), classes - 1)


def forward(network, x, index):
    x, index = nchw(x), torch.from_numpy(index)
    with torch.no_grad():
        return nhwc(network(x, index, class_labels=labels_of(network, len(x))).sample)


def images(found):
    size = found.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return np.random.default_rng(1).normal(size=(4, height, width, 3)).astype(np.float32)


def test_a_pipeline_of_diffusers(pipeline):
    network, folder = pipeline
    found = diffusers.read(folder)
    assert (found.diffusion.schedule, found.diffusion.kind) == ("linear", "eps")
    x, index = images(found), inputs()[1]
    assert largest(ours(found)(x, index), forward(network, x, index)) <= 5e-6


@pytest.mark.parametrize("clip", [False, True])
def test_twenty_steps_from_the_same_noise(pipeline, clip):
    import diffusers as library

    network, folder = pipeline
    found = diffusers.read(folder)
    x = images(found)[:2]
    schedule = builds.build_schedule(found.diffusion)
    denoise_fn = jaxddim.as_denoiser(schedule, ours(found), kind="eps", clip_x0=clip)
    grid = jaxddim.timesteps(1000, 20, spacing="leading")
    key = jax.random.key(0)
    drawn, _ = jaxddim.integrate(key, denoise_fn, schedule, grid, x, step=jaxddim.ddim_step)
    scheduler = library.DDIMScheduler(clip_sample=clip)
    scheduler.set_timesteps(20)
    there = nchw(x)
    for t in scheduler.timesteps:
        with torch.no_grad():
            eps = network(there, t, class_labels=labels_of(network, 2)).sample
        there = scheduler.step(eps, t, there, eta=0.0, use_clipped_model_output=clip).prev_sample
    assert largest(drawn, nhwc(there)) <= (1e-4 if clip else 1e-5)


def test_a_folder_written_here_is_loaded_there(pipeline, tmp_path):
    import diffusers as library
    from safetensors.numpy import save_file

    network, folder = pipeline
    found = diffusers.read(folder)
    data = DataConfig(image_size=found.image_size)
    config = Config(data=data, model=found.model, diffusion=found.diffusion)
    texts, tensors = diffusers.files(config, found.averaged)
    for name, content in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    save_file(tensors, tmp_path / "unet" / f"{diffusers.WEIGHTS}.safetensors", {"format": "pt"})
    there = library.DDIMPipeline.from_pretrained(tmp_path)
    x, index = images(found), inputs()[1]
    assert largest(forward(there.unet.eval(), x, index), forward(network, x, index)) <= 5e-6
    betas = there.scheduler.betas.numpy()
    np.testing.assert_allclose(betas, library.DDIMScheduler().betas, rtol=1e-6)
    again = diffusers.read(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.averaged, found.averaged)


@pytest.mark.filterwarnings("ignore:alpha_bar_T")  # diffusers' schedules end where they end
@pytest.mark.parametrize(
    ("name", "num_steps"),
    [("linear", 1000), ("scaled_linear", 1000), ("quadratic", 500), ("cosine", 1000),
     ("sigmoid", 1000), ("const", 1000), ("jsd", 1000)],
)  # fmt: skip
def test_every_schedule_is_told_to_diffusers(name, num_steps):
    library = pytest.importorskip("diffusers", reason="diffusers is not installed")
    config = DiffusionConfig(schedule=name, num_steps=num_steps, kind="v")
    told = {"num_train_timesteps": num_steps} | schedulers.betas(config)
    kind = library.DDPMScheduler if name == "sigmoid" else library.DDIMScheduler
    there = kind(**told).alphas_cumprod.numpy()
    here = jax.nn.sigmoid(builds.build_schedule(config).log_snr[1:])
    np.testing.assert_allclose(here, there, atol=1e-6)


def test_old_names_of_attention_shards_and_half_precision(pipeline, tmp_path):
    network, folder = pipeline
    new = ("to_q", "to_k", "to_v", "to_out.0")
    state = {}
    for name, tensor in network.state_dict().items():
        for there, before in zip(new, ("query", "key", "value", "proj_attn"), strict=True):
            name = name.replace(f".{there}.", f".{before}.")
        state[name] = tensor
    unet = tmp_path / "unet"
    unet.mkdir()
    (unet / "config.json").write_bytes((folder / "unet" / "config.json").read_bytes())
    half = len(state) // 2
    parts = {"a.bin": dict(list(state.items())[:half]), "b.bin": dict(list(state.items())[half:])}
    for name, part in parts.items():
        torch.save(part, unet / name)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (unet / f"{diffusers.WEIGHTS}.bin.index.json").write_text(json.dumps(index))
    given = DiffusionConfig()
    found = diffusers.read(tmp_path, diffusion=given)
    jax.tree.map(np.testing.assert_array_equal, found.averaged, diffusers.read(folder).averaged)
    assert found.diffusion == given
    with pytest.raises(ValueError, match=r"--diffusion\.schedule linear"):
        diffusers.read(tmp_path)


# -- the library's own training, and further training here ------------------------------


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """What diffusers' example of unconditional training saves after 4 steps on 64 pictures.

    Its loop: a DDPM scheduler, AdamW with warm-up and cosine decay, clipping, an average of the
    weights; then a pipeline with the averaged weights, and a checkpoint with both.
    """
    library = pytest.importorskip("diffusers", reason="diffusers is not installed")
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    folder = tmp_path_factory.mktemp("example")
    torch.manual_seed(0)
    network = library.UNet2DModel(**BLOCKS, act_fn="silu")
    average = EMAModel(
        network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75,
        model_cls=library.UNet2DModel, model_config=network.config,
    )  # fmt: skip
    noise = library.DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, (0.95, 0.999), 1e-8, 1e-6)
    rate = get_scheduler("cosine", optimizer, num_warmup_steps=2, num_training_steps=4)
    pictures = torch.rand(64, 3, 16, 16) * 2 - 1
    for batch in pictures.split(16):
        eps, t = torch.randn_like(batch), torch.randint(0, 1000, (16,)).long()
        output = network(noise.add_noise(batch, eps, t), t).sample
        torch.nn.functional.mse_loss(output.float(), eps).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        average.step(network.parameters())
    network.save_pretrained(folder / "checkpoint-4" / "unet")
    average.save_pretrained(folder / "checkpoint-4" / "unet_ema")
    averaged = library.UNet2DModel.from_config(network.config)
    average.copy_to(averaged.parameters())
    library.DDPMPipeline(averaged, noise).save_pretrained(folder)
    return network.eval(), averaged.eval(), folder


def test_what_the_example_saves(example):
    network, averaged, folder = example
    x, index = inputs()
    whole, checkpoint = diffusers.read(folder), diffusers.read(folder / "checkpoint-4")
    assert (
        whole.diffusion == checkpoint.diffusion
    )  # the checkpoint's stands in the folder around it
    for found in (whole, checkpoint):
        assert largest(ours(found)(x, index), forward(averaged, x, index)) <= 5e-6
    raw = checkpoint._replace(averaged=checkpoint.variables)
    assert largest(ours(raw)(x, index), forward(network, x, index)) <= 5e-6


def test_it_is_trained_further_here_and_loaded_there(example, tmp_path, monkeypatch):
    import diffusers as library

    *_, folder = example
    monkeypatch.setenv("HOME", str(tmp_path))
    convert = functools.partial(tiny.command, "convert")
    run, back = tmp_path / "run", tmp_path / "back"
    assert convert("--from", folder / "checkpoint-4", "--workdir", run).code == 0
    flags = ["--data.source", "rendered", "--data.num-images", "64"]
    flags += ["--data.cache-dir", tmp_path / "c", "--data.data-dir", tmp_path / "d"]
    flags += ["--train.steps", "7", "--train.batch-size", "16"]
    told = tiny.command("train", "--workdir", run, *flags, "--train.sample-steps", "2")
    assert told.code == 0, told
    flags = ["--to", "diffusers", "--workdir", run, "--out", back, "--weights", "raw"]
    assert convert(*flags).code == 0
    there = library.DDIMPipeline.from_pretrained(back).unet.eval()
    found = diffusers.read(back)
    x, index = inputs()
    assert largest(ours(found)(x, index), forward(there, x, index)) <= 5e-6
    before = ours(diffusers.read(folder / "checkpoint-4"))(x, index)
    assert 1e-4 < largest(forward(there, x, index), before) < 1
    drawn = library.DDIMPipeline.from_pretrained(back)(
        num_inference_steps=2, batch_size=1, output_type="np"
    )
    assert drawn.images.shape == (1, 16, 16, 3)


def test_the_command_compares_both(example, tmp_path):
    flags = ["--from", example[2], "--check", "--num", 2, "--out", tmp_path / "a.png"]
    told = tiny.command("convert", *flags)
    assert told.code == 0, told
    both = re.findall(r"([\d.e+-]+) of the largest value", told.out)
    assert len(both) == 2 and float(both[0]) <= 1e-5 and float(both[1]) <= 1e-4
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == ((16 + 2 + 16) * 6, (4 * 18 - 2) * 6)  # a row a set, enlarged
