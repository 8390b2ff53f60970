"""`--launcher`, `--ray-address` and what they mean together: of the verbs that run on many processes or machines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from babelclip.errors import BabelclipError, did_you_mean

if TYPE_CHECKING:
    from babelclip.cluster.job import Means

LAUNCHERS = ("local", "ray", "rank")
LAUNCHER_HELP = (
    "local: several processes of this machine; ray: a Ray cluster; rank: the same command on every machine, by "
    "torchrun, srun, sbatch --array or an indexed job. The result is the same to the byte."
)
ADDRESS_HELP = "With --launcher ray: address of the cluster to join, for example auto or 10.0.0.1:6379."


def launch_means(launcher: str, devices: Sequence[str], workers: int, ray_address: str) -> Means:
    """Returns the means that the options of a verb name.

    Raises:
        BabelclipError: the launcher is not known, or an address was given to one that joins none.
    """
    from babelclip.cluster.embed import means_of
    from babelclip.cluster.rank import place_of

    check_launcher(launcher, ray_address)
    if launcher == "rank":
        import os

        place_of(os.environ)  # before a model is loaded
    means = means_of(launcher, devices, workers, ray_address)
    return dataclasses.replace(means, progress=True, say=lambda line: typer.echo(line, err=True))


def check_launcher(launcher: str, ray_address: str) -> None:
    """Raises where the options do not fit together; a launcher need not be given."""
    if launcher and launcher not in LAUNCHERS:
        raise BabelclipError(f"--launcher {launcher} is not known. {did_you_mean(launcher, LAUNCHERS)}")
    if ray_address and launcher != "ray":
        raise BabelclipError(
            f"--ray-address {ray_address} was given, but {f'--launcher {launcher}' if launcher else 'no launcher'}. An "
            "address belongs to Ray: add --launcher ray, or drop it."
        )
