#!/usr/bin/env python3
"""What an action asks of the file system that its store lies on: system calls on paths of the store, counted by strace.

    cargo build --release
    tests/bench/operations.py target/release/restage

Slopes between 200 and 600 actions of `tests/course`, so that what a run costs by itself is not in them; each artifact has two
files in two folders, and then ten more. The last line is of one run that waits for what another one computes.
"""
import collections
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
KINDS = {
    "look": "stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat",
    "change": "mkdir mkdirat link linkat rename renameat renameat2 unlink unlinkat rmdir chmod fchmod fchmodat utimensat",
    "flush": "fsync fdatasync syncfs",
    "list": "getdents64",
}
KIND = {call: kind for kind, calls in KINDS.items() for call in calls.split()}
WATCHED = "trace=%file,fsync,fdatasync,syncfs,fchmod,utimensat,getdents64"
COLUMNS = ["look", "open", "list", "change", "flush"]
STAGE = "{{ uses: course/text, foreach: {{ name: [{names}] }}, with: {{ text: \"${{foreach.name}}\", wait: 0, files: {files} }} }}"


def trace(words, log):
    return ["strace", "-f", "-y", "-qq", "-ttt", "-s", "1", "-o", str(log), "-e", WATCHED, *words]


def count(log, store, begin=0.0, end=float("inf")):
    counts = collections.Counter()
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"\d+ +([\d.]+) (\w+)", line)
        # Journals are written whatever is computed.
        if not match or str(store) not in line or "/runs/" in line or not begin <= float(match[1]) < end:
            continue
        call = match[2]
        if call in ("open", "openat"):
            counts["change" if "O_CREAT" in line else "open"] += 1
        elif call in KIND:
            # A list is read until nothing is left, in two calls or more.
            counts[KIND[call]] += 0.5 if call == "getdents64" else 1
    return counts


class Place:
    def __init__(self, binary, folder):
        self.binary, self.folder, self.store, self.log = binary, folder, folder / "store", folder / "log"
        self.environment = dict(os.environ, RESTAGE_CACHE=str(self.store), CARGO_TARGET_DIR=str(folder / "target"))

    def workflow(self, stage):
        shutil.rmtree(self.store, ignore_errors=True)
        (self.folder / "w.yaml").write_text(f"restage: 1\nplugins: [{{ path: plugin }}]\nstages:\n  text: {stage}\n")
        self.run([self.binary, "plan", "w.yaml"])

    def run(self, words):
        subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, check=True)

    def start(self, words):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(words, cwd=self.folder, env=self.environment, **quiet)

    def counted(self, command):
        self.run(trace([self.binary, command, "w.yaml"], self.log))
        return count(self.log, self.store)


def main():
    with tempfile.TemporaryDirectory() as folder:
        place = Place(str(pathlib.Path(sys.argv[1]).resolve()), pathlib.Path(folder).resolve())
        shutil.copytree(CHECKOUT / "tests/course", place.folder, dirs_exist_ok=True)
        subprocess.run(["cargo", "generate-lockfile", "--quiet"], cwd=place.folder, check=True)
        print("per action\t" + "\t".join(COLUMNS))
        for files in (0, 10):
            found = {}
            for actions in (200, 600):
                place.workflow(STAGE.format(names=", ".join(f"n{i}" for i in range(actions)), files=files))
                found[actions] = [place.counted(command) for command in ("plan", "run", "run")]
            for index, what in enumerate(("dry plan", "cold run", "warm run")):
                slopes = ((found[600][index][kind] - found[200][index][kind]) / 400 for kind in COLUMNS)
                print(f"{what}, {2 + files} files\t" + "\t".join(f"{slope:.1f}" for slope in slopes))
        place.workflow("{ uses: course/text, with: { text: a, wait: 30000, files: 0 } }")
        first = place.start([place.binary, "run", "w.yaml"])
        time.sleep(1.5)
        second = place.start(trace([place.binary, "run", "w.yaml"], place.log))
        time.sleep(10)
        begin = time.time()
        time.sleep(10)
        end = time.time()
        for process in (second, first):
            process.terminate()
            process.wait()
        counts = count(place.log, place.store, begin, end)
        print("a second of waiting\t" + "\t".join(f"{counts[kind] / 10:.1f}" for kind in COLUMNS))


main()
