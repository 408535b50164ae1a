"""Three chained one-second stages through Slurm, from the command to the table: `tests/bench/slurm.py target/release/restage`.

Needs a Slurm that answers (`SLURM_CONF` says where) and takes jobs of one CPU. Prints the seconds of five runs, sorted.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

binary = pathlib.Path(sys.argv[1]).resolve()
plugin = pathlib.Path(__file__).resolve().parents[1] / "plugin"
workflow = f"""
restage: 1
plugins: [{{ path: {plugin} }}]
stages:
  first: {{ uses: test/steps, with: {{ steps: 10, sleep: 100 }} }}
  second: {{ uses: test/steps, in: {{ after: first }}, with: {{ steps: 11, sleep: 91 }} }}
  third: {{ uses: test/steps, in: {{ after: second }}, with: {{ steps: 12, sleep: 84 }} }}
"""

with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    (root / "w.yaml").write_text(workflow)
    (root / "restage.toml").write_text('executor = "slurm"\n')
    took = []
    for round in range(5):
        environment = os.environ | {"RESTAGE_CACHE": str(root / f"store{round}")}
        # Plugins are built before.
        subprocess.run([binary, "plan", "w.yaml"], cwd=root, env=environment, check=True, capture_output=True)
        begun = time.monotonic()
        subprocess.run([binary, "run", "w.yaml"], cwd=root, env=environment, check=True, capture_output=True)
        took.append(time.monotonic() - begun)
    print(" ".join(f"{seconds:.2f}" for seconds in sorted(took)))
