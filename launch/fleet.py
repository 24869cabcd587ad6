# SPDX-License-Identifier: MIT
"""`kofn up`: everything that a scenario names, as processes, from the broker to the report.

The supervisor (this process) trains or loads the policy, starts a broker, one process per host and
one for the controller, watches them, and measures the outcome from the logs that the hosts kept
for themselves. With `control` it then plays the same seed once more with a dispatcher and robots
that act uniformly at random.
"""

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.game import Game
from kofn.controller.core.policy import Policy
from kofn.controller.link.allow_list import AllowList, Robots
from kofn.controller.link.broker import Broker, BrokerUser, start_broker
from kofn.controller.link.secret_files import write_atomic
from kofn.controller.record import RunFolder
from kofn.hardware.announce import offer
from kofn.launch.entry import Interrupted
from kofn.launch.participation import by_kind
from kofn.launch.parts import robot_names, write_credentials
from kofn.launch.preparing import load_policy, train_policy
from kofn.launch.runner import ALLOW_LIST, Runner, check_broker
from kofn.launch.scenario import Scenario
from kofn.launch.scenario_checks import AUTO
from kofn.launch.supervise import Supervisor
from kofn.launch.swarm_host import read_kernel
from kofn.launch.tls_fleet import TlsFleet, make_authority
from kofn.launch.truth import LAST_STEPS, mean_reward, read_truth, share_in_target
from kofn.launch.verifying import KERNEL
from kofn.sim.motion import MotionKernel


def run_scenario(scenario: Scenario, *, runs: Path, video: bool = True) -> dict[str, Any]:
    """Run a scenario to its end and return the figures that scripts read.

    Parameters
    ----------
    scenario
        Checked.
    runs
        Folder in which the run folder is made.
    video
        Whether to film the run (simulated robots only).

    Raises
    ------
    InputError
        Something in the scenario cannot be; nothing has been written.
    RunError
        A process died, the broker did not come up, the fleet did not appear. What was recorded so
        far stays in the run folder, which the sentence names.
    """
    started = time.monotonic()
    game, policy = load_policy(scenario)
    _check_kernels(scenario)
    users = [BrokerUser("controller", secrets.token_urlsafe(18), "controller")]
    users += [BrokerUser(h.name, secrets.token_urlsafe(18), "host") for h in scenario.hosts]
    secured = None
    if scenario.broker.tls and scenario.broker.tls != AUTO:
        secured = TlsFleet(Path(scenario.broker.tls), scenario)
    with _private_folder() as workdir:
        if scenario.broker.tls == AUTO:
            secured = TlsFleet(make_authority(workdir / "ca", scenario), scenario)
        for user in users:
            write_credentials(workdir / f"{user.name}.json", user.name, user.password)
        write_atomic(workdir / ALLOW_LIST, _allow_list(scenario).to_toml().encode())
        # The broker first: a port in use or a missing broker is known before minutes of training.
        with (
            secured.start_broker(workdir / "broker")
            if secured is not None
            else start_broker(
                scenario.broker.choice,
                fleet=scenario.name,
                users=users,
                workdir=workdir / "broker",
                port=scenario.broker.port or None,
            )
        ) as broker:
            _check_writable(runs)
            policy = policy or train_policy(scenario, game, lambda: check_broker(broker))
            folder = RunFolder.create(runs, scenario.name)
            with _naming(folder):
                summary, control = _play(folder, scenario, policy, broker, workdir, secured)
    with _naming(folder):
        result = _results(folder, scenario, policy.game, broker.kind, summary, control)
        draw(folder.path, video=video and scenario.video)
    result["wall_s"] = round(time.monotonic() - started, 2)
    return result


def _check_kernels(scenario: Scenario) -> None:
    """Refuse a finite world's own kernel that cannot be read or is for another arena."""
    for host in scenario.hosts:
        if host.kernel:
            kernel, arena = read_kernel(host.kernel), scenario.arena
            if (kernel.n_zones, kernel.n_actions) != (arena.zones, arena.n_actions):
                raise InputError(
                    f"host {host.name!r}: kernel {host.kernel} has {kernel.n_zones} zones and "
                    f"{kernel.n_actions} actions, the arena {arena.zones} and {arena.n_actions}"
                )


def _allow_list(scenario: Scenario) -> AllowList:
    """The hosts that the scenario names, each with the robots that it will offer."""
    robots: dict[str, Robots] = {}
    for host in scenario.hosts:
        offered = offer(robot_names(host.name, host.robots))
        robots[host.name] = tuple(offered) if isinstance(offered, list) else offered
    return AllowList.of(scenario.name, robots)


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder for passwords that is gone afterwards, whenever a signal comes."""
    folder = Path(tempfile.gettempdir()) / f"kofn-{secrets.token_hex(8)}"
    try:
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise RunError(f"cannot make folder {folder}: {error.strerror}") from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        # A signal may break off the removal above; after the first one signals are ignored.
        shutil.rmtree(folder, ignore_errors=True)


def _check_writable(runs: Path) -> None:
    """Refuse a folder that no run can be recorded in, before minutes of training."""
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make folder {runs}: {error.strerror}") from error
    if not os.access(runs, os.W_OK | os.X_OK):
        raise InputError(f"folder {runs} may not be written by this user")


@contextmanager
def _naming(folder: RunFolder) -> Iterator[None]:
    """Say in whatever ends the run where its record is."""
    try:
        yield
    except RunError as error:
        raise RunError(f"{error}; what was recorded is in {folder.path}") from error
    except Interrupted as signalled:
        signalled.add_note(f"what was recorded is in {folder.path}")
        raise


def _play(
    folder: RunFolder,
    scenario: Scenario,
    policy: Policy,
    broker: Broker,
    workdir: Path,
    secured: TlsFleet | None,
) -> tuple[dict[str, Any], RunFolder | None]:
    """Play the run and its control, if any; return the summary and the control's folder."""
    tables = _explicit(scenario)
    folder.write_config(scenario=tables)
    folder.write_policy(policy)
    kernel = folder.path / KERNEL
    if any(host.world == "finite" and not host.kernel for host in scenario.hosts):
        MotionKernel.of_game(policy.game).save(kernel)
    with Supervisor(folder.logs) as supervisor:
        # The counter stays beside the runs: physical hosts remember the highest epoch they saw.
        epochs = folder.path.parent / ".epochs" / scenario.name
        runner = Runner(
            scenario=scenario,
            supervisor=supervisor,
            broker=broker,
            workdir=workdir,
            policy=folder.policy,
            epoch_file=epochs,
            kernel=kernel,
            secured=secured,
        )
        summary = runner.play(folder, "policy")
        if not scenario.control:
            return summary, None
        (folder.path / "control").mkdir()
        control = RunFolder(folder.path / "control")
        control.write_config(scenario=tables)
        runner.play(control, "random")
    return summary, control


def _results(
    folder: RunFolder,
    scenario: Scenario,
    game: Game,
    broker: str,
    summary: dict[str, Any],
    control: RunFolder | None,
) -> dict[str, Any]:
    """Measure from the hosts' logs, complete both summaries, return what scripts read."""
    result: dict[str, Any] = {
        "run_dir": str(folder.path),
        "broker": broker,
        "robots": scenario.robots,
        "k": scenario.k,
        "steps": summary["steps"],
        **_measure(folder, game),
    }
    if any(host.kind == "swarm" and host.world == "kinematic" for host in scenario.hosts):
        result["calibrated"] = False  # moves succeed at other rates than those of wheels
    if len({host.kind for host in scenario.hosts}) > 1:
        result["kinds"] = by_kind(folder.path, scenario)
    if control is not None:
        random = _measure(control, game)
        control.update_summary(**random)
        result |= {f"{key}_random": value for key, value in random.items()}
    for key in ("poll_p50_ms", "poll_p99_ms", "polls_sent", "replies_used"):
        result[key] = summary[key]
    folder.update_summary(**{key: result[key] for key in result if key not in summary})
    return result


def draw(folder: Path, *, video: bool = True) -> list[Path]:
    """Write `report.png`, and `video.mp4` where hosts logged poses; return what was written."""
    from kofn.launch.filming import film
    from kofn.launch.report import write_report

    written = [write_report(folder)]
    if video and (path := film(folder)) is not None:
        written.append(path)
    return written


def _explicit(scenario: Scenario) -> dict[str, Any]:
    """The scenario without settings that are None: TOML has no word for them."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(inner) for key, inner in value.items() if inner is not None}
        if isinstance(value, list):
            return [strip(inner) for inner in value]
        return value

    table: dict[str, Any] = strip(msgspec.to_builtins(scenario))
    return table


def _measure(folder: RunFolder, game: Game) -> dict[str, float | None]:
    """Share in the target zone and mean reward, over all robots, from the hosts' own logs.

    None (JSON has no NaN) where no robot was available.
    """
    truth = read_truth(folder.path)
    share = share_in_target(truth)[-LAST_STEPS:]
    share = share[np.isfinite(share)]
    reward = mean_reward(truth, game)
    return {
        f"mean_share_in_target_last{LAST_STEPS}": round(float(share.mean()), 4)
        if share.size
        else None,
        "mean_reward": round(reward, 4) if np.isfinite(reward) else None,
    }
