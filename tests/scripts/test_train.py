"""The command line of scripts/train.py: what it prints, and one clear line for each mistake."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest

from scripts import train

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("--model", "mlp", "--epochs", "1", "--no-baseline")


def command(*argv) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / "train.py"), *map(str, argv)]


@pytest.fixture
def environment() -> dict[str, str]:
    """One CPU device per process, as a user would have."""
    return {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


def lines(folder: Path) -> list[str]:
    """Metrics that must not depend on the clock."""
    text = (folder / "metrics.jsonl").read_text().splitlines()
    return [line for line in text if json.loads(line)["kind"] in ("train", "eval")]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["wang2018fp9"], "unknown recipe 'wang2018fp9': did you mean wang2018fp8"),
        (["wang2018fp8", "--operand", "e5m2x"], "'e5m2x'.*did you mean.*e5m2"),
        (["wang2018fp8", "--last-layer", "fp9"], "'fp9'"),
        (["wang2018fp8", "--accumulate.chunk", "0"], "chunk must be at least 1"),
        (["wang2018fp8", "--accumulate.chunk", "1000000"], "chunk 1000000 is longer than every"),
        (["wang2018fp8", "--accumulate.fmt", "int8"], "cannot accumulate in int8"),
        (["wang2018fp8", "--loss-scale", "-1"], "loss_scale must be a positive number"),
        (["wang2018fp8", "--with", "wang2018fp8"], "both fill weight and activation"),
        (["wang2018fp8", "--model", "resnet19"], "unknown model 'resnet19': did you mean resnet"),
        (["wang2018fp8", "--data", "cifar100"], "cifar10"),
        (["wang2018fp8", "--data", "cifar10"], "--data-dir.*QTRAIN_DATA.*fetch_data"),
        (["wang2018fp8", "--mesh", "8"], "mesh '8' is not of the form data=8"),
        (["wang2018fp8", "--mesh", "data=3"], "batch size 128 cannot be split over data=3"),
        (["wang2018fp8", "--epochs", "0"], "epochs must be at least 1, not 0"),
        (["wang2018fp8", "--batch-size", "9000"], "batch size 9000 is more than the 8000"),
        (["wang2018fp8", "--optimizer.schedule", "linear"], "unknown schedule 'linear'"),
        (["wang2018fp8", "--resume"], "nothing to resume"),
        (
            ["wang2018fp8", "--resume", "--out", "typo"],
            "nothing to resume: there is no folder typo",
        ),
        (["wang2018fp8", "--with", "float32"], "--with float32 fills no place"),
        (["wang2018fp8", "--processes", "0"], "processes must be at least 1, not 0"),
        (["wang2018fp8", "--steps", "0"], "steps must be at least 1"),
        (["wang2018fp8", "--checkpoint-every", "-2"], "checkpoint_every must be at least 1"),
        (["wang2018fp8", "--seed", "99999999999999999999"], "seed must be at least 0 and below"),
        (["wang2018fp8", "--optimizer.lr", "nan"], "lr must be at least 0 and below inf, not nan"),
        (
            ["wang2018fp8", "--optimizer", "adam", "--optimizer.momentum", "0.5"],
            "--optimizer.momentum is no setting of adam: it has lr, b1, b2, eps",
        ),
        (["wang2018fp8", "--optimizer.b1", "0.5"], "--optimizer.b1 is no setting of momentum"),
        (["wang2018fp8", "--optimizer.momentum", "1"], "momentum must be at least 0 and below 1"),
        (["wang2018fp8", "--processes", "2", "--mesh", "data=2"], "need --coordinator"),
    ],
)
def test_mistakes(argv, message, tmp_path, monkeypatch, capsys):
    """One line on stderr with the value and the remedy, exit status 1, and no folder left over."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QTRAIN_DATA", raising=False)
    assert train.main(argv) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_unknown_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["wang2018fp8", "--chunk", "64"])
    assert stop.value.code == 2
    assert "--accumulate.chunk" in capsys.readouterr().err


def test_help_lists_recipes_and_their_options(capsys):
    assert train.main([]) == 0
    assert "wang2018fp8" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        train.main(["wang2018fp8", "--help"])
    out = capsys.readouterr().out
    for flag in ("--accumulate.chunk", "--update.rounding", "--last-layer", "--with", "--mesh"):
        assert flag in out


def test_an_occupied_folder_is_left_alone(tmp_path, capsys):
    (tmp_path / "precious").write_text("mine")
    assert train.main(["float32", "--out", str(tmp_path)]) == 1
    assert "is not empty: add --resume" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


def test_runs_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train._folder(train.Run(), "a") == Path("runs/a/001")
    Path("runs/a/007").mkdir(parents=True)
    assert train._folder(train.Run(), "a") == Path("runs/a/008")
    assert train._folder(train.Run(resume=True), "a") == Path("runs/a/007")


def test_killed_and_resumed(tmp_path, environment):
    """SIGKILL while it trains, twice; then --resume: metrics equal those of a whole run.

    The weights follow from the metrics: they are a function of the state, and the last
    evaluation's loss is among them to the last digit (tests/train/test_loop.py compares arrays).
    """
    argv = ("wang2018fp8", *SHORT, "--checkpoint-every", 5)
    subprocess.run(command(*argv, "--out", tmp_path / "whole"), env=environment, check=True)
    killed = tmp_path / "killed"
    for until in (10, 35):
        resume = ["--resume"] if killed.exists() else []
        run = command(*argv, "--out", killed, *resume)
        with processes.running([run], environment) as (process,):
            _wait_for_step(killed / "wang2018fp8" / "checkpoints", until, process)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
    subprocess.run(command(*argv, "--out", killed, "--resume"), env=environment, check=True)
    assert lines(killed / "wang2018fp8") == lines(tmp_path / "whole" / "wang2018fp8")


def _wait_for_step(checkpoints: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + processes.PATIENCE
    while not any(p.name.isdigit() and int(p.name) >= step for p in checkpoints.glob("*")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, f"no checkpoint in {processes.PATIENCE} s"
        time.sleep(0.002)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, environment):
    argv = (
        "float32",
        "--model",
        "mlp",
        "--epochs",
        50,
        "--checkpoint-every",
        5,
        "--out",
        tmp_path / "a",
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with processes.running([command(*argv)], environment, **pipes) as (process,):
        _wait_for_step(tmp_path / "a" / "float32" / "checkpoints", 5, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=processes.PATIENCE)
    assert process.returncode == 130, err
    found = re.search(r"stopped at step (\d+) of float32; go on with\n +(python .*--resume)", out)
    assert found
    step = int(found[1])
    assert (tmp_path / "a" / "float32" / "checkpoints" / str(step) / "seal.json").exists()


def test_two_processes(tmp_path, environment):
    """gloo on loopback: every loss as on one device, within what the order of the sum allows.

    Only the mean over the batch and the bias gradients are native sums. The first loss differs
    by at most 2 (n - 1) u of itself, n = 128; later ones would need the sensitivity of the
    network, so tests/train/test_step.py compares them step by step from equal states.
    """
    argv = ("wang2018fp8", *SHORT, "--steps", 3)
    subprocess.run(command(*argv, "--out", tmp_path / "one"), env=environment, check=True)
    with processes.coordinator() as address:
        both = (
            *argv, "--out", tmp_path / "two", "--mesh", "data=2", "--processes", 2,
            "--coordinator", address,
        )  # fmt: skip
        runs = [command(*both, "--process-id", i) for i in (0, 1)]
        with processes.running(runs, environment) as started:
            assert processes.statuses(started) == [0, 0]
    one, two = (
        [json.loads(line)["loss"] for line in lines(tmp_path / name / "wang2018fp8")]
        for name in ("one", "two")
    )
    assert len(one) == len(two)
    assert abs(one[0] - two[0]) <= 2 * 128 * 2.0**-24 * one[0]


def test_two_processes_stop_together(tmp_path, environment):
    """Ctrl-C to one of them: both save at the same step and end.

    Kills: `return bool(np.any(votes))` -> `return requested` in train/loop.py, which hangs.
    """
    with processes.coordinator() as address:
        argv = (
            "float32", "--model", "mlp", "--epochs", 50, "--checkpoint-every", 8,
            "--mesh", "data=2", "--out", tmp_path / "a", "--processes", 2,
            "--coordinator", address,
        )  # fmt: skip
        runs = [command(*argv, "--process-id", i) for i in (0, 1)]
        with processes.running(runs, environment) as started:
            _wait_for_step(tmp_path / "a" / "float32" / "checkpoints", 8, started[0])
            started[1].send_signal(signal.SIGINT)
            assert processes.statuses(started, want=130) == [130, 130]


def test_weights_that_break_in_the_last_step(tmp_path, monkeypatch, capsys):
    """They are found after the update, before anything is saved or reported."""
    monkeypatch.chdir(tmp_path)
    argv = ["float32", "--model", "mlp", "--steps", "1", "--optimizer.lr", "3e38"]
    assert train.main(argv) == 1
    assert re.search("step 1 of float32: .* not finite", capsys.readouterr().err)
    assert not list(tmp_path.rglob("seal.json"))
    for row in next(tmp_path.rglob("metrics.jsonl")).read_text().splitlines():
        json.loads(row, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_no_process_writes_outside_its_folder(tmp_path, environment):
    """A whole run by a newcomer: everything is where the last lines say it is."""
    run = subprocess.run(
        command("wang2018fp8", "--model", "mlp", "--steps", 3),
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    for name in re.findall(r"runs/\S+", run.stdout):
        assert (tmp_path / name.rstrip(",.")).exists(), name
    for word in (
        "e5m2",
        "e6m9",
        "chunk 64",
        "stochastic",
        "1000",
        "test accuracy",
        "gap to float32",
    ):
        assert word in run.stdout
