#!/usr/bin/env python3
"""How planning grows: time and peak memory of `restage plan` for about 1,000, 10,000 and 100,000 actions.

    cargo build --release && tests/bench/plan.py target/release/restage

Three shapes: `late`, many variants that differ in one late stage, five seeds; `early`, variants that differ from the
first stage on, ten seeds; `mapped`, one workflow mapped over many values. Each on a fresh store: nothing is cached.
"""
import os
import pathlib
import subprocess
import sys
import tempfile
import time

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]


def late(n):
    values = ", ".join(str(k + 2) for k in range(n // 5))
    chain = "".join(f"  s{i}: {{ uses: test/join, in: {{ texts: s{i - 1} }} }}\n" for i in range(1, 11))
    return f"""stages:
  s0: {{ uses: test/write, with: {{ text: x }} }}
{chain}  seeded: {{ uses: test/draw, in: {{ text: s10 }} }}
  last: {{ uses: test/join, in: {{ texts: seeded }} }}
sweep:
  seeds: [0, 1, 2, 3, 4]
  grid: {{ last.weight: [{values}] }}
"""


def early(n):
    values = ", ".join(f"v{k}" for k in range(n // 100))
    chain = "".join(f"  s{i}: {{ uses: test/join, in: {{ texts: s{i - 1} }} }}\n" for i in range(2, 11))
    return f"""stages:
  s0: {{ uses: test/draw }}
  s1: {{ uses: test/join, in: {{ texts: s0 }} }}
{chain}sweep:
  seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
  grid: {{ s1.between: [{values}] }}
"""


def mapped(n):
    values = ", ".join(f"v{k}" for k in range(n // 10))
    chain = "".join(f"  s{i}: {{ uses: test/join, in: {{ texts: s{i - 1} }} }}\n" for i in range(1, 10))
    return f"""stages:
  s0: {{ uses: test/write, foreach: {{ i: [{values}] }}, with: {{ text: "${{foreach.i}}" }} }}
{chain}  all: {{ uses: test/join, in: {{ texts: s9 }}, gather: i }}
"""


def measure(binary, workflow, store):
    process = subprocess.Popen(
        [binary, "plan", workflow], stdout=subprocess.PIPE, env={**os.environ, "RESTAGE_CACHE": store}
    )
    start = time.monotonic()
    told = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    assert status == 0, told
    return int(told.split()[0]), seconds, usage.ru_maxrss / 1024


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        store = str(folder / "store")
        print(f"{'shape':8} {'actions':>8} {'seconds':>8} {'us/action':>10} {'MiB':>6}")
        for shape in (late, early, mapped):
            for n in (1_000, 10_000, 100_000):
                workflow = folder / "w.yaml"
                plugin = CHECKOUT / "tests/plugin"
                workflow.write_text(f"restage: 1\nplugins: [{{ path: {plugin} }}]\n{shape(n)}")
                measure(binary, workflow, store)  # builds the plugin the first time, and warms the page cache
                actions, seconds, memory = min((measure(binary, workflow, store) for _ in range(3)), key=lambda m: m[1])
                print(f"{shape.__name__:8} {actions:8} {seconds:8.2f} {seconds / actions * 1e6:10.1f} {memory:6.0f}")


main()
