# SPDX-License-Identifier: MIT
"""What a sweep found, its file `results.json`, and its table in markdown.

======================  ===================================================================
figure of a row         meaning
======================  ===================================================================
memoryless, belief      the same policy played with memory none and with its own memory
mode_accuracy           share of steps in which the belief knew a most crowded state
train_s                 wall time of learning, s
sweep_s                 one exact Bellman sweep of G-LEARN on the grid of k agents, s
states                  states of that sweep, S_g M(k)
episode                 the first episode of each play, for the heat maps
======================  ===================================================================
"""

import math
import secrets
from pathlib import Path

import msgspec

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.presets import load_game
from kofn.launch.training import Learning

RESULTS, TABLE = "results.json", "table.md"

#: Mean returns of the paper's ring benchmark (arXiv 2603.03759), read from its figure.
PUBLISHED = {1: 83.3, 5: 85.9, 10: 87.8, 20: 90.2, 30: 91.3, 50: 93.1}
PUBLISHED_READ_TO = 0.3


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all rows of a sweep share; `code` stands for the source of `controller.core`."""

    code: str
    game: str
    game_sha256: str
    global_states: int
    local_states: int
    n: int
    horizon: int
    rollouts: int
    seed: int
    learning: Learning


class Episode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One episode: global state per step, and share of agents per step and local state."""

    s_g: list[int]
    shares: list[list[float]]


class Played(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Mean return with its 95 % interval; `memory` is the belief's cap in agents."""

    mean: float
    stderr: float
    ci: tuple[float, float]
    mode_accuracy: float
    memory: float
    episode: Episode

    @property
    def margin(self) -> float:
        """Half the width of the interval."""
        return (self.ci[1] - self.ci[0]) / 2


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was found for one k."""

    k: int
    grid: int
    start: str
    sha256: str
    memoryless: Played
    belief: Played
    train_s: float
    sweep_s: float | None
    states: int


class Sweep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings and rows, in the order of k."""

    settings: Settings
    rows: list[Row]

    @property
    def published(self) -> dict[int, float]:
        """The paper's mean returns by k, where the settings are those of its figure."""
        ring = load_game("ring-released")
        same = self.settings.game_sha256 == ring.sha256 and self.settings.horizon == ring.horizon
        return PUBLISHED if same and self.settings.n == 1000 else {}


def read(folder: Path) -> Sweep | None:
    """Return the sweep that a folder holds, if any."""
    path = folder / RESULTS
    try:
        return msgspec.json.decode(path.read_bytes(), type=Sweep)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(
            f"{path} does not hold the results of a sweep: {error} (--fresh starts anew)"
        ) from None


def write(sweep: Sweep, folder: Path) -> None:
    """Write results and table, each completely or not at all."""
    encoded = msgspec.json.format(msgspec.json.encode(sweep), indent=1)
    for name, content in ((RESULTS, encoded), (TABLE, markdown(sweep).encode())):
        temporary = folder / f".{name}.{secrets.token_hex(4)}.tmp"
        try:
            temporary.write_bytes(content)
            temporary.replace(folder / name)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise RunError(f"cannot write {folder / name}: {error.strerror}") from error


def markdown(sweep: Sweep) -> str:
    """Return the sweep as a markdown table."""
    published = sweep.published
    head = ["k", *(["published"] if published else []), "memoryless", "with belief"]
    head += ["mode accuracy, memoryless", "with belief", "grid", "learning, s", "sweep, ms"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in sweep.rows:
        cells = [str(row.k)]
        if published:
            cells.append(f"{published[row.k]:.1f}" if row.k in published else "")
        cells += [
            *(
                f"{played.mean:.2f} ± {played.margin:.2f}"
                for played in (row.memoryless, row.belief)
            ),
            *(f"{100 * p.mode_accuracy:.1f} %" for p in (row.memoryless, row.belief)),
            str(row.grid),
            f"{row.train_s:.1f}",
            "" if row.sweep_s is None else _significant(1000 * row.sweep_s),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _significant(value: float) -> str:
    """Return a positive number with two significant digits, or all of its whole ones."""
    return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}"
