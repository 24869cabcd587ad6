# SPDX-License-Identifier: MIT
"""Write docs/results.md: published returns beside ours, for each ring game and poll size.

    python benchmarks/tables.py [--games ring-released,...] [--ks 1,5,10,20,30,50] [--write]

Each game is swept as `kofn sweep` does it, into its own folder below --out; what those folders
already hold of the same settings is not computed again. With ring-released comes a table by the
released code's own rule, which takes half a minute per k each time. A file certificate.json there,
made by `python benchmarks/bench_certificate.py --json`, adds a section. Without --write the page is
printed; with it, docs/results.md and two figures of the first game in docs/figures are written.
"""

import argparse
import json
import platform
import shutil
from pathlib import Path
from typing import Any

from kofn.controller.core import alternating_marl, load_game, rollout
from kofn.controller.core._jit import thread_count
from kofn.launch.sweep_figures import draw
from kofn.launch.sweep_results import PUBLISHED, PUBLISHED_READ_TO, Sweep, markdown
from kofn.launch.sweeping import parse_ks, settings_of, sweep
from kofn.launch.training import Learning

DOCS = Path(__file__).resolve().parents[1] / "docs"
FIGURES = ("reward.png", "zones.png")
N = 1000

ABOUT = {
    "ring-released": "What the paper's released code evaluates: r_g = 1, locals see s_g(t+1).",
    "ring-paper": "The game of the paper's text: r_g = 4 - abs(s_g - a_g), locals see s_g(t). "
    "The paper prints no return for it.",
    "ring-current": "As `ring-released`, but locals see s_g(t).",
}

#: Options that change what the page says.
HOW = ("games", "ks", "rollouts", "seed", "restarts", "rounds", "polish")

LEGEND = (
    "Returns are means with 95 % confidence intervals over episodes that learning has not seen. "
    "*Memoryless* is the same policy played by its last poll alone; *with belief* it remembers. "
    "*Mode accuracy*: share of steps in which what the dispatcher believes to be a most crowded "
    "state is one. *Grid*: agents in a histogram of the learned table. *Sweep*: one exact "
    "Bellman sweep of G-LEARN on the grid of k agents."
)


def section(found: Sweep) -> list[str]:
    """Return the section of one game."""
    s = found.settings
    lines = [f"## {s.game}, n = {s.n}, horizon {s.horizon}", ""]
    if s.game in ABOUT:
        lines += [ABOUT[s.game], ""]
    if found.published:
        lines += [f"Published returns are read from the paper's figure, ±{PUBLISHED_READ_TO}.", ""]
    lines += [f"{s.rollouts} episodes, seed {s.seed}.", "", *markdown(found).splitlines(), ""]
    return lines


def as_released(ks: list[int], rollouts: int, seed: int) -> list[str]:
    """Return the section on the rule by which the released code plays, see docs/mathematics.md."""
    learned_in, played_in = load_game("ring-current"), load_game("ring-released")
    lines = [
        f"## By the released code's own rule, n = {N}, horizon {played_in.horizon}",
        "",
        "Agents choose their actions by s_g(t) and move under s_g(t+1); in `ring-released` above "
        "they also act on s_g(t+1), so they know more than the published ones. Learned in "
        "`ring-current`, played in `ring-released` with `act_first=True`; "
        f"{rollouts} episodes, seed {seed}.",
        "",
        "| k | published | memoryless | with belief |",
        "|---|---|---|---|",
    ]
    for k in ks:
        policy = alternating_marl(learned_in, k, N, seed=seed).policy
        cells = [str(k), str(PUBLISHED.get(k, ""))]
        for memory in ("none", "auto"):
            played = rollout(
                played_in,
                policy,
                n=N,
                k=k,
                rollouts=rollouts,
                seed=seed,
                memory=memory,
                act_first=True,
            )
            low, high = played.interval()
            cells.append(f"{played.mean:.2f} ± {(high - low) / 2:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def certificate(path: Path) -> list[str]:
    """Return the section of the certificates in a file."""
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    last = rows[-1]
    lines = [
        f"## What is left: certificates for ring-current, n = {last['n']}, k = {last['k']}",
        "",
        "No policy of any kind earns more than the bound, which falls with K, the size of the "
        "closed system that it comes from (`python benchmarks/bench_certificate.py`).",
        "",
        "| budget, s | largest K | deployed return | no policy earns more than | welfare gap |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['budget_s']:g} | {row['grid']['team']} | {row['value']:.2f} "
        f"| {row['upper_team']:.2f} | {100 * row['welfare_gap_relative']:.2f} % |"
        for row in rows
    ]
    bounds = [bound for bound in last["bounds"] if bound["kind"] == "team"]
    lines += ["", "| K | " + " | ".join(str(bound["K"]) for bound in bounds) + " |"]
    lines += ["|" + "---|" * (len(bounds) + 1)]
    lines += ["| bound | " + " | ".join(f"{bound['upper']:.2f}" for bound in bounds) + " |", ""]
    return lines


def main() -> None:
    """Sweep what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", default="ring-released,ring-paper,ring-current")
    parser.add_argument("--ks", default="1,5,10,20,30,50")
    parser.add_argument("--rollouts", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--restarts", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--polish", type=int, default=0)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--out", type=Path, default=Path("runs/tables"))
    parser.add_argument("--fresh", action="store_true", help="compute everything anew")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    ks = parse_ks(options.ks, N)
    sweeps: dict[Path, Sweep] = {}
    for name in options.games.split(","):
        game = load_game(name)
        settings = settings_of(
            game,
            n=N,
            horizon=None,
            rollouts=options.rollouts,
            seed=options.seed,
            learning=Learning(
                restarts=options.restarts,
                rounds=options.rounds,
                polish=options.polish,
            ),
        )
        folder = options.out / name
        sweeps[folder] = sweep(
            game, ks, settings, folder, engine_name=options.engine, fresh=options.fresh
        )
        draw(sweeps[folder], folder)
    given = [f"--{name} {value}" for name, value in vars(options).items() if name in HOW and value]
    command = " ".join(["python benchmarks/tables.py", *given, "--write"])
    machine = f"{platform.machine()} with {thread_count()} threads"
    lines = ["# Results", "", f"Made by `{command}` on {machine}.", "", LEGEND, ""]
    for found in sweeps.values():
        lines += section(found)
    if "ring-released" in options.games.split(","):
        lines += as_released(ks, options.rollouts, options.seed)
    if (options.out / "certificate.json").exists():
        lines += certificate(options.out / "certificate.json")
    if options.write:
        (DOCS / "figures").mkdir(exist_ok=True)
        first = next(iter(sweeps))
        lines += [f"## Figures of {first.name}", ""]
        for name in FIGURES:
            shutil.copyfile(first / name, DOCS / "figures" / name)
            lines += [f"![{name}](figures/{name})", ""]
        (DOCS / "results.md").write_text("\n".join(lines))
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
