#!/usr/bin/env bash
# Gathers release test, bench and example binaries and their data into .bundle/, with a `run` script: for GPU hosts
# without cargo. Copy the folder there, then for instance:
#
#   .bundle/run tests                        every test binary (HALFBYTE_REQUIRE_CUDA=1: no GPU is a failure)
#   .bundle/run tests suite rms_norm         one of them, with arguments for it
#   .bundle/run benches
#   .bundle/run example train_qwen3_lora --use-4bit
#   .bundle/halfbyte train --use-4bit        the same, if all was built
#   .bundle/run list
#
# Build with HALFBYTE_CUDA_ARCHS set to the architecture of that host: each binary embeds its kernels.
#
# Usage: scripts/bundle.sh [--only NAME,NAME…] [--with-data] [--archive]
#   --only       these tests, benches and examples; `lib` and `runtime-lib` are the unit tests. Default: all.
#   --with-data  also what lies in $HALFBYTE_TEST_DATA, files of up to 16 MiB
#   --archive    also .bundle.tar.gz
#
# Tests look for their data under $HALFBYTE_ROOT, which `run` sets, in place of the checkout they were built in.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
bundle=.bundle

fail() {
  echo "bundle: $*" >&2
  exit 1
}

only='' with_data=false archive=false
while (($#)); do
  case $1 in
    --only) only=${2:?--only needs names} && shift ;;
    --only=*) only=${1#*=} ;;
    --with-data) with_data=true ;;
    --archive) archive=true ;;
    *) fail "unknown option $1; see the top of scripts/bundle.sh" ;;
  esac
  shift
done

# The cargo command that builds one target, found by name.
command_for() {
  local name=$1 package kind folder
  case $name in
    lib) echo "test --no-run -p halfbyte --lib" && return ;;
    runtime-lib) echo "test --no-run -p halfbyte-runtime --lib" && return ;;
  esac
  if [[ -e examples/$name.rs || -e examples/$name/main.rs ]]; then
    echo "build -p halfbyte-examples --example $name" && return
  fi
  for package in halfbyte halfbyte-runtime; do
    for kind in test bench; do
      folder=${kind}s
      [[ $kind != bench ]] || folder=benches
      [[ $package == halfbyte ]] || folder=runtime/$folder
      [[ -e $folder/$name.rs || -e $folder/$name/main.rs ]] || continue
      echo "test --no-run -p $package --$kind $name" && return
    done
  done
  fail "there is no test, bench or example called $name"
}

# Runs a cargo command; prints "kind name path" for each executable that it built.
build() {
  cargo "$@" --release --message-format=json-render-diagnostics | python3 -c '
import json, sys
for line in sys.stdin:
    m = json.loads(line) if line.startswith("{") else {}
    if m.get("reason") != "compiler-artifact" or not m.get("executable"):
        continue
    kind, name = m["target"]["kind"][0], m["target"]["name"]
    if kind not in ("test", "bench", "example", "bin"):
        kind, name = "test", "runtime-lib" if "halfbyte-runtime@" in m["package_id"] else "lib"
    print(kind, name, m["executable"])'
}

build_all() {
  if [[ -z $only ]]; then
    build test --no-run --workspace --lib --tests --benches
    build build --workspace --examples
    return
  fi
  local name command
  for name in ${only//,/ }; do
    command=$(command_for "$name")
    # shellcheck disable=SC2086 # words, not one argument
    build $command
  done
}

built=$(build_all)
rm -rf "$bundle"
mkdir -p "$bundle"/{tests,benches,examples}
while read -r kind name path; do
  [[ $name != bindings && $name != tidy ]] || continue # these two read the sources
  folder=${kind}s
  [[ $kind == bench ]] && folder=benches
  [[ $kind == bin ]] && folder=. # tests look for it beside their folder
  strip -o "$bundle/$folder/$name" "$path"
done <<<"$built"

mkdir -p "$bundle"/checkout/{tests,runtime}
[[ ! -d tests/data ]] || cp -r tests/data "$bundle/checkout/tests/"
[[ ! -d runtime/assets ]] || cp -r runtime/assets "$bundle/checkout/runtime/"
if $with_data; then
  [[ -d ${HALFBYTE_TEST_DATA:-} ]] || fail "--with-data: HALFBYTE_TEST_DATA is not a folder"
  mkdir -p "$bundle/data"
  (cd "$HALFBYTE_TEST_DATA" && find . -type f -size -16M -print0 | tar cf - --null -T -) | tar xf - -C "$bundle/data"
  chmod -R u+w "$bundle/data"
fi

cat >"$bundle/run" <<'RUN'
#!/usr/bin/env bash
# Runs what scripts/bundle.sh gathered: run {tests|benches} [NAME [ARGUMENTS]], run example NAME [ARGUMENTS], run list
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export HALFBYTE_ROOT=$here/checkout
[[ -d $here/data ]] && export HALFBYTE_TEST_DATA=${HALFBYTE_TEST_DATA:-$here/data}

binary() {
  [[ -x $here/$1 ]] || { echo "run: this bundle has no $1; it has:" >&2 && list >&2 && exit 2; }
  echo "$here/$1"
}

list() { (cd "$here" && ls -d tests/* benches/* examples/* 2>/dev/null); }

# every FOLDER OPTION…: runs all of a folder, says which failed.
every() {
  local folder=$1 failed='' path && shift
  for path in "$here/$folder"/*; do
    [[ -x $path ]] || continue
    echo "== $folder/${path##*/}"
    "$path" "$@" || failed+=" ${path##*/}"
  done
  [[ -z $failed ]] || { echo "failed:$failed" >&2 && exit 1; }
}

case ${1:-} in
  tests) if (($# > 1)); then path=$(binary "tests/$2") && exec "$path" "${@:3}"; else every tests; fi ;;
  benches) if (($# > 1)); then path=$(binary "benches/$2") && exec "$path" --bench "${@:3}"; else every benches --bench; fi ;;
  example) path=$(binary "examples/${2:?which example}") && exec "$path" "${@:3}" ;;
  list) list ;;
  *) sed -n 2p "$0" >&2 && exit 2 ;;
esac
exit
RUN
chmod +x "$bundle/run"

(cd "$bundle" && du -sh --apparent-size tests/* benches/* examples/* checkout/* data 2>/dev/null || true)
du -sh --apparent-size "$bundle"
if $archive; then
  tar czf "$bundle.tar.gz" "$bundle"
  du -h --apparent-size "$bundle.tar.gz"
fi
