"""python -m experiments.train --workdir DIR [--config cars] [--train.steps N] ...

Trains a network and writes into DIR: config.json, metrics.jsonl and TensorBoard
events, samples/ (a grid, and the way of one image from noise), checkpoints/ (the
latest and the best). The same command again resumes. Ctrl-C saves first.
"""

import dataclasses
import functools
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from rich.console import Console

import jaxddim
from experiments import checkpoints, cli, compile_cache, data, monitor, previews, runs, writer
from experiments.cli import UserError
from experiments.configs import PRESETS, Config


def train(config: Config) -> int:
    """Trains a run, or resumes it. Returns the exit code: 0, or 128 + n after signal n."""
    console = Console(highlight=False, soft_wrap=True)
    check(config)
    compile_cache.switch_on()
    jaxddim.keep_memory()
    schedule = runs.build_schedule(config.diffusion)
    abstract = runs.abstract_state(config)
    record = runs.read(config.workdir)

    # images
    if record and config.data.source == "auto":
        config = with_source(config, record["config"]["data.source"])
    dataset = data.load(config.data)
    config = with_source(config, dataset.source)
    for note in dataset.notes:
        console.print(note, style="yellow")
    train_set, held_out = data.split(dataset, config.data.holdout)
    batch_size, num_images = config.train.batch_size, len(train_set.images)
    total = config.train.steps or math.ceil((config.train.epochs or 1) * num_images / batch_size)
    if record:
        runs.check_same(config, dataset, record)
    else:
        runs.write(config, dataset)

    # state
    devices = jax.local_device_count()
    model = runs.build_model(config.model, jaxddim.training.AXIS if devices > 1 else None)
    tx = runs.build_optimizer(config.optim)
    store = checkpoints.manager(config.workdir, config.train.keep)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(abstract.params))
    console.print(
        f"{config.config}: {config.model.name} with {parameters:,} parameters; {num_images:,} "
        f"images of {dataset.source} at {config.data.image_size}x{config.data.image_size}; "
        f"{total:,} steps of {batch_size} images ({total * batch_size / num_images:.1f} epochs) "
        f"on {devices} {jax.default_backend()} device(s)"
    )
    if store.all_steps():
        state = checkpoints.restore(store, abstract)
        console.print(f"resumed at step {int(state.step)}")
    else:
        with console.status("drawing the initial weights"):
            # placed as restored ones are, so that both go through the same compiled step
            state = jax.device_put(runs.new_state(config), jax.local_devices()[0])
    step = int(state.step)
    if step >= total:
        console.print(f"nothing to do: {step} of {total} steps are done; raise --train.steps")
        return 0

    # functions
    step_fn = functools.partial(
        jaxddim.train_step,
        apply_fn=model.apply,
        tx=tx,
        schedule=schedule,
        seed=config.seed,
        ema=config.optim.ema,
        kind=config.diffusion.kind,
        norm=config.diffusion.norm,
        weighting=runs.build_weighting(config.diffusion),
        accumulate=config.train.accumulate,
    )
    batches = data.batches(
        train_set.images,
        batch_size=batch_size,
        seed=config.seed,
        first_step=step,
        flip=config.data.flip,
    )
    if devices > 1:
        train_step, state = jaxddim.pmap_step(step_fn), jaxddim.replicate(state)
        place, single = lambda x: x.reshape(devices, -1, *x.shape[1:]), jaxddim.unreplicate
    else:
        train_step, place, single = jaxddim.jit_step(step_fn), jnp.asarray, lambda state: state
    validate = previews.make_validation(config, model, schedule, held_out.images)
    draw = previews.make_sampler(config, model, schedule)

    # training
    with monitor.stop_signals() as stopped:
        with console.status("compiling the training step"):
            started = time.perf_counter()
            state, metrics = train_step(state, place(next(batches)))
            jax.block_until_ready(metrics)
        console.print(f"compiled; first step after {time.perf_counter() - started:.1f} s")
        # not before: TensorBoard's writer imports PyTorch, where there is one, for two seconds
        log = writer.Writer(config.workdir, step)
        with monitor.progress(console, step, total) as show:
            window = monitor.Window(batch_size)
            try:
                while True:
                    step += 1
                    window.add(step, metrics)
                    show(step, window.loss, window.rate)
                    epoch, last_epoch = (k * batch_size // num_images for k in (step, step - 1))
                    due = functools.partial(is_due, step, total, epoch > last_epoch)
                    if due(config.train.log_every) or epoch > last_epoch:
                        values = window.flush()
                        log.write(step, epoch=step * batch_size / num_images, **values)
                        console.print(
                            f"epoch {epoch} | step {step} | loss {values['loss']:.5f} | "
                            f"{values['images_per_second']:.1f} images/s"
                        )
                    if due(config.train.checkpoint_every) or stopped:
                        with window.paused():
                            raw = single(state)
                            loss = None if stopped else validate(jaxddim.variables(raw))
                            if loss is not None and not math.isfinite(loss):
                                raise monitor.Diverged(step, loss)
                            checkpoints.save(store, raw, loss)
                            if loss is not None:
                                log.write(step, validation_loss=loss)
                                console.print(f"step {step} saved | validation loss {loss:.5f}")
                    if stopped:
                        break
                    if due(config.train.sample_every):
                        with window.paused(), console.status("sampling"):
                            pictures = draw(jaxddim.variables(single(state)))
                            previews.write_samples(config.workdir, log, step, *pictures)
                    if step == total:
                        break
                    state, metrics = train_step(state, place(next(batches)))
            except monitor.Diverged as error:
                last = store.latest_step()
                where = "none was saved" if last is None else store.directory / str(last)
                raise UserError(
                    f"{error}; the last good checkpoint: {where}. Try a lower "
                    "--optim.learning-rate, --optim.clip 1 or a longer --optim.warmup-steps, "
                    "in a new --workdir"
                ) from None
            finally:
                log.close()
    if stopped:
        console.print(f"stopped by a signal: step {step} is saved; the same command goes on")
        return 128 + stopped[0]
    console.print(f"done: {total} steps; pictures are in {Path(config.workdir) / 'samples'}")
    return 0


def is_due(step: int, total: int, epoch_done: bool, every: int | None) -> bool:
    """Whether something that is done every so many steps (None: each epoch) is done now."""
    return step == total or (epoch_done if every is None else step % every == 0)


def with_source(config: Config, source: str) -> Config:
    """The configuration with the source that "auto" stands for."""
    images = dataclasses.replace(config.data, source=source)  # pyrefly: ignore[bad-argument-type]
    return dataclasses.replace(config, data=images)


def check(config: Config) -> None:
    """Raises a UserError for settings that cannot work, before anything is done."""
    if not config.workdir:
        raise UserError("--workdir is missing: name the folder of the run, e.g. runs/cars")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"--seed must lie in [0, 2^32), got {config.seed}")
    if config.data.image_size < 1:
        raise UserError(f"--data.image-size must be at least 1, got {config.data.image_size}")
    loop, optim = config.train, config.optim
    for name, value in dataclasses.asdict(loop).items():
        if value is not None and value < 1:
            raise UserError(f"--train.{name.replace('_', '-')} must be at least 1, got {value}")
    if loop.steps is None and loop.epochs is None:
        raise UserError("how long to train? give --train.steps or --train.epochs")
    devices = jax.local_device_count()
    if loop.batch_size % (devices * loop.accumulate):
        raise UserError(
            f"--train.batch-size {loop.batch_size} must be divisible by {devices} device(s) x "
            f"--train.accumulate {loop.accumulate}"
        )
    if not 0 < optim.learning_rate < math.inf:
        raise UserError(f"--optim.learning-rate must be positive, got {optim.learning_rate}")
    if not 0 <= optim.ema < 1:
        raise UserError(f"--optim.ema must lie in [0, 1), got {optim.ema}")
    if not optim.clip >= 0 or optim.warmup_steps < 0:
        raise UserError("--optim.clip and --optim.warmup-steps must not be negative")
    if optim.decay_steps and optim.decay_steps <= optim.warmup_steps:
        raise UserError(
            f"--optim.decay-steps {optim.decay_steps} must be 0 or above --optim.warmup-steps "
            f"{optim.warmup_steps}"
        )
    with cli.user_mistakes():
        jaxddim.timesteps(config.diffusion.num_steps, loop.sample_steps)


if __name__ == "__main__":
    cli.run(train, Config, presets=PRESETS, exclusive=[("--train.steps", "--train.epochs")])
