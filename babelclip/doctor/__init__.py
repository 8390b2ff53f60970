"""What a machine lacks for babelclip, found before the first long run finds it.

    findings = examine()                     # in the order in which they should be read
    [finding.advice for finding in findings if finding.state == "problem"]

`packages.py` compares what is installed with what babelclip asks for, `machine.py` looks at disks, memory and the
terminal, and `probe.py` is a program of its own: it imports torch and torchvision, or asks the hub, so that a library
that breaks, or ends its process, breaks that one. `judge.py` says what its answers mean.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import babelclip
from babelclip.doctor.finding import Finding, as_data
from babelclip.doctor.judge import judge_devices, judge_hub, judge_torch, judge_torchvision
from babelclip.doctor.machine import look_at_disks, look_at_memory, look_at_terminal
from babelclip.doctor.packages import look_at_extras, look_at_packages
from babelclip.doctor.start import start_probe

__all__ = ["Finding", "as_data", "examine"]

# The hub is given 5 s to answer; torch is read from a slow disk within the rest.
_PROBE_SECONDS = 60.0


def examine() -> list[Finding]:
    """Returns what was found, in the order in which it should be read; takes about as long as an import of torch.

    Nothing is changed, and nothing is fetched: the hub is asked for one page, and not that with HF_HUB_OFFLINE=1.
    """
    answers = start_probe()  # works while this process looks at the rest
    findings = [_host(), look_at_packages(), *look_at_extras(), look_at_memory(), look_at_terminal()]
    facts, end = answers(_PROBE_SECONDS)
    findings[2:2] = [judge_torch(facts, end), *judge_torchvision(facts, end), *judge_devices(facts)]
    hub_cache = facts.get("hub_cache")
    findings += look_at_disks(Path(hub_cache) if hub_cache else None)
    findings += judge_hub(facts)
    return findings


def _host() -> Finding:
    facts = {
        "babelclip": babelclip.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "folder": os.path.dirname(babelclip.__file__),
    }
    found = "babelclip {babelclip} on Python {python}, {system} {machine}, in {folder}".format(**facts)
    return Finding("babelclip", "ok", found, facts=facts)
