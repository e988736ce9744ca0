// Rows of one matrix to rows of another. One CTA for each row, in 16-byte pieces where both rows begin at 16 bytes.
// Only the row number is waited for; the bound is the memory.
#include "params.h"
#include "types.cuh"

constexpr unsigned THREADS = ROWS_THREADS;

template <class T> __device__ __forceinline__ void copy_row(const T *x, T *out, unsigned d) {
    unsigned done = 0;
    if (aligned16(x, 0) && aligned16(out, 0)) {
        done = d / VEC<T> * VEC<T>;
        for (unsigned i = threadIdx.x * VEC<T>; i < done; i += THREADS * VEC<T>) store_pack(out + i, load_pack(x + i));
    }
    for (unsigned i = done + threadIdx.x; i < d; i += THREADS) out[i] = x[i];
}

template <class T> __device__ void gather_rows(const RowsParams &p) {
    size_t to = blockIdx.x, from = min(p.rows[to], p.n_table - 1);
    copy_row(row_of<T>(p.x, from), row_of<T>(p.out, to), p.d);
}
INSTANTIATE(gather_rows, RowsParams)

template <class T> __device__ void scatter_rows(const RowsParams &p) {
    size_t from = blockIdx.x, to = p.rows[from];
    if (to >= p.n_table) return;
    copy_row(row_of<T>(p.x, from), row_of<T>(p.out, to), p.d);
}
INSTANTIATE(scatter_rows, RowsParams)
