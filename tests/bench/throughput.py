#!/usr/bin/env python3
"""How much an engine costs per action: 1,000 actions that do nothing but write a small file, cold and warm (nothing to do),
by restage, ninja, make and Snakemake on the same graph, in one run.

    cargo build --release
    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install ninja snakemake
    tests/bench/throughput.py target/release/restage /tmp/peers/bin [actions]

restage's actions go through its plugin hosts, and their results into the store, hashed and flushed; the peers' are a shell
each, and flush nothing. Each is timed three times, cold in a folder of its own, and the best counts. What is not installed
is left out, and said.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
ROUNDS = 3


def restage(binary, folder, names):
    values = ", ".join(names)
    (folder / "w.yaml").write_text(
        f"restage: 1\nplugins: [{{ path: {CHECKOUT}/tests/plugin }}]\nstages:\n"
        f'  no: {{ uses: test/write, foreach: {{ name: [{values}] }}, with: {{ text: "${{foreach.name}}" }} }}\n'
    )
    environment = dict(os.environ, RESTAGE_CACHE=str(folder / "store"))
    # Building the plugin is not what is timed.
    subprocess.run([binary, "plan", "w.yaml"], cwd=folder, env=environment, capture_output=True, check=True)
    return [binary, "run", "w.yaml"], environment


def ninja(program, folder, names):
    builds = "".join(f"build out/{name}: write\n  text = {name}\n" for name in names)
    (folder / "build.ninja").write_text(f"rule write\n  command = echo $text > $out\n{builds}")
    return [program, "-j", str(os.cpu_count()), "--quiet"], None


def make(program, folder, names):
    (folder / "out").mkdir()
    outputs = " ".join(f"out/{name}" for name in names)
    (folder / "Makefile").write_text(f"all: {outputs}\nout/%:\n\t@echo $* > $@\n")
    return [program, "-j", str(os.cpu_count())], None


def snakemake(program, folder, names):
    (folder / "Snakefile").write_text(
        f"names = {names!r}\n"
        'rule all:\n    input: expand("out/{name}", name=names)\n'
        'rule write:\n    output: "out/{name}"\n    shell: "echo {wildcards.name} > {output}"\n'
    )
    return [program, "--cores", str(os.cpu_count()), "--quiet", "all"], None


def timed(command, folder, environment):
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    return time.perf_counter() - began


def measured(prepare, program, names, rounds):
    cold, warm = [], []
    for _ in range(rounds):
        # Kept until the end: removing one while the next is timed would be timed as well.
        folder = pathlib.Path(tempfile.mkdtemp(dir=TOP))
        command, environment = prepare(program, folder, names)
        cold.append(timed(command, folder, environment))
        warm += [timed(command, folder, environment) for _ in range(ROUNDS)]
    return min(cold), min(warm)


def main():
    binary, peers = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    names = [f"v{k}" for k in range(int(sys.argv[3]) if len(sys.argv) > 3 else 1000)]
    programs = [("restage", restage, str(binary), ROUNDS)]
    for name, prepare, rounds in [("ninja", ninja, ROUNDS), ("make", make, ROUNDS), ("snakemake", snakemake, 1)]:
        program = shutil.which(name, path=f"{peers}:{os.environ['PATH']}")
        if program:
            programs.append((name, prepare, program, rounds))
        else:
            print(f"left out, as it is not installed: {name}")
    print(f"{len(names)} actions, {os.cpu_count()} cores\n{'':10} {'cold':>12} {'':>9} {'warm':>12}")
    ours = None
    for name, prepare, program, rounds in programs:
        cold, warm = measured(prepare, program, names, rounds)
        ours = ours or (cold, warm)
        each = 1e6 / len(names)
        print(
            f"{name:10} {cold * each:9.0f} us {cold / ours[0]:8.2f}x {warm * each:9.1f} us {warm / ours[1]:8.2f}x"
        )


TOP = tempfile.mkdtemp(prefix="throughput-", dir=os.environ.get("BENCH_FOLDER"))
try:
    main()
finally:
    shutil.rmtree(TOP)
