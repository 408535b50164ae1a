#!/usr/bin/env python3
"""How long a training step takes beside PyTorch's, on the same networks and sizes, with one thread and with two.

    just bench-train PYTHON             # builds what it needs, then:
    tests/bench/train.py target/release/examples/steps PYTHON [mlp] [cnn] [resnet] [vit]

PYTHON has torch. A step is forward, backward and AdamW; each figure is the smallest of ten, the best of three processes that take
turns. Memory is the largest resident set; of PyTorch's process less what it had after its imports. `GFLOP` counts products and
sums of the products with weights in a step (not those of tokens by tokens), three times those of the forward pass; `GB` what a
step must move if every layer reads its input and writes its output, and reads both gradients and its input and writes one on the
way back, and if AdamW reads four values of a weight and writes three. Beside them stands what a product of 1024 x 1024 matrices
and a copy (134 MB read, 134 MB written) reach in PyTorch with as many threads, and the time of a step at those rates, one after the other.
"""
import json
import os
import subprocess
import sys

TORCH = r'''
import json, resource, sys, time, torch, torch.nn as nn, torch.nn.functional as F
net, threads, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(threads); torch.manual_seed(0); torch.set_default_device(device)
wait = torch.cuda.synchronize if device == "cuda" else lambda: None
before = int(open("/proc/self/statm").read().split()[1]) * 4096
class Block(nn.Module):
    def __init__(self, i, o, s):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(i, o, 3, s, 1, bias=False), nn.GroupNorm(8, o), nn.ReLU(), nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.GroupNorm(8, o))
        self.b = nn.Sequential(nn.Conv2d(i, o, 1, s, bias=False), nn.GroupNorm(8, o)) if s > 1 or i != o else nn.Identity()
    def forward(self, x): return F.relu(self.a(x) + self.b(x))
class Transformer(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.a, self.b, self.qkv, self.proj = nn.LayerNorm(w), nn.LayerNorm(w), nn.Linear(w, 3 * w), nn.Linear(w, w)
        self.mlp = nn.Sequential(nn.Linear(w, 4 * w), nn.GELU(), nn.Linear(4 * w, w))
    def forward(self, x):
        q, k, v = self.qkv(self.a(x)).unflatten(2, (3, 3, 64)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.b(x))
class Tokens(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.proj, self.places = nn.Conv2d(3, w, 8, 8), torch.rand(64, w)
    def forward(self, x): return self.proj(x).flatten(2).transpose(1, 2) + self.places
class Mean(nn.Module):
    def forward(self, x): return x.mean(1)
conv = lambda i, o: [nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.GroupNorm(8, o), nn.ReLU()]
tail = lambda c: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 64)]
def nt_xent(a, b, t=0.2):
    z = F.normalize(torch.cat([a, b])); s = z @ z.T / t; s.fill_diagonal_(float("-inf")); n = len(a)
    return F.cross_entropy(s, (torch.arange(2 * n) + n) % (2 * n))
if net == "mlp":
    model = nn.Sequential(nn.Linear(2000, 512), nn.LayerNorm(512), nn.GELU(), nn.Linear(512, 128), nn.Linear(128, 2000))
    x, y = torch.rand(256, 2000), torch.rand(256, 2000); mask = (torch.arange(256 * 2000) % 2 == 0).reshape(256, 2000)
    loss = lambda: ((model(x) - y)[mask] ** 2).mean()
else:
    body = conv(3, 16) + conv(16, 32) + conv(32, 64) + tail(64) if net == "cnn" else \
        [Tokens(192), *[Transformer(192) for _ in range(6)], nn.LayerNorm(192), Mean(), nn.Linear(192, 64)] if net == "vit" else \
        conv(3, 32) + [Block(32, 32, 1), Block(32, 64, 2), Block(64, 128, 2), Block(128, 256, 2)] + tail(256)
    model = nn.Sequential(*body)
    views = [torch.rand(64, 3, 64, 64) for _ in range(2)]
    loss = lambda: nt_xent(*[model(view) for view in views])
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
def step():
    optimizer.zero_grad(); value = loss(); value.backward(); optimizer.step()
repeats = 10 if device == "cpu" else 100
for _ in range(repeats // 10): step()
wait(); times = []
for _ in range(repeats):
    began = time.perf_counter(); step(); wait(); times.append(time.perf_counter() - began)
flops = moved = 0
def count(module, inputs, output):
    global flops, moved
    if isinstance(module, nn.Conv2d): flops += 2 * output.numel() * module.in_channels * module.kernel_size[0] ** 2
    if isinstance(module, nn.Linear): flops += 2 * output.numel() * module.in_features
    if not list(module.children()): moved += 4 * (3 * inputs[0].numel() + 2 * output.numel())
hooks = [m.register_forward_hook(count) for m in model.modules()]
loss()
for hook in hooks: hook.remove()
moved += 4 * 7 * sum(p.numel() for p in model.parameters())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
def fastest(run): return min((began := time.perf_counter(), run(), wait(), time.perf_counter() - began)[3] for _ in range(8))
a, b = torch.rand(1024, 1024), torch.rand(1024, 1024); c, d = torch.rand(2**25), torch.rand(2**25)
rate, stream = 2 * 1024**3 / fastest(lambda: a @ b) / 1e9, 2 * 2**27 / fastest(lambda: c.copy_(d)) / 1e9
print(json.dumps({"seconds": sorted(times)[0 if device == "cpu" else repeats // 2], "memory": peak, "gflop": 3 * flops / 1e9, "gb": moved / 1e9, "rate": rate, "stream": stream}))
'''


def told(command, threads):
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    run = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(run.stdout.splitlines()[-1])


def fastest(command, threads):
    return min((told(command, threads) for _ in range(2)), key=lambda run: run["seconds"])


def best(runs, what="seconds", of=min):
    return of(run[what] for run in runs)


def on_gpu(steps, python):
    """Both on the first GPU: PyTorch eager as it is, and with its convolutions in single precision, as all of ours is."""
    for net in ["mlp", "cnn", "resnet", "vit"]:
        ours = fastest([steps, net, 100], 16)
        theirs = fastest([python, "-W", "ignore", "-c", TORCH, net, 16, "cuda"], 16)
        exact = "import torch; torch.backends.cudnn.allow_tf32 = False\n"
        single = told([python, "-W", "ignore", "-c", exact + TORCH, net, 16, "cuda"], 16)
        print(
            f"{net} on {ours['device']}: {1000 * ours['seconds']:.2f} ms, PyTorch {1000 * theirs['seconds']:.2f} ms "
            f"({1000 * single['seconds']:.2f} without TF32): {theirs['seconds'] / ours['seconds']:.2f}x; ten losses within {ours['far']:.1e} of the CPU's",
            flush=True,
        )


def main():
    steps, python = sys.argv[1:3]
    if "--cuda" in sys.argv:
        return on_gpu(steps, python)
    for net in sys.argv[3:] or ["mlp", "cnn", "resnet", "vit"]:
        for threads in [1, 2]:
            theirs = [python, "-W", "ignore", "-c", TORCH, net, threads, "cpu"]
            turns = [(told([steps, net], threads), told(theirs, threads)) for _ in range(3)]
            ours, theirs = zip(*turns)
            step, rate, stream = best(ours), best(theirs, "rate", max), best(theirs, "stream", max)
            gflop, gb = theirs[0]["gflop"], theirs[0]["gb"]
            print(
                f"{net}, {threads} thread{'s' * (threads > 1)}: {1000 * step:.1f} ms, PyTorch {1000 * best(theirs):.1f} ms: "
                f"{best(theirs) / step:.2f}x; memory {best(ours, 'memory') / 2**20:.0f} MiB, {best(theirs, 'memory') / 2**20:.0f} MiB; "
                f"{gflop:.1f} GFLOP at {gflop / step:.0f} GFLOP/s of {rate:.0f}, {gb:.2f} GB of {stream:.1f} GB/s: "
                f"{1000 * (gflop / rate + gb / stream):.0f} ms at those rates",
                flush=True,
            )


main()
