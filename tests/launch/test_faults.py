# SPDX-License-Identifier: MIT
"""Real processes on a real mosquitto, one part broken at a time.

Each test ends with the fleet steering again, or holding where it must; `Rig.finish` then asserts
that every record is readable and by the rules of the protocol, that each step the controller had
reported is on record, and that no host acted on anything old.
"""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from fault_rig import K, Rig
from kofn_process import Kofn, wait_for

from kofn.controller.record import read_run

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.broker,
    pytest.mark.skipif(shutil.which("mosquitto") is None, reason="mosquitto is not on PATH"),
    pytest.mark.skipif(sys.platform != "linux", reason="signals and limits as on Linux"),
]

DAY_S = 86_400


@pytest.fixture
def rig(kofn: Kofn, policy_file: Path) -> Iterator[Rig]:
    made = Rig(kofn, policy_file)
    try:
        yield made
    finally:
        made.close()


def test_kill_9_of_each_part_in_turn(rig: Rig) -> None:
    """A host, the broker in mid-round, the controller: each is started again, steering goes on."""
    rig.start()
    rig.kill("a")
    del rig.processes["a"]
    rig.steers(answers=2)  # the will takes its robots out of the frame
    rig.start_host("a")
    wait_for(lambda: rig.taken("a"), "the new host's first step")
    rig.steers()
    before = [len(rig.taken(host)) for host in "ab"]
    rig.kill("broker")
    wait_for(lambda: "broker connection lost" in rig.errors("controller"), "the loss noticed")
    rig.restart_broker()
    rig.steers()
    assert all(len(rig.taken(host)) > count for host, count in zip("ab", before, strict=True))
    rig.kill("controller")
    rig.resume()
    counters = rig.finish()
    epochs = {step.ep for step in rig.taken("b")}
    assert epochs == {1, 2}
    assert counters["b"]["hold_timer"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", ["broker", "controller", "a"])
def test_a_part_that_is_frozen_for_longer_than_the_keepalive(rig: Rig, part: str) -> None:
    """Keepalive 15 s: a broker gives a silent client up after 22.5 s, a client it after 30."""
    frozen(rig, part, 32.0)


@pytest.mark.parametrize("part", ["controller"])
def test_a_part_that_is_frozen_for_longer_than_the_hold_timer(rig: Rig, part: str) -> None:
    frozen(rig, part, 1.5)


def frozen(rig: Rig, part: str, seconds: float) -> None:
    rig.start()
    began = len(rig.decisions())
    rig.stop(part, signal.SIGSTOP)
    time.sleep(seconds)  # real time that passes is what is tested
    if part == "controller":
        assert len(rig.decisions()) <= began + 1
    rig.stop(part, signal.SIGCONT)
    rig.steers()
    counters = rig.finish()
    if part == "controller":  # ticks that it slept through are skipped, not made up for
        assert max(decision.skipped_ticks for decision in rig.decisions()) >= seconds
        assert counters["b"]["hold_timer"] >= 1


@pytest.mark.slow  # on a loaded machine few answers are in time
def test_thirty_percent_loss_and_a_tenth_of_a_second_of_jitter(
    kofn: Kofn, policy_file: Path
) -> None:
    rig = Rig(kofn, policy_file, period_s=0.6)
    try:
        rig.start()
        for proxy in rig.proxies.values():
            proxy.loss, proxy.jitter_s = 0.3, 0.1
        began = len(rig.decisions())
        wait_for(lambda: len(rig.decisions()) >= began + 10, "ten steps")
        # A robot answers one wave in four; how many steps that takes is up to chance and machine.
        wait_for(
            lambda: any(not decision.fallback for decision in rig.decisions()[began:]),
            "a step with enough answers",
        )
        lossy = rig.decisions()[began:]
        assert sum(decision.missing for decision in lossy) > 0
        assert sum(proxy.dropped for proxy in rig.proxies.values()) >= 5
        for proxy in rig.proxies.values():
            proxy.heal()
        rig.steers()
        rig.finish()
    finally:
        rig.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_cut_half_open_slow_and_corrupted_wires(rig: Rig) -> None:
    rig.start()
    rig.proxies["a"].cut()
    rig.steers()
    rig.proxies["controller"].cut()
    rig.steers()
    for proxy in rig.proxies.values():  # as when a cluster moves its clients
        proxy.dismiss()
    wait_for(lambda: rig.errors("controller").count("connection lost") >= 2, "the goodbye")
    rig.steers()
    rig.proxies["controller"].half_open = True
    time.sleep(2.0)
    rig.proxies["controller"].heal()
    rig.steers()
    rig.proxies["b"].bytes_per_s = 300.0  # a step is 200 bytes: every other one comes too late
    time.sleep(3.0)
    rig.proxies["b"].heal()
    rig.steers()
    for proxy in rig.proxies.values():
        proxy.corrupt = 0.05
    wait_for(lambda: sum(proxy.changed for proxy in rig.proxies.values()) >= 10, "damage")
    for proxy in rig.proxies.values():
        proxy.heal()
    rig.steers(timeout_s=120.0)
    rig.finish()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mounting, check=False).returncode:
        pytest.skip("only root may mount a small disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_ends_the_controller_and_not_its_record(rig: Rig, full_disk: Path) -> None:
    rig.disk = full_disk
    rig.start()
    free = psutil.disk_usage(str(full_disk)).free
    (full_disk / "ballast").write_bytes(b"x" * max(0, free - 4096))
    ended(rig, "No space left on device")
    rig.disk = rig.home
    rig.resume()
    rig.finish()


@pytest.mark.slow
def test_a_file_that_may_not_grow_ends_the_controller_and_not_its_record(rig: Rig) -> None:
    rig.start()
    size = (rig.folders[-1] / "run.mcap").stat().st_size + 2000
    psutil.Process(rig.processes["controller"].pid).rlimit(psutil.RLIMIT_FSIZE, (size, size))
    ended(rig, "File too large")
    rig.resume()
    rig.finish()


def ended(rig: Rig, why: str) -> None:
    """The controller gives up in one sentence, its record stays readable, the hosts hold."""
    assert rig.processes["controller"].wait(60) == 1
    (line,) = [x for x in rig.errors("controller").splitlines() if x.startswith("kofn: ")]
    assert why in line
    assert len(rig.decisions()) >= 3
    rig.check()
    taken = len(rig.taken("a"))
    time.sleep(4 * rig.period_s)
    assert rig.holding("a", taken)


CLOCK = """
# A wall clock that is wrong by what a file says; Python runs this before anything else.
import time
from pathlib import Path

_file, _time_ns = Path({file!r}), time.time_ns


def _shift_s():
    try:
        return int(_file.read_text() or 0)
    except OSError:
        return 0


time.time_ns = lambda: _time_ns() + _shift_s() * 10**9
time.time = lambda: time.time_ns() / 1e9
"""


def test_a_wall_clock_that_jumps_a_day_changes_stamps_and_nothing_else(
    rig: Rig, tmp_path: Path
) -> None:
    """Forth and back, in hosts and controller; mosquitto keeps the true time."""
    shift = tmp_path / "shift"
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(CLOCK.format(file=str(shift)))
    rig.environment = {"PYTHONPATH": str(hook)}
    rig.start()
    for jump_s in (DAY_S, -DAY_S, 0):
        shift.write_text(str(jump_s))
        rig.steers()
    counters = rig.finish()
    stamps = [entry.time_ns / 1e9 for entry in read_run(rig.folders[-1]) if entry.kind == "step"]
    assert max(stamps) - min(stamps) > 1.9 * DAY_S, "the clock did not jump"
    decisions = rig.decisions()
    assert max(decision.latency_ms for decision in decisions) < 1000 * 10
    assert max(decision.skipped_ticks for decision in decisions) < 60
    assert sum(decision.m[0] == K for decision in decisions) >= len(decisions) / 2
    assert {"a", "b"} <= counters.keys()
