# SPDX-License-Identifier: MIT
"""What polling buys in physics: five ways to steer the same 30 wheeled robots, on paired seeds.

    python benchmarks/study_swarm.py [--out runs/study-swarm] [--seeds 20] [--workers 2] [--quick]
                                     [--report-only] [--write] [--json]

First `kofn identify` counts how robots move in the bullet world, and policies are learned: from
that kernel for k = 5 and for k = 30, and from the ideal moves of the preset `arena` for k = 5. Then
each seed is played by `kofn up`, with a broker and processes of their own, in each arm:

| arm | dispatcher, robots |
|---|---|
| learned | the policy learned from the kernel, 5 of 30 polled, belief |
| sees all | the same for k = 30 |
| ideal model | the policy learned from ideal moves, k = 5 |
| faults | as learned; a fifth of all messages is lost, three robots die at step 10 |
| random | dispatcher and robots act uniformly at random |

Measured from the hosts' own logs: the mean share of available robots in the target zone, and the
mean reward per step. Differences are paired by seed, with Student's 95 % interval. Runs are kept as
JSON lines and not repeated; the first seed of each arm leaves a film, and one film shows all arms.
`--write` replaces docs/study-swarm.md. The kernel's seed is none of the study's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.stats
from measuring import parser

from kofn.controller.core import Policy
from kofn.controller.core.presets import load_game
from kofn.launch.truth import mean_reward, read_truth, share_in_target

ROBOTS, K, STEPS, PERIOD_S = 30, 5, 40, 6.0
KERNEL_SEED, OPTION_STEPS = 1000, 200
DOCS = Path(__file__).parents[1] / "docs" / "study-swarm.md"
FAULTS = """
[polling]
poll_ttl_s = 0.5
[[faults]]
kind = "loss"
p = 0.2
[[faults]]
kind = "dead"
at = 10
robots = 3
"""


class Arm(NamedTuple):
    """One way to steer: its policy, robots polled, and what else its scenario says."""

    policy: str
    k: int
    control: bool = False
    more: str = ""


ARMS = {
    "learned": Arm("learned", K, control=True),  # its control run is the arm "random"
    "sees all": Arm("sees-all", ROBOTS),
    "ideal model": Arm("ideal", K),
    "faults": Arm("learned", K, more=FAULTS),
}
NAMES = (*ARMS, "random")
MEASURES = ("share", "reward")


class Result(NamedTuple):
    """One run."""

    arm: str
    seed: int
    share: float
    reward: float
    run_dir: str


def kofn(*words: str) -> str:
    """Run a command of kofn; return its stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "kofn.launch", *words], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"kofn {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def prepare(out: Path, option_steps: int) -> None:
    """Identify the kernel and learn the policies, unless they are there."""
    kernel = out / "kernel.npz"
    if not kernel.exists():
        kofn(
            "identify", "crowded30", "--option-steps", str(option_steps), "--workers", "2",
            "--seed", str(KERNEL_SEED), "--out", str(kernel), "--json",
        )  # fmt: skip
    todo = {
        "learned": [str(kernel), "--k", str(K)],
        "sees-all": [str(kernel), "--k", str(ROBOTS)],
        "ideal": ["arena", "--k", str(K), "--n", str(ROBOTS)],
    }
    for name, words in todo.items():
        if not (path := out / f"{name}.npz").exists():
            kofn("train", *words, "--seed", str(KERNEL_SEED), "--out", str(path), "--json")


def scenario(out: Path, arm: str, steps: int) -> Path:
    """Write the scenario of an arm; return its path."""
    made = ARMS[arm]
    path = out / f"{arm.replace(' ', '-')}.toml"
    path.write_text(
        f'name = "{path.stem}"\nk = {made.k}\nsteps = {steps}\n'
        f"control = {str(made.control).lower()}\n"
        f'[game]\nname = "arena"\n[policy]\nfile = "{(out / made.policy).resolve()}.npz"\n'
        f'[time]\nperiod_s = {PERIOD_S}\n[[hosts]]\nname = "sim-0"\nrobots = {ROBOTS}\n{made.more}',
        encoding="utf-8",
    )
    return path


def play(out: Path, arm: str, seed: int, steps: int, *, film: bool) -> list[Result]:
    """Play one seed in one arm; its control, where it has one, is a run of its own."""
    words = ["up", str(scenario(out, arm, steps)), "--seed", str(seed), "--out", str(out / "runs")]
    told = json.loads(kofn(*words, "--video" if film else "--no-video", "--json"))
    folder = Path(told["run_dir"])
    results = [measure(arm, seed, folder)]
    if ARMS[arm].control:
        results.append(measure("random", seed, folder / "control"))
        if film:
            kofn("plot", str(folder / "control"))
    return results


def measure(arm: str, seed: int, folder: Path) -> Result:
    """Read what happened from the hosts' logs."""
    truth = read_truth(folder)
    share = float(np.nanmean(share_in_target(truth)))
    return Result(arm, seed, share, mean_reward(truth, load_game("arena")), str(folder))


def read(path: Path) -> dict[tuple[str, int], Result]:
    """Runs that are there, by arm and seed."""
    if not path.exists():
        return {}
    rows = [Result(*json.loads(line)) for line in path.read_text().splitlines() if line]
    return {(row.arm, row.seed): row for row in rows}


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half width of Student's 95 % interval."""
    n = len(values)
    if n < 2:
        return float(values.mean()), float("nan")
    t = float(scipy.stats.t.ppf(0.975, n - 1))
    return float(values.mean()), t * float(values.std(ddof=1)) / n**0.5


def table(done: dict[tuple[str, int], Result], seeds: list[int]) -> list[dict[str, object]]:
    """Figures of each arm, and its paired differences to the learned one."""
    whole = [seed for seed in seeds if all((arm, seed) in done for arm in NAMES)]
    if not whole:
        sys.exit("no seed was played in all arms yet")
    rows: list[dict[str, object]] = []
    for arm in NAMES:
        row: dict[str, object] = {"arm": arm, "seeds": len(whole)}
        for name in MEASURES:
            mine, base = (
                np.array([getattr(done[who, seed], name) for seed in whole])
                for who in (arm, "learned")
            )
            row[name], row[f"{name}_ci"] = interval(mine)
            row[f"{name}_less"], row[f"{name}_less_ci"] = interval(mine - base)
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, object]]) -> list[str]:
    """The table as markdown lines."""
    lines = [
        "| arm | share in the target zone | against learned | reward a step | against learned |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [str(row["arm"])]
        for name in MEASURES:
            cells.append(f"{row[name]:.3f} ± {row[f'{name}_ci']:.3f}")
            own = row["arm"] == "learned"
            cells.append(
                "" if own else f"{row[f'{name}_less']:+.3f} ± {row[f'{name}_less_ci']:.3f}"
            )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def page(rows: list[dict[str, object]], out: Path) -> str:
    """docs/study-swarm.md."""
    kept = Policy.load(out / "learned.npz").provenance
    about = (
        f"{rows[0]['seeds']} paired seeds, {STEPS} steps of {PERIOD_S:g} s, {ROBOTS} wheeled "
        f"robots in one ring, in PyBullet; kernel of {OPTION_STEPS} option steps, policies learned "
        f"for n = {kept.get('n', ROBOTS)}. Means with Student's 95 % intervals."
    )
    head = (__doc__ or "").split("| arm |")[1].split("Runs are kept")[0]
    return "\n".join(
        [
            "# What polling buys in physics",
            "",
            "Made by `python benchmarks/study_swarm.py --write`; do not edit by hand. " + about,
            "",
            "| arm |" + head.rstrip(),
            "",
            *markdown(rows),
            "",
        ]
    )


def main() -> None:
    """Prepare, play what is missing, report."""
    options = parser(__doc__)
    options.add_argument("--out", type=Path, default=Path("runs/study-swarm"))
    options.add_argument("--seeds", type=int, default=20)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--report-only", action="store_true", help="play nothing")
    options.add_argument("--write", action="store_true", help="replace docs/study-swarm.md")
    chosen = options.parse_args()
    seeds = list(range(1, 1 + (min(chosen.seeds, 2) if chosen.quick else chosen.seeds)))
    steps, option_steps = (4, 25) if chosen.quick else (STEPS, OPTION_STEPS)
    out: Path = chosen.out
    out.mkdir(parents=True, exist_ok=True)
    setting = sha256(f"{steps} {option_steps} {ARMS}".encode()).hexdigest()[:12]
    lines = out / f"runs-{setting}.jsonl"
    if not chosen.report_only:
        prepare(out, option_steps)
        known = read(lines)
        # A run whose control is missing was cut short between the two: both are played again.
        todo = [
            (arm, seed)
            for seed in seeds
            for arm in ARMS
            if (arm, seed) not in known or (ARMS[arm].control and ("random", seed) not in known)
        ]

        def work(job: tuple[str, int]) -> None:
            results = play(out, *job, steps, film=job[1] == seeds[0])
            with lines.open("a") as kept:
                kept.write("".join(json.dumps(list(row)) + "\n" for row in results))
            print(f"{job[0]}, seed {job[1]}: done", file=sys.stderr, flush=True)

        with ThreadPoolExecutor(chosen.workers) as pool:
            list(pool.map(work, todo))
    done = read(lines)
    rows = table(done, seeds)
    film = out / "side-by-side.mp4"
    if not chosen.report_only:
        folders = [done[arm, seeds[0]].run_dir for arm in NAMES]
        kofn("plot", *folders, "--film", str(film))
    if chosen.write:
        DOCS.write_text(page(rows, out), encoding="utf-8")
    if chosen.json:
        print(json.dumps({"benchmark": "study-swarm", "rows": rows, "film": str(film)}))
    else:
        print("\n".join(markdown(rows)))


if __name__ == "__main__":
    main()
