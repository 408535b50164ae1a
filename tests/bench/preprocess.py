#!/usr/bin/env python3
"""How long and how much memory it takes from the counts on disk to principal components (read, qc, normalise, 2,000 variable
genes, 50 components), and from an image to stain-normalised patches: restage and scanpy or NumPy on the same sections.

    just bench-preprocess PYTHON        # builds what it needs, then:
    tests/bench/preprocess.py target/release/restage PYTHON [data] [spots]

PYTHON has scanpy; `data` holds real sections (default ../shared/data). One more section is made by drawing spots of the
largest with replacement, 50,000 x 20,000. restage is timed twice. `in memory`: the same steps one after another in a fresh
process, nothing kept, as scanpy does it; memory as the engine asks for its plugins, in huge pages (NumPy does so for itself).
`as a run`: as its users meet it, the whole command in an empty store, from reading the workflow to hashed results of every step
on disk. Python is timed without its imports, within one process, twice: `first` with what a process does once (numba loads what
it compiled and cached on disk), `again` without. What scanpy imports only when it is called (74 modules, about 0.2 s) is seen in
a process before, and imported at the head of those that are timed. Memory is the largest resident set: of the process in memory,
of restage's own processes together in a run, of Python's process less what it had after its imports.
Every figure is the smallest of three.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
# What the engine gives every plugin's process.
MEMORY = {"hugetlb": 1, "mmap_threshold": 32 << 20, "trim_threshold": 8 << 20}
HOST = dict(os.environ, GLIBC_TUNABLES=":".join(f"glibc.malloc.{name}={value}" for name, value in MEMORY.items()))

SCANPY = r'''
import importlib, json, resource, sys, time, warnings
warnings.filterwarnings("ignore")
import scanpy as sc, anndata, scipy.sparse, sklearn.decomposition, numba
for name in json.loads(sys.argv[2]):
    importlib.import_module(name)
imported = set(sys.modules)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = resident()
times = []
for _ in range(2):
    began = time.perf_counter()
    path = sys.argv[1]
    a = sc.read_10x_h5(path) if path.endswith(".h5") else sc.read_10x_mtx(path)
    a.var_names_make_unique()
    sc.pp.filter_cells(a, min_counts=10)
    sc.pp.filter_genes(a, min_cells=3)
    sc.pp.normalize_total(a, target_sum=1e4)
    sc.pp.log1p(a)
    sc.pp.highly_variable_genes(a, n_top_genes=2000, flavor="seurat")
    a = a[:, a.var.highly_variable].copy()
    sc.pp.pca(a, n_comps=50, svd_solver="arpack")
    times.append(time.perf_counter() - began)
    if len(times) == 1:
        memory = peak() - before
late = sorted(set(sys.modules) - imported)
print(json.dumps({"times": times, "memory": memory, "import": before, "late": late}))
'''

NUMPY = r'''
import json, resource, sys, time
import numpy as np, pandas as pd
from PIL import Image
Image.MAX_IMAGE_PIXELS = None
outs, side = sys.argv[1], int(sys.argv[2])
def macenko(rgb, Io=240, alpha=1, beta=.15):
    """torchstain's NumPy backend, on all tissue of the section together."""
    reference, strengths = np.array([[.5626, .2159], [.7201, .8012], [.4062, .5581]]), np.array([1.9705, 1.0308])
    shape = rgb.shape
    od = -np.log((rgb.reshape(-1, 3).astype(float) + 1) / Io)
    tissue = od[~np.any(od < beta, axis=1)]
    _, vectors = np.linalg.eigh(np.cov(tissue.T))
    plane = tissue @ vectors[:, 1:3]
    phi = np.arctan2(plane[:, 1], plane[:, 0])
    low, high = (vectors[:, 1:3] @ [np.cos(a), np.sin(a)] for a in np.percentile(phi, [alpha, 100 - alpha]))
    stains = np.array([low, high] if low[0] > high[0] else [high, low]).T
    c = np.linalg.lstsq(stains, od.T, rcond=None)[0]
    c *= (strengths / np.percentile(c, 99, axis=1))[:, None]
    new = Io * np.exp(-reference @ c)
    new[new > 255] = 254
    return new.T.reshape(shape).astype(np.uint8)
times = []
for _ in range(2):
    began = time.perf_counter()
    image = np.asarray(Image.open(f"{outs}/spatial/tissue_hires_image.png").convert("RGB"))
    scale = json.load(open(f"{outs}/spatial/scalefactors_json.json"))["tissue_hires_scalef"]
    spots = pd.read_csv(f"{outs}/spatial/tissue_positions.csv")
    padded = np.pad(image, ((side, side), (side, side), (0, 0)), mode="reflect")
    xs = np.floor(spots.pxl_col_in_fullres * scale).astype(int) + side - side // 2
    ys = np.floor(spots.pxl_row_in_fullres * scale).astype(int) + side - side // 2
    patches = np.stack([padded[y:y + side, x:x + side] for x, y in zip(xs, ys)])
    cut = time.perf_counter()
    normalised = macenko(patches)
    times.append((cut - began, time.perf_counter() - cut))
print(json.dumps({"times": times, "patches": patches.shape}))
'''


def enlarged(python, source, target, spots):
    """`spots` of the source's spots with replacement, its genes and as many more as make 20,000."""
    script = f'''
import h5py, numpy as np, scanpy as sc, scipy.sparse as sp
a = sc.read_10x_mtx({str(source)!r})
rng = np.random.default_rng(0)
x = sp.csr_matrix(a.X)[rng.integers(0, a.n_obs, {spots})]
x = sp.hstack([x, x[:, rng.integers(0, a.n_vars, 20000 - a.n_vars)]], format="csr").astype("int32")
x.data = np.maximum(rng.poisson(x.data), 1).astype("int32")
x.sort_indices()
names = [f"gene_{{i}}" for i in range(20000)]
with h5py.File({str(target / "filtered_feature_bc_matrix.h5")!r}, "w") as f:
    m = f.create_group("matrix")
    for name, values in [("data", x.data), ("indices", x.indices.astype("int64")), ("indptr", x.indptr.astype("int64"))]:
        m.create_dataset(name, data=values, chunks=(min(len(values), 80000),), compression="gzip", compression_opts=4)
    m["shape"] = np.array([20000, {spots}], dtype="int32")
    m["barcodes"] = np.array([f"b{{i:06d}}-1" for i in range({spots})], dtype="S")
    g = m.create_group("features")
    g["name"] = g["id"] = np.array(names, dtype="S")
    g["feature_type"] = np.array(["Gene Expression"] * 20000, dtype="S")
    g["genome"] = np.array(["none"] * 20000, dtype="S")
side = int(np.ceil(np.sqrt({spots})))
with open({str(target / "spatial/tissue_positions.csv")!r}, "w") as f:
    f.write("barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\\n")
    for i in range({spots}):
        f.write(f"b{{i:06d}}-1,1,{{i // side}},{{i % side}},{{i // side * 10}},{{i % side * 10}}\\n")
print(x.nnz)
'''
    (target / "spatial").mkdir(parents=True)
    (target / "spatial/scalefactors_json.json").write_text('{"spot_diameter_fullres": 8.0}')
    run = subprocess.run([python, "-W", "ignore", "-c", script], check=True, stdout=subprocess.PIPE, text=True)
    return int(run.stdout)


def resident(group):
    """Memory of all processes of a process group, and of those that they started in groups of their own."""
    parents, sizes = {}, {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                fields = open(f"/proc/{entry.name}/stat").read().rsplit(")", 1)[1].split()
                sizes[int(entry.name)] = int(open(f"/proc/{entry.name}/statm").read().split()[1]) * 4096
                parents[int(entry.name)] = int(fields[1])
            except OSError:
                pass
    total = 0
    for process in sizes:
        ancestor = process
        while ancestor in parents and ancestor != group:
            ancestor = parents[ancestor]
        total += sizes[process] if ancestor == group else 0
    return total


def restage(binary, workflow):
    """Seconds and bytes of a run in an empty store; building plugins is not what is timed."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "w.yaml").write_text(f"restage: 1\nplugins: [{{ path: {CHECKOUT}/stages/visium }}]\nstages:\n{workflow}")
        environment = dict(os.environ, RESTAGE_CACHE=str(folder / "store"))
        subprocess.run([binary, "plan", "w.yaml"], cwd=folder, env=environment, capture_output=True, check=True)
        log = open(folder / "log", "w")
        began = time.perf_counter()
        process = subprocess.Popen([binary, "run", "w.yaml"], cwd=folder, env=environment, stdout=log, stderr=log)
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        if process.returncode:
            sys.exit((folder / "log").read_text())
        return seconds, peak


def expression(binary, python, name, outs, counts):
    workflow = (
        f"  section: {{ uses: visium/load, with: {{ path: {outs}, section: S }} }}\n"
        "  clean: { uses: visium/qc, in: { table: section.table } }\n"
        "  genes: { uses: visium/normalize, in: { table: clean.table } }\n"
        "  components: { uses: visium/pca, in: { table: genes } }\n"
    )
    late = json.dumps(told([python, "-c", SCANPY, counts, "[]"])["late"])
    ours, runs, theirs = [], [], []
    # In turns, so that what else the machine does meets all of them.
    for _ in range(3):
        ours.append(told([pathlib.Path(binary).parent / "examples/preprocess", counts], HOST))
        runs.append(restage(binary, workflow))
        theirs.append(told([python, "-c", SCANPY, counts, late]))
    seconds, own_again, memory = (min(run[name] for run in ours) for name in ("seconds", "again", "memory"))
    if any(python["late"] for python in theirs):
        sys.exit(f"scanpy imports within what is timed: {theirs[0]['late']}")
    run, run_memory = (min(values) for values in zip(*runs))
    first, again = (min(times) for times in zip(*(python["times"] for python in theirs)))
    their_memory, imports = (min(python[name] for python in theirs) for name in ("memory", "import"))
    mib = lambda size: f"{size / 2**20:.0f} MiB"
    print(
        f"{name}\n"
        f"    scanpy     first {first:.2f} s, again {again:.2f} s; {mib(their_memory)} beyond {mib(imports)} of imports\n"
        f"    in memory  first {seconds:.3f} s, again {own_again:.3f} s, {mib(memory)}: {first / seconds:.1f}x first, "
        f"{again / own_again:.1f}x again, {again / seconds:.1f}x its first beside scanpy's second, "
        f"memory {memory / their_memory:.2f}; {steps(ours)}\n"
        f"    as a run   {run:.2f} s, {mib(run_memory)}: {first / run:.1f}x first, {again / run:.1f}x again, "
        f"memory {run_memory / their_memory:.2f}",
        flush=True,
    )


def told(command, environment=None):
    """What a program tells in its last line, in JSON."""
    command = [str(part) for part in command]
    run = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def steps(runs):
    """Seconds of each step of the fastest run."""
    fastest = min(runs, key=lambda run: run["seconds"])
    return ", ".join(f"{step} {seconds:.3f}" for step, seconds in fastest["steps"].items())


def images(binary, python, name, outs, side):
    load = f"  section: {{ uses: visium/load, with: {{ path: {outs}, section: S }} }}\n"
    cut = f"  patches: {{ uses: visium/patches, in: {{ images: section.image, table: section.table }}, with: {{ size: {side} }} }}\n"
    stain = "  stained: { uses: visium/stain-normalize, in: { patches: patches.patches, table: section.table } }\n"
    base, _ = min(restage(binary, load) for _ in range(3))
    both, peak = min(restage(binary, load + cut + stain) for _ in range(3))
    command = [pathlib.Path(binary).parent / "examples/preprocess", outs, "--patches", side]
    ours = [told(command, HOST) for _ in range(3)]
    theirs = [told([python, "-c", NUMPY, outs, side]) for _ in range(2)]
    numpy = min(cut + stain for run in theirs for cut, stain in run["times"])
    # The faster call of each.
    seconds = min(run[call] for run in ours for call in ("seconds", "again"))
    print(
        f"{name}: patches {theirs[0]['patches']}\n"
        f"    NumPy      {numpy:.2f} s\n"
        f"    in memory  {seconds:.3f} s: {numpy / seconds:.1f}x; {steps(ours)}\n"
        f"    as a run   {both:.2f} s, {base:.2f} s of them loading, {peak / 2**20:.0f} MiB: {numpy / both:.1f}x",
        flush=True,
    )


def main():
    binary, python = (shutil.which(path) or sys.exit(f"{path} is not a program") for path in sys.argv[1:3])
    binary = os.path.abspath(binary)
    data = pathlib.Path(sys.argv[3] if len(sys.argv) > 3 else CHECKOUT / "../shared/data").resolve()
    spots = int(sys.argv[4]) if len(sys.argv) > 4 else 50_000
    for section in ["A1", "H1"]:
        outs = data / "her2st" / section
        expression(binary, python, f"HER2ST {section}", outs, outs / "filtered_feature_bc_matrix.h5")
    embryo = data / "mouse_embryo_cytassist/outs"
    expression(binary, python, "mouse embryo", embryo, embryo / "filtered_feature_bc_matrix")
    images(binary, python, "HER2ST A1, 32 px", data / "her2st/A1", 32)
    images(binary, python, "HER2ST A1, 224 px", data / "her2st/A1", 224)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        stored = enlarged(python, embryo / "filtered_feature_bc_matrix", folder, spots)
        name = f"{spots:,} x 20,000 ({stored / 1e6:.1f} M)"
        expression(binary, python, name, folder, folder / "filtered_feature_bc_matrix.h5")


main()
