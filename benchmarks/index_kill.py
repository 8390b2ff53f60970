"""Does `babelclip index` lose or repeat a picture when it is killed? 20 SIGKILLs at random moments, on 3,000 pictures.

    python benchmarks/index_kill.py [--pictures 3000] [--kills 20] [--seed 0] [--out results/index-kill-DATE.json]

Half of the pictures lie in folders, half in tars, one in 50 is broken, some are equal, and a small random model
encodes them, since nothing here depends on which one does. The collection at the end is compared, row by row, with that
of a run that nobody disturbed. Every row that was durable when a run was killed must be there, and must not have been
encoded again. The bar: equal, nothing lost, nothing repeated. The last line printed is the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Runs the kills and returns the exit code: 0 where the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.search.killed_index", folder, str(given.kills), str(given.pictures)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "BABELCLIP_SEED": str(given.seed), "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    met = found["equal"] and not found["acknowledged_and_lost"] and not found["acknowledged_and_encoded_again"]
    met = met and found["largest_difference_of_vectors"] < 1e-5
    result = {
        "what": "babelclip index, killed and resumed, against an undisturbed run",
        "command": f"python benchmarks/index_kill.py --pictures {given.pictures} --kills {given.kills} "
        f"--seed {given.seed}",
        **found,
        "met": met,
        "seconds": round(time.perf_counter() - start, 1),
        "versions": {name: version(name) for name in ("babelclip", "lancedb", "torch", "pyarrow")},
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    print(f"{found['rows']:,} rows, {found['kills']} kills: {'equal' if found['equal'] else 'DIFFERENT'}; ", end="")
    print(f"lost {found['acknowledged_and_lost']}, repeated {found['acknowledged_and_encoded_again']}")
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
