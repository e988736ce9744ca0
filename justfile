# `just` lists these; each is one command that can also be typed.

default:
    @just --list

# Build everything; the kernels too where nvcc is found.
build:
    cargo build --release --workspace --all-targets

# Install nvcc 13.0 and libclang from PyPI into .toolchain/.
toolchain:
    scripts/install-cuda-toolchain.sh

# All tests. On a machine with a GPU: HALFBYTE_REQUIRE_CUDA=1 just test
test *args:
    cargo test --release {{args}}

# Make src/cuda/params.rs anew from kernels/params.h.
bless:
    HALFBYTE_BLESS=1 HALFBYTE_REQUIRE_BINDGEN=1 cargo test --release --test bindings

# All benches, or those that are named.
bench *args:
    cargo bench {{args}}

# Binaries and data for a GPU host without cargo, in .bundle/.
bundle *args:
    scripts/bundle.sh {{args}}

# Mutants of one format (config, adapter, checkpoint, tokenizer, template, data …) for so many seconds.
fuzz format seconds:
    cargo test --release --test fuzz -- {{format}} --seconds {{seconds}}

# Loads, trains, generates and drops for so many seconds: nothing may grow.
soak seconds:
    HALFBYTE_SOAK_SECONDS={{seconds}} cargo test --release --test soak -- --nocapture

# Licences, sources and duplicates of all dependencies; needs `cargo install cargo-deny`.
deny:
    cargo deny check --hide-inclusion-graph licenses bans sources

# Kills a training run at so many random moments.
kills times:
    HALFBYTE_KILLS={{times}} cargo test --release --test cli -- kills --nocapture

# What continuous integration runs.
ci:
    .ci/run
