# SPDX-License-Identifier: MIT
"""Games as the command line names them: what the core knows, and kernels of `kofn identify`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kofn.controller.core.errors import InputError
from kofn.controller.core.presets import PRESETS, load_game

if TYPE_CHECKING:
    from kofn.controller.core.game import Game
    from kofn.sim.density import DensityGame
    from kofn.sim.kernel import Kernel

#: Fleet of a game that says nothing about its size.
USUAL_FLEET = 1000


def read_kernel(source: str | os.PathLike[str]) -> "Kernel | None":
    """Return the kernel of an `.npz` file; None for a name of another kind.

    Raises
    ------
    InputError
        No such file, a damaged one, or a file of another kind.
    """
    if not os.fspath(source).endswith(".npz"):
        return None
    from kofn.sim.kernel import Kernel

    return Kernel.load(Path(source))


def load_model(source: str | os.PathLike[str]) -> "tuple[Game, Kernel | None]":
    """Return a game as `core.load_game` does, or the plain game of a kernel file with its kernel.

    Raises
    ------
    InputError
        An unknown name, or a file that cannot be read.
    """
    kernel = read_kernel(source)
    if kernel is not None:
        return kernel.game(), kernel
    text = os.fspath(source)
    if text not in PRESETS and ":" not in text and not text.endswith(".toml"):
        raise InputError(
            f"unknown game {text!r}: not a preset ({', '.join(PRESETS)}), not a .toml file, not "
            "a kernel file (.npz) and not module:factory"
        )
    return load_game(source), None


def by_crowd(asked: str | None, kernel: "Kernel | None") -> bool:
    """Return whether robots move by the bin of their crowd: by default where there are bins.

    Raises
    ------
    InputError
        An unknown kernel, or a binned one where there are no bins.
    """
    if asked not in {None, "binned", "plain"}:
        raise InputError(f"unknown kernel {asked!r}; known are binned, plain")
    if asked is not None and kernel is None:
        raise InputError(f"--kernel {asked} belongs to a kernel file (kofn identify writes them)")
    if kernel is None or asked == "plain":
        return False
    if kernel.template.local_sees == "next":
        if asked is None:
            return False
        raise InputError("--kernel binned: agents of this game see the next target, use plain")
    if asked == "binned" and kernel.n_bins == 1:
        raise InputError("--kernel binned: this kernel file has no bins, use plain")
    return kernel.n_bins > 1


def crowd_game(kernel: "Kernel") -> "DensityGame":
    """Return the game in which robots move by the bin of their crowd."""
    from kofn.sim.density import DensityGame

    return DensityGame(kernel.game(), kernel.binned, kernel.edges)


def fleet_size(n: int | None, kernel: "Kernel | None", *, force: bool = False) -> int:
    """Return the fleet size: the given one, else that of the kernel, else the usual one.

    Raises
    ------
    InputError
        A fleet that the kernel was not identified for, without `force`.
    """
    if kernel is None:
        return USUAL_FLEET if n is None else n
    known = kernel.info.n
    if n is not None and n != known and not force:
        raise InputError(
            f"the kernel was identified for {known} robots, not for {n} (--force takes it all the "
            "same)"
        )
    return known if n is None else n
