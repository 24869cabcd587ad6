# SPDX-License-Identifier: MIT
"""A study is a file: it is checked, played seed by seed, resumed, and reported with its hash."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kofn.controller.core.errors import InputError
from kofn.fed.selectors import SELECTORS
from kofn.fed.study import cells, load_study, read_results, run_study
from kofn.fed.study_report import Table, bootstrap, markdown, quartiles

ROOT = Path(__file__).resolve().parents[2]

SMALL = (ROOT / "benchmarks" / "studies" / "quick.toml").read_text()


def write(folder: Path, text: str = SMALL) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


def test_a_study_is_resumed_where_it_was_stopped_and_never_mixed_with_another(
    tmp_path: Path,
) -> None:
    study, digest = load_study(write(tmp_path))
    assert digest == hashlib.sha256(SMALL.encode()).hexdigest()
    every = cells(study)
    assert [cell.seed for cell in every] == [1, 1, 1, 2, 2, 2]
    whole = run_study(study, digest, tmp_path / "whole", workers=1)
    part = tmp_path / "part"
    run_study(study, digest, part, workers=1, only=every[:4])
    # Killed while it wrote: half a line is left.
    log = part / "runs.jsonl"
    kept = log.read_bytes()
    log.write_bytes(kept[: len(kept) - 40])
    seen: list[str] = []
    resumed = run_study(
        study, digest, part, workers=1, progress=lambda done, total, key: seen.append(key)
    )
    assert len(seen) == len(every) - 3
    wall = {"wall_s", "selector_ms"}
    for one, two in zip(whole, resumed, strict=True):
        for name in set(one.__struct_fields__) - wall:
            assert getattr(one, name) == getattr(two, name)
    with pytest.raises(InputError, match="another version of the study"):
        read_results(log, "0" * 64)


@pytest.mark.slow
def test_processes_give_the_same_runs(tmp_path: Path) -> None:
    study, digest = load_study(write(tmp_path))
    some = cells(study)[:2]
    alone = run_study(study, digest, tmp_path / "one", workers=1, only=some)
    shared = run_study(study, digest, tmp_path / "two", workers=2, only=some)
    assert [r.curve_accuracy for r in alone] == [r.curve_accuracy for r in shared]
    assert [r.curve_s for r in alone] == [r.curve_s for r in shared]


def test_the_report_says_what_was_never_reached_and_whether_claims_hold(tmp_path: Path) -> None:
    study, digest = load_study(write(tmp_path))
    table = Table(study, run_study(study, digest, tmp_path, workers=1))
    row = table.row("dirichlet:0.5", "fixed-call", 8)
    assert row["runs"] == 2
    assert row["targets"][1]["never"] == 2
    assert row["targets"][1]["time_s"] == [None, None, None]
    assert row["polls_per_round"][1] > 0
    text = markdown(study, digest, table)
    assert digest in text
    (late,) = (line for line in text.splitlines() if "fixed-call (k = 8) never reached" in line)
    assert late.endswith("0.999 in 2 of 2 runs.")
    for claim in table.claims():
        assert (f"{claim['claim']}, stated before the runs, does not hold" in text) is not (
            claim["holds"]
        )
    assert "tuning seeds 100" in text
    claims = table.claims()
    assert {c["partition"] for c in claims} == {"dirichlet:0.5"}
    ratio = next(c for c in claims if "0.6 times" in c["claim"])
    runs = table.runs("dirichlet:0.5", "fixed-call", 8), table.baseline("dirichlet:0.5")
    medians = [quartiles([r.time_to[0] for r in group.values()])[1] for group in runs]
    # Where the baseline never arrives the horizon stands for it.
    expected = medians[0] / min(medians[1], study.horizon_s)
    assert ratio["measured"] == pytest.approx(expected)
    assert ratio["holds"] == (expected <= 0.6)


def test_quartiles_count_never_as_infinitely_late() -> None:
    assert quartiles([1.0, 2.0, None, None]) == (1.75, math.inf, math.inf)
    assert quartiles([3.0, 1.0, 2.0]) == (1.5, 2.0, 2.5)


def test_the_bootstrap_interval_covers_the_median_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for i in range(60):
        _, low, high = bootstrap(rng.standard_normal(20) + 1.0, seed=i)
        hits += low <= 1.0 <= high
    assert hits >= 50


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("tuning_seeds = [100]", "tuning_seeds = [2]", "seed 2 is both a study seed and a tuning"),
        ("k = [8, 20]", "k = [8, 21]", "poll size 21 exceeds the 20 registered clients"),
        ('selector = "random"', 'selector = "fastest"', "there is no selector 'fastest'"),
        ('call = "fast"', 'call = "quick"', "there is no call 'quick'"),
        ("seeds = [1, 2]", "seeds = []", "the study has no seeds"),
        ("seeds = [1, 2]", 'seeds = "1"', r"Expected `array`, got `str` - at `\$.seeds`"),
        ("clients = 20", "clients = 20\nclient = 3", "unknown field `client`"),
        ("targets = [0.3, 0.999]", "targets = [1.5]", "not accuracies between 0 and 1"),
        ("horizon_s = 120", "horizon_s = ", "study.toml: "),
    ],
)
def test_a_bad_study_is_one_sentence(old: str, new: str, sentence: str, tmp_path: Path) -> None:
    text = SMALL.replace(old, new, 1)
    assert text != SMALL
    with pytest.raises(InputError, match=sentence) as caught:
        load_study(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_the_verb_writes_report_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kofn.launch.verbs_study import study as verb

    out = tmp_path / "out"
    verb(write(tmp_path), out=out, workers=1, first=1, figures=False, json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["runs"] == 3
    assert printed["runs_in_study"] == 6
    assert json.loads((out / "results.json").read_text())["rows"] == printed["rows"]
    assert printed["sha256"] in (out / "report.md").read_text()
    verb(write(tmp_path), out=out, report_only=True, figures=False, json=False)
    assert "median simulated seconds" in capsys.readouterr().out
    with pytest.raises(InputError, match="holds no run of this study"):
        verb(write(tmp_path), out=tmp_path / "new", report_only=True)


def test_the_study_of_the_repository_is_valid_and_its_tuning_seeds_are_apart() -> None:
    study, _ = load_study(ROOT / "benchmarks" / "studies" / "selectors.toml")
    assert len(study.seeds) == 20
    assert study.tuning_seeds
    assert not set(study.seeds) & set(study.tuning_seeds)
    assert {arm.selector for arm in study.arms} == set(SELECTORS)


def test_the_second_study_has_seeds_of_its_own_and_the_claims_of_the_first() -> None:
    first, second = (
        load_study(ROOT / "benchmarks" / "studies" / f"{name}.toml")[0]
        for name in ("selectors", "selectors-2")
    )
    assert not set(second.seeds) & {*first.seeds, *first.tuning_seeds}
    same = ("claim", "targets", "partitions", "traces", "train", "m", "horizon_s", "tuning_seeds")
    assert all(getattr(first, name) == getattr(second, name) for name in same)
    # Its fixed call is the one that the learned rule begins with.
    fixed, safe = (
        next(arm for arm in second.arms if arm.selector == name)
        for name in ("fixed-call", "mean-field")
    )
    assert fixed.settings["call"] == safe.settings["baseline"]
    assert fixed.sizes == safe.sizes


def test_the_command_of_the_page_works(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "federated.md").read_text()
    (line,) = re.findall(r"^kofn (fed study .*quick.*)$", page, re.MULTILINE)
    words = [str(tmp_path / "quick") if w == "runs/quick" else w for w in shlex.split(line)]
    done = subprocess.run(
        [sys.executable, "-m", "kofn.launch", *words, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["runs"] == printed["runs_in_study"] == 6
    assert (tmp_path / "quick" / "report.md").exists()
    assert all(Path(path).stat().st_size > 10_000 for path in printed["figures"])
