#!/usr/bin/env python3
"""How large a large report is, and how long a browser takes to draw it: twelve sections of 4,000 spots with a picture each, twenty
regions, every spot held out once, and a number of variants (a second argument; by default ten).

    cargo build --release && tests/bench/report.py target/release/restage

The time is that of headless Chromium from its start to the drawn page, less that of an empty page.
"""
import array
import json
import math
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
SECTIONS, ROWS, COLUMNS, REGIONS, DIMS = 12, 63, 64, 20, 20


def npy(path, code, shape, values):
    head = f"{{'descr': '{code}', 'fortran_order': False, 'shape': {shape}, }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    kind = {"<f4": "f", "<i4": "i"}[code]
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + array.array(kind, values).tobytes())


def section(folder, draw):
    """Regions are patches of tissue; features tell them apart badly, so that probabilities are of many regions."""
    spots = [(72 + 144 * (column + row % 2 / 2), 72 + 125 * row) for row in range(ROWS) for column in range(COLUMNS)]
    seeds = [(draw.uniform(0, 9_300), draw.uniform(0, 7_900)) for _ in range(3 * REGIONS)]
    regions = [min(range(len(seeds)), key=lambda k: math.dist(seeds[k], spot)) % REGIONS for spot in spots]
    features = [draw.gauss(2.5 if dim == region else 0, 1) for region in regions for dim in range(DIMS)]
    folder.mkdir()
    npy(folder / "features.npy", "<f4", (len(spots), DIMS), features)
    npy(folder / "coordinates.npy", "<f4", (len(spots), 2), [value for spot in spots for value in spot])
    npy(folder / "labels.npy", "<i4", (len(spots),), regions)


def workflow(folder, variants):
    names = [f"P{k}" for k in range(1, SECTIONS + 1)]
    draw = random.Random(0)
    for name in names:
        section(folder / name, draw)
    values = ", ".join(f"{0.01 * 1.5 ** k:.4f}" for k in range(variants - 1))
    text = f"""restage: 1
name: large
plugins: [{{ path: {CHECKOUT}/stages/visium }}, {{ path: {CHECKOUT}/stages/classify }}]
stages:
  picture:
    uses: visium/simulate
    foreach: {{ section: {names} }}
    with: {{ section: "${{foreach.section}}", rows: {ROWS}, cols: {COLUMNS}, genes: 20, counts: 20 }}
  section:
    uses: visium/load-arrays
    foreach: {{ section: {names} }}
    with:
      features: "${{foreach.section}}/features.npy"
      coordinates: "${{foreach.section}}/coordinates.npy"
      labels: "${{foreach.section}}/labels.npy"
      section: "${{foreach.section}}"
  all: {{ uses: visium/concat, in: {{ tables: section.table }}, gather: section }}
  split:
    uses: classify/split
    foreach: {{ fold: ["1", "2"] }}
    in: {{ table: all, labels: section.labels }}
    gather: section
    with: {{ by: random, folds: 2, test: "${{foreach.fold}}" }}
  components: {{ uses: visium/pca, in: {{ table: all }}, with: {{ n_components: 15 }} }}
  regions: {{ uses: classify/probe, in: {{ features: components, train: split.train }}, with: {{ c: 1, tolerance: 0.001 }} }}
  evaluate:
    uses: classify/evaluate
    in: {{ predictions: regions.predictions, test: split.test }}
    gather: fold
sweep:
  metric: evaluate.macro_f1
  grid: {{ regions.c: [1, {values}] }}
"""
    (folder / "large.yaml").write_text(text)
    return str(folder / "large.yaml")


def chromium(page, profile):
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]
    command = [os.environ.get("RESTAGE_CHROMIUM", "/usr/bin/chromium"), *options, f"--user-data-dir={profile}", page]
    begin = time.monotonic()
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return time.monotonic() - begin, told


def main():
    restage, variants = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        environment = {**os.environ, "RESTAGE_CACHE": str(folder / "cache")}
        run = lambda *arguments: subprocess.run([restage, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
        file, page = workflow(folder, variants), folder / "report.html"
        run("run", file, "--quiet")
        begin = time.monotonic()
        run("report", file, "-o", str(page))
        told = {"variants": variants, "megabytes": page.stat().st_size / 1e6, "seconds to write": time.monotonic() - begin}
        if len(sys.argv) > 3:
            pathlib.Path(sys.argv[3]).write_bytes(page.read_bytes())
        chromium("about:blank", folder / "profile")
        empty = min(chromium("about:blank", folder / "profile")[0] for _ in range(3))
        drawn = [chromium(f"file://{page}", folder / "profile") for _ in range(3)]
        assert all('data-drawn="true"' in text and 'data-errors="0"' in text for _, text in drawn), "it was not drawn"
        told["seconds to draw"] = min(seconds for seconds, _ in drawn) - empty
        print(json.dumps(told))


main()
