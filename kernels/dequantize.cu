// Weights of any shape, decoded as dequantize.cuh says; what it cannot take, one by one: codes or outputs that begin
// anywhere, and up to seven weights at the end.
#include "dequantize.cuh"

template <class T> __device__ void dequantize(const DequantizeParams &p) {
    __shared__ Decoder decoder;
    const Weight4Params &w = p.weight;
    decoder.fill(w);
    __syncthreads();
    T *out = static_cast<T *>(p.out.ptr);
    size_t len = size_t(w.rows) * w.cols, first = size_t(blockIdx.x) * DEQUANTIZE_THREADS * DEQUANTIZE_PER_THREAD;
    bool even = reinterpret_cast<uintptr_t>(w.codes) % 4 == 0 && aligned16(out, 0);
    size_t groups = even ? len / 8 : 0;
    if (first < groups * 8) decoder.decode<T>(p, blockIdx.x);
    // CTAs that have one of these.
    size_t end = min(len, first + DEQUANTIZE_THREADS * DEQUANTIZE_PER_THREAD);
    for (size_t i = max(first, groups * 8) + threadIdx.x; i < end; i += DEQUANTIZE_THREADS)
        out[i] = from_f32<T>(weight4_at(w, i, decoder.map));
}
INSTANTIATE(dequantize, DequantizeParams)
