# SPDX-License-Identifier: MIT
"""What hosts logged, what is measured from it, and the picture."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game
from kofn.controller.link.hostlog import Header, HostLog, StepTaken
from kofn.controller.record import RunFolder
from kofn.launch.report import write_report
from kofn.launch.truth import Truth, mean_reward, read_truth, rewards, share_in_target


def log(folder: Path, host: str, rows: list[tuple[int, int, int, list[int], list[int]]]) -> Path:
    path = folder / "hosts" / f"{host}.jsonl"
    n = len(rows[0][3])
    with HostLog(path) as out:
        out.write(
            Header(
                host=host,
                robots=[f"{host}-{i}" for i in range(n)],
                arena={"zones": 3},
                option_s=6.0,
                seed=0,
                backend="none",
                versions={},
            )
        )
        for t, g, u, z, a in rows:
            out.write(StepTaken(ep=1, t=t, g=g, u=u, time_s=6.0 * t, z=z, a=a))
    return path


def two_hosts(folder: Path) -> None:
    log(
        folder,
        "a",
        [(0, 1, 0, [0, 1], [1, 0]), (1, 2, 1, [1, 2], [1, 0]), (2, 2, 2, [2, 2], [0, 0])],
    )
    log(folder, "b", [(0, 1, 0, [1], [-1]), (1, 2, 1, [-1], [-1])])  # stopped early


def test_logs_of_all_hosts_are_joined(tmp_path: Path) -> None:
    two_hosts(tmp_path)
    truth = read_truth(tmp_path)
    assert truth.robots == ("a-0", "a-1", "b-0")
    assert truth.t.tolist() == [0, 1, 2]
    assert truth.g.tolist() == [1, 2, 2]
    assert truth.u.tolist() == [1, 2, -1]  # step t carries u(t-1); the last is not known here
    assert truth.zones.tolist() == [[0, 1, 1], [1, 2, -1], [2, 2, -1]]
    assert truth.actions.tolist() == [[1, 0, -1], [1, 0, -1], [0, 0, -1]]


def test_share_counts_available_robots_only(tmp_path: Path) -> None:
    two_hosts(tmp_path)
    assert share_in_target(read_truth(tmp_path)).tolist() == pytest.approx([2 / 3, 1 / 2, 1.0])


def test_share_is_unknown_where_nobody_was_available() -> None:
    nobody = np.full((1, 2), -1)
    truth = Truth(np.array([0]), np.array([0]), np.array([0]), nobody, nobody, ("a", "b"))
    assert np.isnan(share_in_target(truth)).all()


def test_reward_is_that_of_the_game(tmp_path: Path) -> None:
    two_hosts(tmp_path)
    r_g = np.arange(9.0).reshape(3, 3)
    r_l = np.arange(18.0).reshape(3, 3, 2)
    P_l = np.broadcast_to(np.eye(3)[None, :, None, :], (3, 3, 2, 3))
    game = Game(np.full((3, 3, 3), 1 / 3), r_g, P_l, r_l, 0.9)
    truth = read_truth(tmp_path)
    # t=0: r_g(1, u=1) + mean(r_l(1, 0, 1), r_l(1, 1, 0)); robot b-0 held and earns nothing
    first = r_g[1, 1] + (r_l[1, 0, 1] + r_l[1, 1, 0]) / 2
    second = r_g[2, 2] + (r_l[2, 1, 1] + r_l[2, 2, 0]) / 2
    assert rewards(truth, game)[:2].tolist() == [first, second]
    assert np.isnan(rewards(truth, game)[2])
    assert mean_reward(truth, game) == pytest.approx((first + second) / 2)


def test_log_torn_at_any_byte_is_read_up_to_its_last_line(tmp_path: Path) -> None:
    path = log(tmp_path, "a", [(t, 0, 0, [0, 1], [0, 0]) for t in range(3)])
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(0, len(whole) + 1, 7):
        path.write_bytes(whole[:size])
        steps = sum(end <= size for end in ends) - 1
        if steps < 1:
            with pytest.raises(InputError, match="no host log with a step"):
                read_truth(tmp_path)
        else:
            assert read_truth(tmp_path).t.tolist() == list(range(steps))


@pytest.mark.parametrize(
    "line", [b"{}", b"\xff", b'{"row":"\xff"}', b'{"row":"header","host":"\xff"}']
)
def test_file_that_is_no_host_log_is_named(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "hosts").mkdir()
    (tmp_path / "hosts" / "x.jsonl").write_bytes(line + b"\n")
    with pytest.raises(InputError, match=r"x\.jsonl is not a host log"):
        read_truth(tmp_path)


def finished_run(make_fleet: Any, **settings: Any) -> Path:
    fleet = make_fleet(3, 4)
    fleet.run(**settings)
    fleet.close()
    shutil.copytree(fleet.logs, fleet.folder.hosts)
    path: Path = fleet.folder.path
    return path


def test_truth_of_a_run_agrees_with_its_decisions(make_fleet: Any) -> None:
    folder = finished_run(make_fleet, k=7, steps=6)
    truth = read_truth(folder)
    assert truth.zones.shape == (6, 7)
    assert truth.u.min() >= 0


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 30_000


def test_report_is_drawn_with_and_without_host_logs_and_control(make_fleet: Any) -> None:
    folder = finished_run(make_fleet, steps=8)
    control = finished_run(make_fleet, steps=8, dispatcher="random")
    with_both = write_report(folder, control).read_bytes()
    assert is_picture(folder / "report.png")
    assert write_report(folder).read_bytes() != with_both
    shutil.rmtree(folder / "hosts")
    assert is_picture(write_report(folder))


def test_report_of_a_mixed_fleet_has_a_table_of_who_took_part(make_fleet: Any) -> None:
    folder = finished_run(make_fleet, steps=8)
    plain = png_height(write_report(folder))
    row: dict[str, Any] = {"hosts": 1, "robots": 2, "steps_taken": 0.99, "available": 1.0}
    row |= {"changed_zone": 2, "asked": 9, "answered": 8, "events": {"hold_timer": 1}}
    RunFolder(folder).update_summary(kinds={"swarm": row, "firmware": row})
    assert png_height(write_report(folder)) > plain + 100


def png_height(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[20:24], "big")


def test_report_of_a_killed_run_needs_the_record_alone(make_fleet: Any, tmp_path: Path) -> None:
    record = (finished_run(make_fleet, steps=70) / "run.mcap").read_bytes()
    (tmp_path / "run.mcap").write_bytes(record[: len(record) * 9 // 10])
    assert is_picture(write_report(tmp_path))


def test_report_of_a_run_without_a_step_is_refused(make_fleet: Any) -> None:
    fleet = make_fleet(3)
    loop = fleet.loop(should_stop=lambda: True)
    loop.run()
    with pytest.raises(InputError, match="holds no step"):
        write_report(fleet.folder.path)
