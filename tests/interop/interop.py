"""Round trips between halfbyte and transformers, peft and bitsandbytes. README.md beside this says what is compared.

Usage: interop.py FOLDER_OF_BUILT_EXAMPLES
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

# It regrets the lack of a kernel that is switched off here.
logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)

import adapters
import checkpoints
import likelihoods
import merged
import methods
import packed
from common import ASSETS, GOLDEN, Halfbyte, Table


def main() -> int:
    warnings.filterwarnings("ignore")
    halfbyte = Halfbyte(Path(sys.argv[1]).resolve())
    table = Table()
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        tiny = ASSETS / "tiny-qwen3"
        sources = {
            "golden untied f32": GOLDEN / "untied",
            "golden tied f32": GOLDEN / "tied",
            "embedded bf16": tiny,
            "embedded f16": checkpoints.saved_as_f16(tiny, tmp / "f16"),
        }
        for name, source in sources.items():
            checkpoints.compare_all(halfbyte, table, name, source, tmp)
        checkpoints.compare_block_sizes(halfbyte, table, "embedded bf16", tiny, tmp)
        trained = adapters.compare_all(halfbyte, table, tiny, tmp)
        merged.compare_all(halfbyte, table, trained, tmp)
        packed.compare_all(halfbyte, table, tiny, trained, tmp)
        methods.compare_all(halfbyte, table, tiny, tmp)
        likelihoods.compare_all(halfbyte, table, tiny, trained, tmp)
    return table.finish()


if __name__ == "__main__":
    sys.exit(main())
