// DoRA beside the product of a layer: squares of the weight's rows, once for each model; norms of the rows of
// W + scale B A, once for each step, from what the products A W^T and A A^T leave; columns scaled, and the gradients of
// that; inputs with dropout. The bound of all but the norms is the memory.
#include "lora.cuh"
#include "reduce.cuh"
#include "vec8.cuh"

// A CTA for each row.
template <class T> __device__ void row_squares(const RowSquaresParams &p) {
    __shared__ float shared[32];
    const T *x = row_of<T>(p.x, blockIdx.x);
    bool packed = aligned16(x, 0);
    float sum = 0;
    for (unsigned i = threadIdx.x * 8; i < p.d; i += DORA_THREADS * 8) {
        Vec8 v = load8(x + i, p.d - i, packed);
#pragma unroll
        for (int j = 0; j < 8; j++) sum += v.v[j] * v.v[j];
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) p.out[blockIdx.x] = sum;
}
INSTANTIATE(row_squares, RowSquaresParams)

// A warp for each output. `gram` is symmetric, so that lanes read neighbours of it.
template <class T> __device__ void dora_norms(const DoraNormsParams &p) {
    unsigned o = (blockIdx.x * DORA_THREADS + threadIdx.x) / 32;
    if (o >= p.outputs) return;
    const T *b = static_cast<const T *>(p.b) + size_t(o) * p.rank;
    float sum = 0;
    for (unsigned j = threadIdx.x % 32; j < p.rank; j += 32) {
        float with_b = 0;
        for (unsigned k = 0; k < p.rank; k++) with_b += p.gram[size_t(k) * p.rank + j] * to_f32(b[k]);
        sum += to_f32(b[j]) * (2.f * row_of<float>(p.products, j)[o] + p.scale * with_b);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) p.norms[o] = sqrtf(fmaxf(p.squares[o] + p.scale * sum, 0.f));
}
INSTANTIATE(dora_norms, DoraNormsParams)

// What an output is multiplied by.
__device__ __forceinline__ float factor(float magnitude, float norm) { return norm > 0.f ? magnitude / norm : 0.f; }

template <class T> __device__ void dora(const DoraParams &p) {
    Place at(p.outputs);
    if (at.col >= p.outputs) return;
    unsigned left = p.outputs - at.col;
    T *z = row_of<T>(p.z, at.row) + at.col;
    T *out = p.sum.ptr ? row_of<T>(p.sum, at.row) + at.col : z;
    bool packed = aligned16(z, 0) && aligned16(out, 0);
    Vec8 v = load8(z, left, packed), sum;
    if (p.sum.ptr) sum = load8(out, left, packed);
#pragma unroll
    for (unsigned j = 0; j < 8; j++) {
        if (j >= left) break;
        v.v[j] *= factor(p.magnitude[at.col + j], p.norms[at.col + j]);
        if (p.sum.ptr) v.v[j] += sum.v[j];
    }
    store8(out, v, left, packed);
}
INSTANTIATE(dora, DoraParams)

// A CTA has some columns, and takes some rows of them at a time: each thread has every DORA_GRAD_ROWS-th element of a
// column, and the sums of a column are added in the order of the threads.
template <class T> __device__ void dora_grad(const DoraGradParams &p) {
    __shared__ float sums[DORA_GRAD_ROWS][DORA_GRAD_COLUMNS];
    unsigned lane = threadIdx.x % DORA_GRAD_COLUMNS, first = threadIdx.x / DORA_GRAD_COLUMNS;
    unsigned col = blockIdx.x * DORA_GRAD_COLUMNS + lane;
    bool there = col < p.outputs;
    float norm = there ? p.norms[col] : 0.f, scale = there ? factor(p.magnitude[col], norm) : 0.f, sum = 0;
    for (unsigned row = first; there && row < p.n; row += DORA_GRAD_ROWS) {
        T *d_out = row_of<T>(p.d_out, row) + col;
        float d = to_f32(*d_out);
        sum += d * to_f32(row_of<T>(p.z, row)[col]);
        *d_out = from_f32<T>(scale * d);
    }
    sums[first][lane] = sum;
    __syncthreads();
    if (first != 0 || !there) return;
    for (unsigned i = 1; i < DORA_GRAD_ROWS; i++) sum += sums[i][lane];
    p.d_magnitude[col] += factor(sum, norm);
}
INSTANTIATE(dora_grad, DoraGradParams)

// Eight columns of one row for each thread, as in noise.
template <class T> __device__ void dropped(const DroppedParams &p) {
    Place at(p.d);
    if (at.col >= p.d) return;
    unsigned left = p.d - at.col;
    const T *x = row_of<T>(p.x, at.row) + at.col;
    T *out = row_of<T>(p.out, at.row) + at.col;
    bool packed = aligned16(x, 0) && aligned16(out, 0);
    Dropout dropout = dropout_of(p.dropout);
    Vec8 v = load8(x, left, packed), sum = {};
    if (p.accumulate) sum = load8(out, left, packed);
    float of_dropped = p.factors[0], of_kept = p.factors[1];
    uint4 words = dropout.words(uint32_t(at.row), at.col / 8);
    uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (unsigned j = 0; j < 4; j++) {
        sum.v[2 * j] += v.v[2 * j] * (dropout.low(pairs[j]) ? of_kept : of_dropped);
        sum.v[2 * j + 1] += v.v[2 * j + 1] * (dropout.high(pairs[j]) ? of_kept : of_dropped);
    }
    store8(out, sum, left, packed);
}
INSTANTIATE(dropped, DroppedParams)
