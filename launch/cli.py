# SPDX-License-Identifier: MIT
"""The command line `kofn`: one verb a job, the same options everywhere.

Every verb takes `--json` (one JSON object on stdout, everything else on stderr). Exit codes: 0 ok,
1 the run failed, 2 bad input.
"""

from typing import Annotated

import typer

from kofn.launch import (
    verbs_ca,
    verbs_controller,
    verbs_core,
    verbs_doctor,
    verbs_fake,
    verbs_fed,
    verbs_fleet,
    verbs_hw,
    verbs_identify,
    verbs_measure,
    verbs_operate,
    verbs_run,
    verbs_study,
    verbs_validate,
)

app = typer.Typer(
    name="kofn",
    help="Steer n agents by polling only k of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"kofn {version('kofn')}")
        raise typer.Exit


@app.callback()
def kofn(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Steer n agents by polling only k of them."""


for verb in (
    verbs_fleet.demo,
    verbs_core.train,
    verbs_core.evaluate,
    verbs_core.certify,
    verbs_identify.identify,
    verbs_validate.validate,
    verbs_measure.sweep,
    verbs_measure.bench,
    verbs_fleet.up,
    verbs_controller.controller,
    verbs_fleet.swarm,
    verbs_fleet.robot,
    verbs_doctor.doctor,
    verbs_run.replay,
    verbs_run.plot,
):
    app.command()(verb)
app.add_typer(verbs_ca.app)
app.add_typer(verbs_hw.app)
app.add_typer(verbs_fake.app)
app.add_typer(verbs_operate.app)
verbs_fed.app.command()(verbs_study.study)
app.add_typer(verbs_fed.app)
