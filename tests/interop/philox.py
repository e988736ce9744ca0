"""The random words of halfbyte's masks and noise: Philox-4x32-10 by place, stream and seed."""

import numpy
import torch

MASK = numpy.uint64(0xFFFFFFFF)


def words(n: int, columns: int, stream: int, seed: int) -> numpy.ndarray:
    """`[n, columns]`, of 32 bits each: word `j % 4` of block `[j / 4, i, stream, stream >> 32]`."""
    quads, rows = numpy.meshgrid(numpy.arange(-(-columns // 4)), numpy.arange(n))
    halves = [numpy.full_like(rows, stream & 0xFFFFFFFF), numpy.full_like(rows, stream >> 32)]
    blocks = numpy.stack(philox([quads, rows, *halves], seed), axis=-1)
    return blocks.reshape(n, -1)[:, :columns]


def dropped(x: torch.Tensor, p: float, micro_batch: int, module: int, seed: int) -> torch.Tensor:
    """`x`, `[n, inputs]`, as adapter `module` of the model takes it in training."""
    kept = words(*x.shape, micro_batch << 16 | module, seed) >= numpy.uint64(p * 2.0**32)
    return x * torch.tensor(kept, dtype=x.dtype) / (1 - p)


def philox(counter: list, seed: int) -> list:
    a, b, c, d = (word.astype(numpy.uint64) for word in counter)
    keys = [numpy.uint64(seed & 0xFFFFFFFF), numpy.uint64(seed >> 32)]
    for _ in range(10):
        low, high = a * numpy.uint64(0xD2511F53), c * numpy.uint64(0xCD9E8D57)
        shift = numpy.uint64(32)
        a, b, c, d = (high >> shift) ^ b ^ keys[0], high & MASK, (low >> shift) ^ d ^ keys[1], low & MASK
        keys = [(keys[0] + numpy.uint64(0x9E3779B9)) & MASK, (keys[1] + numpy.uint64(0xBB67AE85)) & MASK]
    return [a, b, c, d]
