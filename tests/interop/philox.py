"""The random words of halfbyte's noise and the halves of its masks: Philox-4x32 by place, stream and seed."""

import numpy
import torch

MASK = numpy.uint64(0xFFFFFFFF)


def words(n: int, columns: int, stream: int, seed: int) -> numpy.ndarray:
    """`[n, columns]`, of 32 bits each: word `j % 4` of block `[j / 4, i, stream, stream >> 32]`, 10 rounds."""
    return blocks(n, -(-columns // 4), stream, seed, 10).reshape(n, -1)[:, :columns]


def halves(n: int, columns: int, stream: int, seed: int) -> numpy.ndarray:
    """`[n, columns]`, of 16 bits each: half `j % 2` of word `j % 8 / 2` of block `[j / 8, i, stream, stream >> 32]`, 7 rounds."""
    of = blocks(n, -(-columns // 8), stream, seed, 7)
    pairs = numpy.stack([of & numpy.uint64(0xFFFF), of >> numpy.uint64(16)], axis=-1)
    return pairs.reshape(n, -1)[:, :columns]


def blocks(n: int, columns: int, stream: int, seed: int, rounds: int) -> numpy.ndarray:
    """`[n, columns, 4]`: the words of each block."""
    columns, rows = numpy.meshgrid(numpy.arange(columns), numpy.arange(n))
    counter = [columns, rows, numpy.full_like(rows, stream & 0xFFFFFFFF), numpy.full_like(rows, stream >> 32)]
    return numpy.stack(philox(counter, seed, rounds), axis=-1)


def dropped(x: torch.Tensor, p: float, micro_batch: int, module: int, seed: int) -> torch.Tensor:
    """`x`, `[n, inputs]`, as adapter `module` of the model takes it in training."""
    threshold = round(p * 2.0**16)
    kept = halves(*x.shape, micro_batch << 16 | module, seed) >= numpy.uint64(threshold)
    return x * torch.tensor(kept, dtype=x.dtype) / (1 - threshold / 2.0**16)


def philox(counter: list, seed: int, rounds: int) -> list:
    a, b, c, d = (word.astype(numpy.uint64) for word in counter)
    keys = [numpy.uint64(seed & 0xFFFFFFFF), numpy.uint64(seed >> 32)]
    for _ in range(rounds):
        low, high = a * numpy.uint64(0xD2511F53), c * numpy.uint64(0xCD9E8D57)
        shift = numpy.uint64(32)
        a, b, c, d = (high >> shift) ^ b ^ keys[0], high & MASK, (low >> shift) ^ d ^ keys[1], low & MASK
        keys = [(keys[0] + numpy.uint64(0x9E3779B9)) & MASK, (keys[1] + numpy.uint64(0xBB67AE85)) & MASK]
    return [a, b, c, d]
