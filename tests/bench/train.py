#!/usr/bin/env python3
"""How long a training step takes beside PyTorch's, on the same networks and sizes, with one thread and with two.

    just bench-train PYTHON             # builds what it needs, then:
    tests/bench/train.py target/release/examples/steps PYTHON [mlp] [cnn] [resnet] [vit]

PYTHON has torch. A step is forward, backward and AdamW; each figure is the median of ten, the better of two processes. Memory is
the largest resident set; of PyTorch's process less what it had after its imports. `GFLOP` counts products and sums of the
products with weights in a step (not those of tokens by tokens), three times those of the forward pass; beside them stands what a plain product of 1024 x 1024
matrices in PyTorch reaches with as many threads.
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
flops = 0
def count(module, inputs, output):
    global flops
    if isinstance(module, nn.Conv2d): flops += 2 * output.numel() * module.in_channels * module.kernel_size[0] ** 2
    if isinstance(module, nn.Linear): flops += 2 * output.numel() * module.in_features
hooks = [m.register_forward_hook(count) for m in model.modules()]
loss()
for hook in hooks: hook.remove()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
a, b = torch.rand(1024, 1024), torch.rand(1024, 1024); a @ b; rates = []
for _ in range(5):
    began = time.perf_counter(); a @ b; wait(); rates.append(2 * 1024**3 / (time.perf_counter() - began) / 1e9)
print(json.dumps({"seconds": sorted(times)[repeats // 2], "memory": peak, "gflop": 3 * flops / 1e9, "rate": max(rates)}))
'''


def told(command, threads):
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    run = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(run.stdout.splitlines()[-1])


def best(command, threads):
    runs = [told(command, threads) for _ in range(2)]
    return min(runs, key=lambda run: run["seconds"])


def on_gpu(steps, python):
    """Both on the first GPU: PyTorch eager as it is, and with its convolutions in single precision, as all of ours is."""
    for net in ["mlp", "cnn", "resnet", "vit"]:
        ours = min((told([steps, net, 100], 16) for _ in range(2)), key=lambda run: run["seconds"])
        theirs = best([python, "-W", "ignore", "-c", TORCH, net, 16, "cuda"], 16)
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
            ours = best([steps, net], threads)
            theirs = best([python, "-W", "ignore", "-c", TORCH, net, threads, "cpu"], threads)
            rate = theirs["gflop"] / ours["seconds"]
            print(
                f"{net}, {threads} thread{'s' * (threads > 1)}: {1000 * ours['seconds']:.1f} ms, PyTorch {1000 * theirs['seconds']:.1f} ms: "
                f"{theirs['seconds'] / ours['seconds']:.2f}x; memory {ours['memory'] / 2**20:.0f} MiB, {theirs['memory'] / 2**20:.0f} MiB; "
                f"{theirs['gflop']:.1f} GFLOP a step, {rate:.0f} GFLOP/s of {theirs['rate']:.0f}",
                flush=True,
            )


main()
