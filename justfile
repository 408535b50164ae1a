# What CI runs, one recipe each; `just` alone lists them.

default:
    @just --list

# Build everything and run the quickstart.
quickstart:
    cargo run --release -- run workflows/quickstart.yaml

# All tests.
test:
    cargo test --release --workspace

# The schema that editors read: written again after a change of a stage's params or their docs.
schema:
    cargo run --release -- schema workflows/*.yaml > workflows/restage.schema.json.new
    mv workflows/restage.schema.json.new workflows/restage.schema.json

# Format and lints.
lint:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets --locked -- -D warnings

# The API's documentation, without a warning.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --locked

# Licences, advisories, sources of all dependencies (needs `cargo install cargo-deny`).
deny:
    cargo deny check

# Everything that CI checks.
ci:
    .ci/run

# Counts to components, image to stained patches: beside scanpy and NumPy (PYTHON has scanpy and Pillow).
bench-preprocess PYTHON:
    cargo build --release
    cargo build --release -p restage-visium --example preprocess
    tests/bench/preprocess.py target/release/restage {{PYTHON}}

# A training step of each encoder beside PyTorch's (PYTHON has torch).
bench-train PYTHON:
    cargo build --release -p restage-ssl-core --example steps
    tests/bench/train.py target/release/examples/steps {{PYTHON}}

# The same on an NVIDIA GPU (PYTHON has a torch for it).
bench-train-cuda PYTHON:
    cargo build --release -p restage-ssl-cuda --example steps_cuda
    tests/bench/train.py target/release/examples/steps_cuda {{PYTHON}} --cuda
