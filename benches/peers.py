"""Products with a 4-bit weight by other libraries, at the shapes of `cargo bench --bench kernels`, on the same GPU.

    python benches/peers.py [--tokens 1,8,64] [--csv FILE]

Times are medians between CUDA events with cold caches, as those of the bench are: 256 MiB are overwritten before each run.
Peers that are not installed are left out. `cublas` is torch's bf16 product, `bitsandbytes` NF4 with double quantisation,
`tinygemm` torch's _weight_int4pack_mm and `gemlite` its integers of 4 bits, both with a scale and a zero for 64 weights:
formats that are easier to decode than NF4.
"""

import argparse
import importlib.util
import statistics
import sys

import torch

SHAPES = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (24576, 4096), "down": (4096, 12288)}
TOKENS = "1,2,4,8,16,32,64,128,256,512,1024"
GROUP = 64


def cublas(weight):
    return lambda x: x @ weight.T


def cublas_grad(weight):
    return lambda d_out: d_out @ weight


def quantized(weight):
    from bitsandbytes import functional

    return functional.quantize_4bit(weight, blocksize=GROUP, quant_type="nf4", compress_statistics=True)


def bitsandbytes(weight):
    from bitsandbytes import matmul_4bit

    codes, state = quantized(weight)
    return lambda x: matmul_4bit(x, codes.t(), state)


def bitsandbytes_grad(weight):
    from bitsandbytes import functional

    codes, state = quantized(weight)
    # What its backward pass does.
    return lambda d_out: d_out @ functional.dequantize_4bit(codes, state).to(d_out.dtype)


def tinygemm(weight):
    rows, cols = weight.shape
    codes = torch.randint(0, 256, (rows, cols // 2), dtype=torch.uint8, device=weight.device)
    packed = torch.ops.aten._convert_weight_to_int4pack(codes, 8)
    scales = torch.rand(cols // GROUP, rows, 2, dtype=torch.bfloat16, device=weight.device)
    return lambda x: torch.ops.aten._weight_int4pack_mm(x, packed, GROUP, scales)


def gemlite(weight):
    from gemlite.helper import A16W4_HQQ_INT

    rows, cols = weight.shape
    codes = torch.randint(0, 16, (rows, cols), dtype=torch.uint8, device=weight.device)
    scales = torch.rand(rows * cols // GROUP, 1, dtype=torch.bfloat16, device=weight.device)
    zeros = torch.full_like(scales, 8)
    return A16W4_HQQ_INT(device=str(weight.device), dtype=torch.bfloat16).from_weights(codes, scales, zeros)


FORWARD = {"cublas": cublas, "bitsandbytes": bitsandbytes, "tinygemm": tinygemm, "gemlite": gemlite}
GRADIENT = {"cublas": cublas_grad, "bitsandbytes": bitsandbytes_grad}


def microseconds(product, operand, flush):
    def once():
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        start.record()
        product(operand)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3

    graph = recorded(product, operand)
    if graph is not None:
        product = lambda _: graph.replay()
    for _ in range(3):
        once()
    return statistics.median(once() for _ in range(15))


def recorded(product, operand):
    """The product without the time that Python takes to launch it."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            product(operand)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            product(operand)
    except RuntimeError as error:
        print(f"not recorded: {error}", file=sys.stderr)
        return None
    return graph


def measure(name, make, gradient, arguments, rows_out, flush):
    for shape, (rows, cols) in SHAPES.items():
        weight = torch.randn(rows, cols, dtype=torch.bfloat16, device="cuda") / cols**0.5
        product = make(weight)
        for tokens in arguments.tokens:
            operand = torch.randn(tokens, rows if gradient else cols, dtype=torch.bfloat16, device="cuda")
            us = microseconds(product, operand, flush)
            kernel = "linear4_grad" if gradient else "linear4"
            rows_out.append(f"{name},{kernel},{tokens} x {rows} x {cols},{us:.2f}")
            print(rows_out[-1], flush=True)


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", default=TOKENS, type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--only", default=",".join(FORWARD), type=lambda text: text.split(","))
    parser.add_argument("--csv")
    arguments = parser.parse_args()
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    print(torch.cuda.get_device_name())
    rows = ["peer,kernel,shape,us"]
    for peers, gradient in ((FORWARD, False), (GRADIENT, True)):
        for name, make in peers.items():
            own = name in ("cublas", "tinygemm")
            if name not in arguments.only or not (own or importlib.util.find_spec(name)):
                continue
            try:
                measure(name, make, gradient, arguments, rows, flush)
            except (RuntimeError, ImportError, AttributeError, TypeError) as error:
                print(f"{name}: left out: {error}", file=sys.stderr)
    if arguments.csv:
        with open(arguments.csv, "w") as file:
            file.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
