"""Does a collection lose a row, or find a deleted one, when its upkeep is killed? 20 SIGKILLs in each kind of work.

    python benchmarks/upkeep_kill.py [--rows 4000] [--kills 20] [--seed 0] [--out results/upkeep-kill-DATE.json]

The work is what `babelclip collection index`, `optimize --keep-hours 0` and `delete` do, and writing rows (new ones,
and others replaced). After each kill another process opens the collection. Every acknowledged row must be there as it
was written last, with its own vector, caption and thumbnail; a row whose deletion was acknowledged must be found in
no way (by id, by scan, by search with the index and without); what was under way must be done or not done, as a
whole; and the search must find rows by their own vectors. At the end old versions are removed, and no thumbnail of a
deleted or replaced row may be on the disk. The bar: nothing wrong. The last line printed is the result as JSON.
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
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.search.killed_upkeep", folder, str(given.kills), str(given.rows)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "BABELCLIP_SEED": str(given.seed)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    result = {
        "what": "a collection whose writing, indexing, compaction and deletion are killed",
        "command": f"python benchmarks/upkeep_kill.py --rows {given.rows} --kills {given.kills} --seed {given.seed}",
        **found,
        "met": not found["wrong"],
        "seconds": round(time.perf_counter() - start, 1),
        "versions": {name: version(name) for name in ("babelclip", "lancedb", "pyarrow")},
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    print(f"{found['rows']:,} rows, {found['kills']} kills: {'; '.join(found['wrong']) or 'nothing wrong'}")
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0 if not found["wrong"] else 1


if __name__ == "__main__":
    sys.exit(main())
