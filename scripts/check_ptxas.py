#!/usr/bin/env python3
"""Reads what ptxas said of the kernels and fails on spilled registers and on serialised wgmma.

    scripts/check_ptxas.py FOLDER        where build.rs left its <op>.ptxas.log, one for each kernels/<op>.cu

C7508 (setmaxnreg ignored) and C7510 (wgmma serialised) halve a kernel's speed without any other sign.
scripts/spill-allow.txt excuses spills: `<function> <architecture> <most bytes> <reason>`, both names as shell patterns.
"""

import fnmatch
import pathlib
import re
import sys

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
SPILL = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
SERIAL = re.compile(r"\(?C75(08|10)\)?")


def allowances(text):
    """The lines of spill-allow.txt: (function pattern, architecture pattern, bytes)."""
    rules = []
    for line in text.splitlines():
        words = line.split("#")[0].split(maxsplit=3)
        if not words:
            continue
        if len(words) < 4 or not words[2].isdigit():
            raise SystemExit(f"scripts/spill-allow.txt: `{line}`: expected <function> <architecture> <most bytes> <reason>")
        rules.append((words[0], words[1], int(words[2])))
    return rules


def check(log, rules):
    """The problems in one log, and how many functions it compiled."""
    problems, functions, where = [], 0, ("?", "?")
    for line in log.splitlines():
        if found := ENTRY.search(line):
            where, functions = found.groups(), functions + 1
        elif found := SPILL.search(line):
            most = max(int(n) for n in found.groups())
            allowed = [b for f, a, b in rules if fnmatch.fnmatch(where[0], f) and fnmatch.fnmatch(where[1], a)]
            if most > max(allowed, default=0):
                problems.append(f"{where[0]} for {where[1]} spills {most} bytes")
        elif SERIAL.search(line):
            problems.append(line.strip())
    return problems, functions


def self_test():
    entry = "ptxas info    : Compiling entry function 'f_bf16' for 'sm_80'\n"
    spill = "    8 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads\n"
    assert check(entry + spill, []) == (["f_bf16 for sm_80 spills 16 bytes"], 1)
    assert check(entry + spill, allowances("f_* sm_80 16 why # x")) == ([], 1)
    assert check(entry + spill, allowances("f_* sm_90a 16 why\n\n# y")) == (["f_bf16 for sm_80 spills 16 bytes"], 1)
    assert check(entry + "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n", []) == ([], 1)
    assert check("ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async", [])[0]


def main():
    self_test()
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    here = pathlib.Path(__file__).parent
    rules = allowances((here / "spill-allow.txt").read_text())
    logs = {path.name.split(".")[0]: path for path in pathlib.Path(sys.argv[1]).glob("*.ptxas.log")}
    problems, total = [], 0
    for kernel in sorted(path.stem for path in (here.parent / "kernels").glob("*.cu")):
        found, functions = check(logs[kernel].read_text(), rules) if kernel in logs else ([], 0)
        if not functions:
            found = ["was not compiled"]
        problems += [f"kernels/{kernel}.cu: {problem}" for problem in found]
        total += functions
    print("\n".join(problems), end="\n" if problems else "")
    print(f"{total} kernels (architectures counted), {len(problems)} problems")
    sys.exit(1 if problems or not total else 0)


main()
