#!/usr/bin/env bash
# Installs nvcc 13.0 and libclang from PyPI into .toolchain/ of this checkout, for machines without a CUDA toolkit.
# build.rs finds nvcc there by itself, and so does `cargo test --test bindings` with libclang.
# Needs python3 with pip, and (for nvcc) a C++ compiler. About 350 MB. Running it again does nothing.
#
#   scripts/install-cuda-toolchain.sh [--force]
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
  'nvidia-cuda-nvcc==13.0.*'
  'nvidia-nvvm==13.0.*'
  'nvidia-cuda-crt==13.0.*'
  'nvidia-cuda-runtime==13.0.*'
  'nvidia-cuda-cccl==13.0.*'
  'libclang==18.1.1'
)
folder=.toolchain
cuda=$folder/nvidia/cu13
libclang=$folder/clang/native

fail() {
  echo "install-cuda-toolchain: $*" >&2
  exit 1
}

# What stands in .toolchain/installed is what pip was asked for when it finished.
is_current() {
  [[ -x $cuda/bin/nvcc && -d $libclang && "$(cat "$folder/installed" 2>/dev/null)" == "${packages[*]}" ]]
}

install() {
  command -v python3 >/dev/null || fail "python3 was not found; install it (Debian: apt install python3 python3-pip)"
  python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip; install it (Debian: apt install python3-pip)"
  echo "installing into $folder/: ${packages[*]}"
  rm -rf "$folder.tmp"
  PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-warn-script-location --no-compile \
    --only-binary=:all: --target "$folder.tmp" "${packages[@]}" ||
    fail "pip could not install the packages (see above); nothing was changed"
  chmod -R u+x "$folder.tmp/nvidia/cu13/bin" "$folder.tmp/nvidia/cu13/nvvm/bin"
  echo "${packages[*]}" >"$folder.tmp/installed"
  rm -rf "$folder"
  mv "$folder.tmp" "$folder"
  touch -c build.rs # so that the next build looks for nvcc again
}

report() {
  local version
  version=$("$cuda/bin/nvcc" --version | sed -n 's/.*release.*, V//p') || fail "$cuda/bin/nvcc does not run on this machine"
  echo "nvcc $version: $cuda/bin/nvcc (cargo build finds it)"
  echo "libclang: $libclang (cargo test --test bindings finds it). For other programs:"
  echo "  export LIBCLANG_PATH=$PWD/$libclang"
  command -v g++ >/dev/null || command -v c++ >/dev/null ||
    echo "missing: a C++ compiler, which nvcc needs (Debian: apt install g++)"
}

case ${1:-} in
  '') is_current || install ;;
  --force) install ;;
  *) fail "unknown option $1; usage: scripts/install-cuda-toolchain.sh [--force]" ;;
esac
report
