"""The command line: flags in any form and order, and one line for each user error."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import pytest

from experiments.terminal import cli, progress
from jaxddim.runs.config import Config
from jaxddim.runs.flat import flatten
from jaxddim.runs.presets import PRESETS
from tests import tiny

root = tiny.root
EXCLUSIVE = [("--train.steps", "--train.epochs")]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "PATIENCE", 600)  # for a machine that is busy


def parse(*words):
    return cli.parse(Config, words, presets=PRESETS, exclusive=EXCLUSIVE)


def assert_mistake(finished, *parts):
    assert finished.code == 2
    (line,) = tiny.complaints(finished.err)
    assert line.startswith("error: ")
    assert finished.err.endswith(f"{line}\n")
    for part in parts:
        assert part in line


def assert_only_mistake(finished, *parts):
    assert_mistake(finished, *parts)
    assert finished.err.count("\n") == 1


# -- flags -------------------------------------------------------------------------


def test_flags_mean_the_same_in_any_order_with_blanks_equals_signs_and_underscores():
    expected = parse("--config", "tiny", "--train.batch-size", "4", "--seed", "7")
    assert (expected.train.batch_size, expected.seed, expected.config) == (4, 7, "tiny")
    assert expected.data.source == "rendered"  # from the named configuration
    assert parse("--seed", "7", "--train.batch-size", "4", "--config", "tiny") == expected
    assert parse("--config=tiny", "--train.batch-size=4", "--seed=7") == expected
    assert parse("--train.batch_size=4", "--seed=7", "--config", "tiny") == expected


def test_the_first_named_configuration_is_the_default():
    assert parse() == PRESETS["cars"]()


def test_a_flag_changes_its_field_and_no_other():
    changed = parse(
        "--config", "demo", "--optim.learning-rate", "0.5", "--model.multipliers", "1", "3"
    )
    assert changed.optim.learning_rate == 0.5
    assert changed.model.multipliers == (1, 3)
    assert changed.train == PRESETS["demo"]().train


def test_epochs_go_before_the_steps_of_the_named_configuration_and_steps_before_its_epochs():
    assert PRESETS["tiny"]().train.steps
    loop = parse("--config", "tiny", "--train.epochs", "2").train
    assert (loop.steps, loop.epochs) == (None, 2)
    loop = parse("--config", "cars", "--train.steps=3").train
    assert (loop.steps, loop.epochs) == (3, None)


@pytest.mark.parametrize("name", ["train", "sample", "prepare", "swiss_roll"])
def test_help_lists_the_flags_and_ends_with_0(name):
    finished = tiny.command(name, "--help")
    assert (finished.code, finished.err) == (0, "")
    expected = {"train": "--train.steps", "sample": "--spacing", "prepare": "--data-dir"}
    assert expected.get(name, "--evaluations") in finished.out


# -- user errors -------------------------------------------------------------------

TRAIN = {
    "--confg tiny": ("unknown flag --confg", "did you mean --config?"),
    "--train.step 5": ("unknown flag --train.step;", "did you mean --train.steps?"),
    "--train.batch-sise=5": ("unknown flag --train.batch-sise;", "--train.batch-size?"),
    "--optim.learning_rat 1": ("did you mean --optim.learning-rate?",),
    "--qqq 1": ("unknown flag --qqq (--help",),
    "extra": ("unexpected argument 'extra'",),
    "--config tinny": ("unknown configuration 'tinny'", "did you mean tiny?"),
    "--config=zzz": (
        "unknown configuration 'zzz'",
        "cars, cars_unet, cifar10, cars64, cars_gpu, demo, tiny",
    ),
    "--config": ("--config",),
    "--seed one": ("--seed", "'one'"),
    "--seed": ("Missing value for argument '--seed'",),
    "--data.source cars": ("'cars'", "--data.source", "'cars196'"),
    "--model.multipliers 1 x": ("--model.multipliers", "'x'"),
    "--train.steps 5 --train.epochs 5": ("--train.steps and --train.epochs exclude",),
    "--train.epochs=5 --train.steps=5": ("--train.steps and --train.epochs exclude",),
    "--seed -1": ("--seed", "-1"),
    "--seed 99999999999999999999": ("--seed",),
    "--train.steps 0": ("--train.steps must be at least 1, got 0",),
    "--train.keep 0": ("--train.keep must be at least 1",),
    "--train.log-every=0": ("--train.log-every must be at least 1",),
    "--train.batch-size 0": ("--train.batch-size must be at least 1",),
    "--train.accumulate 3": ("--train.batch-size 8 must be divisible", "--train.accumulate 3"),
    "--optim.learning-rate 0": ("--optim.learning-rate must be positive",),
    "--model.num-classes 5": ("--model.num-classes", "experiments.convert"),
    "--diffusion.schedule cosine --diffusion.beta-end 0.1": ("--diffusion.beta-end", "cosine"),
    "--diffusion.schedule linear --diffusion.beta-end 2": ("--diffusion.schedule linear", "beta"),
    "--optim.learning-rate nan": ("--optim.learning-rate must be positive",),
    "--optim.ema 1": ("--optim.ema must lie in [0, 1)",),
    "--optim.clip=-1": ("--optim.clip",),
    "--optim.clip=nan": ("--optim.clip",),
    "--optim.warmup-steps -1": ("--optim.warmup-steps",),
    "--optim.decay-steps 5 --optim.warmup-steps 5": ("--optim.decay-steps 5 must be",),
    "--train.sample-steps 2000": ("2000", "1000 training steps"),
    "--diffusion.num-steps 0": ("at least 1",),
    "--diffusion.zero-terminal-snr --diffusion.kind eps": (
        "zero terminal SNR",
        "--diffusion.kind v",
    ),
    "--diffusion.schedule jsd --diffusion.kind eps": ("zero terminal SNR", "--diffusion.kind x0"),
    "--diffusion.zero-terminal-snr --diffusion.kind score": ("--diffusion.kind score does not go",),
    "--diffusion.zero-terminal-snr --diffusion.num-steps 1 --train.sample-steps 1": (
        "--diffusion.zero-terminal-snr needs --diffusion.num-steps 2",
    ),
    "--diffusion.num-steps 1": ("--train.sample-steps 5", "into 1 training step"),
    "--model.channels 0": ("--model.channels 0: expected",),
    "--model.groups 3": ("--model.groups=3",),
    "--model.multipliers": ("--model.multipliers=()",),
    "--model.dropout 2": ("--model.dropout 2.0: expected",),
    "--model.num-blocks 0": ("--model.num-blocks 0: expected",),
    "--model.patch 3": ("16x16", "--model.patch=3"),
    "--data.image-size 7": ("7x7 images (--data.image-size)", "multiples of 2"),
    "--data.image-size 0": ("--data.image-size", "got 0"),
    "--data.image-size -1": ("--data.image-size", "got -1"),
    "--model.name simple_unet --data.image-size 9": ("9x9",),
    "--model.name simple_unet --model.multipliers 1": (
        "SimpleUNet",
        "--model.channels x --model.multipliers=(8,)",
    ),
    "--lr 1": ("unknown flag --lr", "did you mean --optim.learning-rate?"),
    "--bs 1": ("did you mean --diffusion.beta-start or --train.batch-size?",),
    "--learning_rate 1": ("unknown flag --learning_rate; did you mean --optim.learning-rate?",),
    "--steps 3": ("unknown flag --steps; did you mean --train.steps?",),
    "--path x": ("unknown flag --path; did you mean --data.path?",),
    "--flip": ("did you mean --data.flip?",),
    "--no-flip": ("did you mean --data.no-flip?",),
    "--no-data.flip": ("did you mean --data.no-flip?",),
    "--data.flip false": ("--data.flip takes no value, got 'false'", "--data.no-flip for off"),
    "--data.flip=false": ("--data.flip takes no value, got 'false'", "--data.no-flip for off"),
    "--data.no-flip 1": ("--data.flip takes no value, got '1'",),
    "--model.remat True": ("--model.remat takes no value, got 'True'", "--model.no-remat"),
    "--diffusion.zero_terminal_snr no": ("--diffusion.no-zero-terminal-snr for off",),
    "--optim.clip x": ("--optim.clip", "expected a number, got 'x'"),
    "--train.init-from none": ("--train.init-from: ", "none holds no run"),
    "--train.init-from empty": ("--train.init-from: ", "empty holds no run"),
    "--train.init-from torn": ("--train.init-from: ", "torn/config.json is not the record of"),
    "--train.init-from larger": (
        "--train.init-from ",
        "another network (model.channels was 16, is 8, model.patch was 2, is 1)",
    ),
    "--data.holdout 0": ("--data.holdout 0",),
    "--data.num-images 0": ("--data.num-images 0",),
    "--data.num-images 1": ("1 usable image:",),
    "--data.classes blimp": ("unknown class 'blimp'",),
    "--data.source folder": ("needs --data.path",),
    "--data.source folder --data.path none": ("none: no such folder", "--data.path"),
    "--data.source folder --data.path file": ("file is a file",),
    "--data.source folder --data.path empty": ("empty: no files in it", "--data.path"),
    "--data.source folder --data.path text": ("no usable image", "a.jpg (not an image)"),
    "--data.source auto --data.path empty": ("empty", "--data.source folder"),
    "--data.source cifar10": ("CIFAR-10 is not on this machine", "experiments.prepare"),
    "--workdir file": ("--workdir file cannot be written to",),
    "--workdir /proc/none": ("--workdir /proc/none cannot be written to",),
    "--workdir torn": ("torn/config.json is not the record of a run",),
    "--workdir number": ("number/config.json is not the record of a run",),
    "--workdir hollow": ("hollow/config.json is not the record of a run",),
    "--workdir other": ("other is a run of another configuration", "seed was 1, is 0"),
    "--workdir=": ("--workdir is missing",),
}
SAMPLE = {
    "--methd ddpm": ("unknown flag --methd", "did you mean --method?"),
    "--method ddqm": ("'ddqm'", "--method", "'ddpm'"),
    "--spacing cubic": ("'cubic'", "'quadratic'"),
    "--eta 1.0004": ("--eta must lie in [0, 1], got 1.0004",),
    "--eta -0.1": ("--eta must lie in [0, 1]",),
    "--eta nan": ("--eta must lie in [0, 1]",),
    "--eta 0.5 --method ddpm": ("--eta belongs to --method ddim",),
    "--variance large": ("--variance large belongs to --method ddpm",),
    "--method dpm++": ("'dpm++'", "'dpm++2m'"),
    "--method hein": ("'hein'", "'heun'"),
    "--spacing logsnr": ("'logsnr'", "'log_snr'"),
    "--method heun --eta 0.5": ("--eta belongs to --method ddim", "heun draws no noise"),
    "--method plms --eta 0.5": ("--eta belongs to --method ddim", "plms draws no noise"),
    "--method dpm++2m --eta 1": ("--eta belongs to --method ddim", "--method dpm++2m-sde"),
    "--method dpm++2m-sde --eta 1": ("--eta belongs to --method ddim", "noise of eta = 1"),
    "--method heun --variance large": ("--variance large belongs to --method ddpm, not to heun",),
    "--num 0": ("--num must be at least 1",),
    "--steps 0": ("--steps must be at least 1",),
    "--batch-size 0": ("--batch-size must be at least 1",),
    "--seed -1": ("--seed", "-1"),
    "--num x": ("--num", "expected a whole number, got 'x'"),
    "--out=": ("--out is missing",),
    "--out a.jpg": ("--out a.jpg: expected a FILE.png",),
    "--out file": ("--out: file cannot be made",),
    "--out file/a.png": ("--out: file cannot be made",),
    "--out /proc/none/a.png": ("--out: /proc/none cannot be made",),
    "--workdir=": ("--workdir is missing",),
    "--workdir none": ("none holds no run", "experiments.train --workdir none"),
    "--workdir empty": ("empty holds no run",),
    "--workdir torn": ("torn/config.json is not the record of a run",),
    "--workdir number": ("number/config.json is not the record of a run",),
    "--workdir hollow": ("hollow/config.json is not the record of a run",),
    "--workdir other": ("other/checkpoints holds no checkpoint: train the run first",),
}
PREPARE = {
    "--sorce cars196": ("unknown flag --sorce", "did you mean --source?"),
    "--source cars": ("'cars'", "'cars196'"),
    "--path none": ("none: no such folder",),
    "--path file": ("file is a file",),
    "--path empty": ("Stanford Cars are not on this machine", "cars_train.tgz"),
    "": ("Stanford Cars are not on this machine", "--path DIR"),
}


@pytest.fixture
def _traps(tmp_path):
    """Files and folders that the invalid calls refer to."""
    for name in ("empty", "text", "torn", "number", "hollow", "other", "larger"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "text" / "a.jpg").write_text("no image")
    (tmp_path / "torn" / "config.json").write_text('{"config": {"seed"')
    (tmp_path / "number" / "config.json").write_text('{"config": 5}')
    (tmp_path / "hollow" / "config.json").write_text('{"config": {}}')
    record = {"config": flatten(PRESETS["tiny"]()) | {"seed": 1}}
    (tmp_path / "other" / "config.json").write_text(json.dumps(record))
    record["config"] |= {"model.channels": 16, "model.patch": 2}
    (tmp_path / "larger" / "config.json").write_text(json.dumps(record))


@pytest.mark.usefixtures("_traps")
@pytest.mark.parametrize("words", TRAIN)
def test_a_mistake_in_training_is_one_line_and_2_and_starts_no_run(words, tmp_path):
    named = [] if "--conf" in words else ["--config", "tiny"]
    before = sorted(tmp_path.iterdir())
    finished = tiny.command("train", "--workdir", "new", *named, *words.split())
    assert_only_mistake(finished, *TRAIN[words])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.usefixtures("_traps")
@pytest.mark.parametrize("words", SAMPLE)
def test_a_mistake_in_sampling_is_one_line_and_2(words, tmp_path):
    flags = ["--workdir", "none", "--out", "a.png", *words.split()]
    assert_only_mistake(tiny.command("sample", *flags), *SAMPLE[words])
    assert not (tmp_path / "a.png").exists()


@pytest.mark.usefixtures("_traps")
@pytest.mark.parametrize("words", PREPARE)
def test_a_mistake_in_preparing_is_one_line_and_2(words):
    assert_only_mistake(tiny.command("prepare", *words.split()), *PREPARE[words])


def test_a_batch_must_divide_over_the_devices(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    finished = tiny.command("train", "--workdir", "new", "--config", "tiny")
    assert_mistake(finished, "--train.batch-size 8 must be divisible by 3 device(s)")


def test_insisting_on_stanford_cars_that_are_not_there_fails_at_once_and_says_what_to_do(tmp_path):
    began = time.perf_counter()
    finished = tiny.command("train", "--workdir", "new", "--data.source", "cars196")
    assert_mistake(finished, "cars_train.tgz", "python -m experiments.prepare --source cars196")
    assert time.perf_counter() - began < 60  # TFDS retries for 205 s
    assert not (tmp_path / "new").exists()


def test_in_a_process_of_its_own_a_mistake_ends_with_2_and_one_line(root):
    process = tiny.start(root, "train", "--workdir", "runs/new", "--train.stps", "3")
    out, err = process.communicate()
    assert process.returncode == 2
    assert out == ""
    expected = "error: unknown flag --train.stps; did you mean --train.steps?"
    assert err == f"{expected} (--help lists all flags)\n"


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train"])

    def broken(config):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(broken, Config, presets=PRESETS)


@pytest.mark.parametrize("name", ["train", "sample", "evaluate", "paper", "swiss_roll"])
def test_help_shows_what_is_required(name):
    out = tiny.command(name, "--help").out
    assert "Folder of the run. (required)" in out
    assert "(default: '')" not in out


# -- Ctrl-C --------------------------------------------------------------------------


def stopped(*arguments, **options):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "where", "flags"),
    [
        ("sample", "jaxddim.runs.opened.load_run", ["--out", "new.png"]),
        ("evaluate", "jaxddim.runs.opened.load_run", []),
        ("paper", "jaxddim.runs.opened.load_run", []),
        ("train", "experiments.data.load", ["--config", "tiny"]),
        ("swiss_roll", "experiments.points.roll.optimizer", []),
        ("prepare", "experiments.data.sources.stanford_cars.ensure", []),
    ],
)
def test_ctrl_c_is_one_line_and_130(monkeypatch, tmp_path, name, where, flags):
    monkeypatch.setattr(where, stopped)
    workdir = [] if name == "prepare" else ["--workdir", "run"]
    finished = tiny.command(name, *workdir, *flags)
    assert (finished.code, tiny.complaints(finished.err)) == (130, ["stopped by Ctrl-C"])
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".part", ".png")]


def in_a_process(*lines):
    """Runs Python lines in a process that takes itself for a command."""
    first = (
        "import sys; sys.argv = ['-m']; import signal, threading, time, gc",
        "signal.signal(signal.SIGINT, signal.default_int_handler)",  # a job behind "&" ignores it
        "import experiments",
        "from importlib.machinery import ModuleSpec",
        "sys.modules['__main__'].__spec__ = ModuleSpec('experiments.sample', None)",
        "ctrl_c = lambda *_: signal.raise_signal(signal.SIGINT)",
    )
    return subprocess.run(
        [sys.executable, "-c", "\n".join([*first, *lines])],
        cwd=tiny.REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )


MAIN = "from experiments.terminal import cli, interrupts\nfrom jaxddim.runs.config import Config"
RUN = "sys.argv = ['x']; cli.run(main, Config, computes=False)"
MOMENTS = {
    "while it is imported": ("ctrl_c()",),
    "in what it does": (MAIN, "def main(_): ctrl_c()", RUN),
    "in a callback that swallows it": (
        MAIN,
        "def main(_):",
        "  gc.callbacks.append(lambda *_: ctrl_c() if not seen else None); gc.collect()",
        "  gc.callbacks.clear(); time.sleep(5)",
        "seen = []",
        RUN,
    ),
    "in a destructor that swallows it": (
        MAIN,
        "class A:",
        "  def __del__(self): ctrl_c()",
        "def main(_):",
        "  A(); time.sleep(5)",
        RUN,
    ),
    "while the one before is noted as swallowed": (
        MAIN,
        "class A:",
        "  def __del__(self): ctrl_c()",
        "def start(timer, real=threading.Timer.start):",
        "  if threading.current_thread() is threading.main_thread() and not seen:",
        "    seen.append(1); signal.getsignal(signal.SIGINT)(signal.SIGINT, None)",
        "  real(timer)",
        "seen = []",
        "def main(_):",
        "  threading.Timer.start = start; A(); time.sleep(5)",
        RUN,
    ),
    "in a library that raises something else": (
        MAIN,
        "def main(_):",
        "  try: ctrl_c()",
        "  except KeyboardInterrupt: raise RuntimeError('Event loop is closed')",
        RUN,
    ),
    "in a library that makes it the user's mistake": (
        MAIN,
        "from experiments.terminal.errors import UserError",
        "def main(_):",
        "  try: ctrl_c()",
        "  except BaseException: raise UserError('no such file') from None",
        RUN,
    ),
    "where a thread fails of it": (
        MAIN,
        "def fail(): time.sleep(0.2); raise RuntimeError('closed')",
        "def main(_):",
        "  thread = threading.Thread(target=fail); thread.start()",
        "  try: ctrl_c()",
        "  finally: thread.join()",
        RUN,
    ),
}


COMPILED = (  # as XLA's compiler: no bytecode runs, and no signal is handled, for a minute
    MAIN,
    "import hashlib, os",
    "def later():",
    "  time.sleep(0.3)",
    "  for number in numbers: os.kill(os.getpid(), number); time.sleep(0.1)",
    "def main(_):",
    "  threading.Thread(target=later).start()",
    "  hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
)


@pytest.mark.parametrize("names", [("SIGINT",), ("SIGTERM",), ("SIGINT", "SIGINT")])
def test_a_signal_while_no_bytecode_runs_is_one_line_soon(names):
    numbers = [signal.Signals[name] for name in names]
    began = time.monotonic()
    process = in_a_process(*COMPILED, f"numbers = {[int(n) for n in numbers]}", RUN)
    said = "stopped by " + ("Ctrl-C" if names[0] == "SIGINT" else "SIGTERM")
    assert (process.returncode, process.stderr) == (128 + numbers[0], said + "\n")
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("moment", MOMENTS)
def test_sigterm_is_one_line_and_143_whenever_it_comes(moment):
    lines = [line.replace("ctrl_c()", "sigterm()") for line in MOMENTS[moment]]
    process = in_a_process("sigterm = lambda *_: signal.raise_signal(signal.SIGTERM)", *lines)
    assert (process.returncode, process.stderr) == (143, "stopped by SIGTERM\n")


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_is_one_line_and_130_whenever_it_comes(moment):
    process = in_a_process(*MOMENTS[moment])
    assert (process.returncode, process.stderr) == (130, "stopped by Ctrl-C\n")


def test_ctrl_c_after_the_work_is_done_changes_nothing():
    late = "import atexit; atexit.register(ctrl_c)"
    process = in_a_process(MAIN, late, "def main(_): print('done')", RUN)
    assert (process.returncode, process.stdout, process.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("number", sorted(cli.NO_ROOM))
def test_a_full_disk_is_one_line_in_every_command(number):
    lines = f"def main(_): raise OSError({number}, os.strerror({number}), '/data/a.png')"
    process = in_a_process(MAIN, "import os", lines, RUN)
    said = f"error: /data/a.png cannot be written ({os.strerror(number)}): free some space there"
    assert (process.returncode, process.stderr) == (2, said + "\n")


def test_other_errors_keep_their_traceback():
    for lines in (("raise ValueError",), (MAIN, "def main(_): raise ValueError", RUN)):
        process = in_a_process(*lines)
        assert process.returncode == 1
        assert "Traceback" in process.stderr


@pytest.mark.parametrize(("answer", "code"), [(None, 0), (0, 0), (143, 143)])
def test_what_a_command_returns_is_its_exit_code(monkeypatch, answer, code):
    monkeypatch.setattr("sys.argv", ["train"])
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda config: answer, Config, presets=PRESETS)
    assert stop.value.code == code


def test_colours_of_a_terminal_stay_out_of_the_message():
    red, end = "\x1b[31m", "\x1b[0m"
    framed = f"{red}╭─{end} Value error {red}──╮{end}\n{red}│{end} bad --x: -1 {red}│{end}\n"
    framed += f"│ ─────── │\n│ Argument helptext: │\n{red}╰──╯{end}\n"
    assert cli._one_line(framed) == "bad --x: -1 (--help lists all flags)"
