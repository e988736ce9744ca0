// SwiGLU and its gradient. Eight columns of one row for each thread; the CTAs of a row are neighbours. gate and up are
// halves of one row, so that a thread's loads are two streams of whole lines, all asked for before the first is used.
// The bound is the memory: three vectors of f columns a row, in the gradient five.
#include "params.h"
#include "sigmoid.cuh"
#include "vec8.cuh"

template <class T> __device__ void swiglu(const SwigluParams &p) {
    Place at(p.f);
    if (at.col >= p.f) return;
    unsigned left = p.f - at.col;
    const T *gate = row_of<T>(p.gate_up, at.row) + at.col;
    T *out = row_of<T>(p.out, at.row) + at.col;
    bool packed = aligned16(gate, p.f) && aligned16(out, 0);
    Vec8 g = load8(gate, left, packed), u = load8(gate + p.f, left, packed);
#pragma unroll
    for (int j = 0; j < 8; j++) g.v[j] = swiglu<T>(g.v[j], u.v[j]);
    store8(out, g, left, packed);
}
INSTANTIATE(swiglu, SwigluParams)

template <class T> __device__ void swiglu_grad(const SwigluGradParams &p) {
    Place at(p.f);
    if (at.col >= p.f) return;
    unsigned left = p.f - at.col;
    const T *gate = row_of<T>(p.gate_up, at.row) + at.col;
    const T *d_out = row_of<T>(p.d_out, at.row) + at.col;
    T *d_gate = row_of<T>(p.d_gate_up, at.row) + at.col;
    T *out = p.out.ptr ? row_of<T>(p.out, at.row) + at.col : nullptr;
    bool packed = aligned16(gate, p.f) && aligned16(d_out, 0) && aligned16(d_gate, p.f) && aligned16(out, 0);
    Vec8 g = load8(gate, left, packed), u = load8(gate + p.f, left, packed), d = load8(d_out, left, packed);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        SwigluGrads grads = swiglu_grads<T>(g.v[j], u.v[j], d.v[j]);
        g.v[j] = grads.gate, u.v[j] = grads.up, d.v[j] = grads.out;
    }
    store8(d_gate, g, left, packed);
    store8(d_gate + p.f, u, left, packed);
    if (out) store8(out, d, left, packed);
}
INSTANTIATE(swiglu_grad, SwigluGradParams)
