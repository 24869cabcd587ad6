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
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.game import Game
from kofn.controller.core.policy import Policy
from kofn.controller.link.address import parse_url
from kofn.controller.link.allow_list import AllowList, Robots
from kofn.controller.link.broker import Broker, BrokerUser, start_broker
from kofn.controller.link.secret_files import write_atomic
from kofn.controller.record import RunFolder
from kofn.hardware.announce import offer
from kofn.hardware.board_settings import BoardBroker, BoardSettings, to_der, token_hash
from kofn.hardware.firmware_bench import prepare_bench
from kofn.launch.entry import Interrupted
from kofn.launch.fakes import FakeHosts
from kofn.launch.output import Progress
from kofn.launch.participation import by_kind
from kofn.launch.parts import read_credentials, robot_names, write_credentials
from kofn.launch.preparing import load_policy, train_policy
from kofn.launch.scenario import AUTO, HostSection, Scenario
from kofn.launch.seeds import named_seed
from kofn.launch.supervise import Child, Supervisor
from kofn.launch.swarm_host import MoreHost, read_kernel
from kofn.launch.tls_fleet import TlsFleet, make_authority
from kofn.launch.truth import LAST_STEPS, mean_reward, read_truth, share_in_target
from kofn.launch.verifying import KERNEL
from kofn.sim.faults import faults_of_hosts
from kofn.sim.motion import MotionKernel

Dispatcher = Literal["policy", "random"]

ALLOW_LIST = "hosts.toml"


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
            policy = policy or train_policy(scenario, game, lambda: _check_broker(broker))
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


def _check_broker(broker: Broker) -> None:
    if not broker.alive():
        raise RunError(f"the {broker.kind} broker died")


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
        runner = _Runner(
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


class _Runner:
    """Starts the processes of one fleet on a running broker."""

    def __init__(
        self,
        *,
        scenario: Scenario,
        supervisor: Supervisor,
        broker: Broker,
        workdir: Path,
        policy: Path,
        epoch_file: Path,
        kernel: Path,
        secured: TlsFleet | None,
    ) -> None:
        self._secured = secured
        self._kernel = kernel
        self._faults = faults_of_hosts(
            scenario.faults, scenario.swarms, named_seed(scenario.seed, "struck")
        )
        self._policy = policy
        self._scenario = scenario
        self._epoch_file = epoch_file
        self._supervisor = supervisor
        self._broker = broker
        self._workdir = workdir

    def play(self, folder: RunFolder, dispatcher: Dispatcher) -> dict[str, Any]:
        """Play one run in its folder and return its summary."""
        scenario = self._scenario
        self._fakes = FakeHosts(
            scenario,
            self._supervisor,
            self._workdir / dispatcher,
            self._broker.url,
            self._secured,
        )
        devices = self._fakes.start(dispatcher)
        hosts = [
            self._start_hosts(together, folder, dispatcher)
            for together in processes(scenario.hosts)
        ]
        self._fakes.arm(lambda: _check_broker(self._broker))
        controller = self._supervisor.start(
            f"controller-{dispatcher}", self._controller_command(folder, dispatcher)
        )
        title = "steering" if dispatcher == "policy" else "control run, uniformly random"
        with Progress(title, total=scenario.steps) as progress:
            code = self._supervisor.wait(controller, lambda: self._watch(controller, progress))
        if code != 0:
            raise RunError(f"the controller {controller.how_it_ended()}")
        self._supervisor.stop(hosts)
        self._supervisor.stop(devices)
        self._fakes.keep_records(folder.path / "robots")
        summary = folder.read_summary()
        if summary is None:
            raise RunError("the controller ended without a summary")
        return summary

    def _watch(self, controller: Child, progress: Progress) -> None:
        """Show the controller's last `step=.. ..` line; notice a dead broker."""
        _check_broker(self._broker)
        words = controller.last_words()
        if words.startswith("step="):
            step, _, detail = words.partition(" ")
            progress.update(int(step.removeprefix("step=")) + 1, detail)

    def _start_hosts(
        self, hosts: list[HostSection], folder: RunFolder, dispatcher: Dispatcher
    ) -> Child:
        """Start the process of a host, or of several simulated ones that share it."""
        scenario = self._scenario
        host, *others = hosts
        if host.kind == "firmware":
            return self._start_board(host, folder, dispatcher)
        command = [
            *_kofn("swarm" if host.kind == "swarm" else "robot"),
            *self._wire(host.name),
            *("--host", host.name),
            *("--seed", str(scenario.seed)),
            *("--speed", repr(scenario.time.speed)),
            *("--period", repr(scenario.time.period_s)),
            *("--arena", msgspec.json.encode(scenario.arena).decode()),
            *("--log", str(folder.hosts / f"{host.name}.jsonl")),
        ]
        if host.kind == "swarm":
            command += ["--robots", str(host.robots), "--world", host.world]
            command += ["--pace", scenario.pace, "--fidelity", host.fidelity]
            command += ["--robot", msgspec.json.encode(scenario.robot).decode()]
            if faults := self._faults[host.name]:
                command += ["--faults", msgspec.json.encode(faults).decode()]
            if kernel := self._kernel_of(host):
                command += ["--kernel", kernel]
            if others:
                file = self._workdir / f"{host.process}-{dispatcher}.json"
                more = [self._more(other, folder) for other in others]
                command += ["--with", str(write_atomic(file, msgspec.json.encode(more)))]
        else:
            command += ["--zone", str(host.zone)]
            command += ["--safety", msgspec.json.encode(scenario.safety).decode()]
            if host.fake:
                command += self._fakes.options(host)
            else:
                settings = msgspec.json.encode(host.settings).decode()
                command += ["--driver", host.driver, "--settings", settings]
        name = host.process if others else host.name
        return self._supervisor.start(f"{name}-{dispatcher}", command)

    def _kernel_of(self, host: HostSection) -> str:
        """Motion kernel of a finite world, "" for others."""
        if host.world != "finite":
            return ""
        kernel = host.kernel or str(self._kernel)
        # The host writes it into its log: no relative path.
        return str(Path(kernel).absolute()) if kernel.endswith(".npz") else kernel

    def _more(self, host: HostSection, folder: RunFolder) -> MoreHost:
        """What a host that shares a process does not have in common with the first of it."""
        log = str(folder.hosts / f"{host.name}.jsonl")
        more = MoreHost(
            host=host.name,
            robots=host.robots,
            world=host.world,
            fidelity=host.fidelity,
            kernel=self._kernel_of(host),
            log=log,
        )
        if self._secured is not None:
            files, keys = self._secured.files(host.name), self._secured.message_keys(host.name)
            return msgspec.structs.replace(
                more,
                tls_cert=str(files.certificate),
                tls_key=str(files.key),
                message_keys=None if keys is None else str(keys),
            )
        if self._broker.kind == "url":
            return more
        return msgspec.structs.replace(more, credentials=str(self._workdir / f"{host.name}.json"))

    def _start_board(self, host: HostSection, folder: RunFolder, dispatcher: Dispatcher) -> Child:
        """Start the firmware of one board in the unix port; somebody holds its arm button."""
        scenario = self._scenario
        address = parse_url(self._broker.url)
        place = self._workdir / "boards" / f"{host.name}-{dispatcher}"
        user, password = None, None
        if self._secured is None and self._broker.kind != "url":
            user, password = read_credentials(self._workdir / f"{host.name}.json")
        speed, period_ms = scenario.time.speed, round(1000 * scenario.time.period_s)
        safety = scenario.safety
        settings = BoardSettings(
            fleet=scenario.name,
            host=host.name,
            robot=robot_names(host.name, 1)[0],
            broker=BoardBroker(
                host=address.host,
                port=address.port,
                user=user or "",
                password=password or "",
                **self._board_certificates(host.name, place),
            ),
            token_sha256=token_hash(secrets.token_hex(16)),
            arena=msgspec.to_builtins(scenario.arena),
            start_zone=host.zone,
            seed=named_seed(scenario.seed, host.name) % 2**31,
            option_ms=period_ms,
            hold_ms=min(3 * period_ms, 600_000),
            # Fleet time runs faster on the bench, the machine does not.
            deadman_ms=min(2000, round(1000 * safety.deadman_s * max(1.0, speed))),
            link_ms=min(10_000, round(1000 * safety.link_s * max(1.0, speed))),
            pose_max_age_ms=round(1000 * safety.pose_max_age_s),
            speed=speed,
            log=str((folder.hosts / f"{host.name}.jsonl").absolute()),
        )
        folder.hosts.mkdir(parents=True, exist_ok=True)
        return self._supervisor.start(f"{host.name}-{dispatcher}", prepare_bench(place, settings))

    def _board_certificates(self, name: str, place: Path) -> dict[str, str]:
        """Put a board's certificates beside its settings, in the form that its TLS reads."""
        if self._secured is None:
            return {}
        files, names = self._secured.files(name), {"server_name": self._secured.server_name}
        for what, file in (("ca", files.ca), ("cert", files.certificate), ("key", files.key)):
            assert file is not None  # noqa: S101  a member has all three
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            names[what] = str(place / f"{what}.der")
            write_atomic(Path(names[what]), to_der(file.read_bytes(), str(file)))
        return names

    def _controller_command(self, folder: RunFolder, dispatcher: Dispatcher) -> list[str]:
        scenario = self._scenario
        own = self._workdir / ALLOW_LIST
        return [
            *_kofn("controller"),
            *self._wire("controller"),
            *("--policy", str(self._policy)),
            *("--k", str(scenario.k)),
            *("--robots", str(scenario.robots)),
            *("--steps", str(scenario.steps)),
            *("--period", repr(scenario.time.period_s)),
            *("--speed", repr(scenario.time.speed)),
            *("--seed", str(scenario.seed)),
            *("--memory", str(scenario.policy.memory)),
            *("--dispatcher", dispatcher),
            *("--folder", str(folder.path)),
            *("--epoch-file", str(self._epoch_file)),
            *("--polling", msgspec.json.encode(scenario.polling).decode()),
            *("--hosts", str(self._secured.allow_list if self._secured else own)),
            *("--beat", "0.5" if any(h.physical for h in scenario.hosts) else "0"),
            *(
                ()
                if scenario.metrics_port is None
                else ("--metrics-port", str(scenario.metrics_port))
            ),
            "--steps-to-log",
        ]

    def _wire(self, user: str) -> list[str]:
        if self._secured is not None:
            login = self._secured.options(user)
        elif self._broker.kind != "url":
            login = ["--credentials", str(self._workdir / f"{user}.json")]
        else:
            login = []  # somebody else's broker does not know our passwords
        return [
            *("--fleet", self._scenario.name),
            *("--broker", self._broker.url),
            *("--mqtt", self._broker.protocol),
            *login,
        ]


def processes(hosts: Sequence[HostSection]) -> list[list[HostSection]]:
    """Hosts by the process that serves them, in the order of the first of each."""
    together: dict[str, list[HostSection]] = {}
    for host in hosts:
        key = f"process {host.process}" if host.process else host.name  # names hold no blanks
        together.setdefault(key, []).append(host)
    return list(together.values())


def _kofn(verb: str) -> list[str]:
    return [sys.executable, "-m", "kofn.launch", verb]


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
