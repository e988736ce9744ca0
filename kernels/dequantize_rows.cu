// Rows of heads in 8 bits, back to T. A CTA for each row, eight columns for each thread. The bound is the memory.
#include "int8.cuh"
#include "vec8.cuh"

template <class T> __device__ void dequantize_rows(const DequantizeRowsParams &p) {
    size_t row = blockIdx.x;
    const int8_t *codes = row_of<int8_t>(p.codes, row);
    T *out = row_of<T>(p.out, row);
    bool packed = reinterpret_cast<uintptr_t>(codes) % 8 == 0, aligned = aligned16(out, 0);
    for (unsigned column = threadIdx.x * 8; column < p.heads * p.dim; column += DEQUANTIZE_ROWS_THREADS * 8) {
        Vec8 v;
        load_codes(v.v, codes + column, row_of<float>(p.scales, column / p.dim)[row], packed);
        store8(out + column, v, 8, aligned);
    }
}
INSTANTIATE(dequantize_rows, DequantizeRowsParams)
