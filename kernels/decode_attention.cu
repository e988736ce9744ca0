// One new token for each sequence against its cache. A sequence's keys are dealt to `splits` CTAs; a CTA takes up to G
// query heads of one key head, so that keys and values are read once. The last CTA of a key head to finish adds the
// parts up, in the order of the splits: which CTA that is does not change the result.
//
// D / VEC lanes share a row of keys or values, 16 bytes each (LANES: 16 at D = 128 in bf16, so that a warp reads two
// whole rows at once); these lane groups take keys in turn, U at a time, whose loads of keys and values are all asked
// for before the first is used. A lane keeps maximum, sum and its own VEC columns of the values of all G heads in
// registers, so keys need no shared memory; what the lane groups, the warps and then the CTAs have found is merged at
// the end. More than 4 heads take the registers of a second CTA. The bound is the memory: a byte of cache is read once.
#include "attention_ptx.cuh"
#include "params.h"

constexpr int THREADS = DECODE_ATTENTION_THREADS, WARPS = THREADS / 32;
constexpr int MAX_SPLITS = DECODE_ATTENTION_MAX_SPLITS;
constexpr int STATS = DECODE_ATTENTION_STATS;
constexpr float LOG2_E = 1.4426950408889634f;

// 16 bytes of T as words: elements apart would take a register each.
template <class T> __device__ __forceinline__ uint4 load(const T *p, bool packed) {
    if (packed) return *reinterpret_cast<const uint4 *>(p);
    unsigned words[4];
    if constexpr (sizeof(T) == 2) {
        const unsigned short *from = reinterpret_cast<const unsigned short *>(p);
#pragma unroll
        for (int i = 0; i < 4; i++) words[i] = from[2 * i] | unsigned(from[2 * i + 1]) << 16;
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) words[i] = __float_as_uint(p[i]);
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}
template <class T> __device__ __forceinline__ void unpack(float (&out)[VEC<T>], const uint4 &words) {
    const Pack<T> pack = reinterpret_cast<const Pack<T> &>(words);
#pragma unroll
    for (int i = 0; i < VEC<T>; i++) out[i] = to_f32(pack.v[i]);
}

// 2^((a - top) scale); 0 when nothing was seen.
__device__ __forceinline__ float weight(float a, float top, float scale) {
    return exp2_fast((a - (top == -INFINITY ? 0.f : top)) * scale);
}

// Maximum, sum of exponentials and weighted sum of values for each of G heads; a lane has VEC columns of the values.
template <class T, int G> struct State {
    float top[G], sum[G], o[G][VEC<T>];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int g = 0; g < G; g++) {
            top[g] = -INFINITY, sum[g] = 0;
#pragma unroll
            for (int i = 0; i < VEC<T>; i++) o[g][i] = 0;
        }
    }
    // Adds keys with scores s[g][u] and values v[u]; a score of -infinity is no key.
    template <int U>
    __device__ __forceinline__ void add(float (&s)[G][U], const uint4 (&v)[U], float scale) {
#pragma unroll
        for (int g = 0; g < G; g++) {
            float old = top[g];
#pragma unroll
            for (int u = 0; u < U; u++) top[g] = fmaxf(top[g], s[g][u]);
            float shrink = weight(old, top[g], scale);
            sum[g] *= shrink;
#pragma unroll
            for (int i = 0; i < VEC<T>; i++) o[g][i] *= shrink;
#pragma unroll
            for (int u = 0; u < U; u++) sum[g] += s[g][u] = weight(s[g][u], top[g], scale);
        }
#pragma unroll
        for (int u = 0; u < U; u++) {
            float values[VEC<T>];
            unpack<T>(values, v[u]);
#pragma unroll
            for (int g = 0; g < G; g++)
#pragma unroll
                for (int i = 0; i < VEC<T>; i++) o[g][i] += s[g][u] * values[i];
        }
    }
    // Merges with the lane `distance` away.
    __device__ __forceinline__ void merge(int distance, float scale) {
#pragma unroll
        for (int g = 0; g < G; g++) {
            float other = __shfl_xor_sync(~0u, top[g], distance), all = fmaxf(top[g], other);
            float mine = weight(top[g], all, scale), theirs = weight(other, all, scale);
            top[g] = all;
            sum[g] = sum[g] * mine + __shfl_xor_sync(~0u, sum[g], distance) * theirs;
#pragma unroll
            for (int i = 0; i < VEC<T>; i++)
                o[g][i] = o[g][i] * mine + __shfl_xor_sync(~0u, o[g][i], distance) * theirs;
        }
    }
};

// The parts of one block's heads: part i of head g, from warps or from splits.
template <int D, int G> struct Parts {
    float top[MAX_SPLITS][G], sum[MAX_SPLITS][G];

    // Turns maxima into weights, sums into the weighted sums of all parts (in sum[0]) and gives back the maximum.
    // One thread for each head.
    __device__ __forceinline__ float weigh(unsigned g, unsigned count, float scale) {
        float all = -INFINITY, total = 0;
        for (unsigned i = 0; i < count; i++) all = fmaxf(all, top[i][g]);
        for (unsigned i = 0; i < count; i++) {
            top[i][g] = weight(top[i][g], all, scale);
            total += top[i][g] * sum[i][g];
        }
        sum[0][g] = total;
        return all;
    }
};

// What a CTA works on: heads head0 .. head0 + heads of one sequence, keys begin .. end of it.
template <int G> struct Job {
    unsigned split, index; // index: of the heads, among those of the sequence
    unsigned chunks, b, kv_head, head0, heads;
    unsigned begin, end, len, active; // active: CTAs that have keys

    // A split has whole batches of keys, so that only the last one has a remainder.
    __device__ __forceinline__ Job(const DecodeAttentionParams &p, unsigned batch) {
        unsigned group = p.q_heads / p.kv_heads;
        chunks = (group + G - 1) / G;
        split = blockIdx.x % p.splits, index = blockIdx.x / p.splits % (p.kv_heads * chunks);
        b = blockIdx.x / p.splits / (p.kv_heads * chunks), kv_head = index / chunks;
        head0 = kv_head * group + index % chunks * G, heads = min(group - index % chunks * G, G + 0u);
        len = min(p.positions[b], p.capacity - 1) + 1;
        unsigned share = ((len + p.splits - 1) / p.splits + batch - 1) / batch * batch;
        begin = split * share, end = min(begin + share, len), active = (len + share - 1) / share;
    }
};

template <int D, int G> struct Shared {
    float sums[WARPS][G][D];
    Parts<D, G> parts;
    float tops[G];
    bool last;
};

// Adds a lane group's keys of the job to `state`. `width`: from key to key.
template <class T, int D, int G, unsigned U>
__device__ __forceinline__ void read_keys(const DecodeAttentionParams &p, const Job<G> &job, State<T, G> &state) {
    constexpr unsigned LANES = D / VEC<T>, GROUPS = THREADS / LANES;
    unsigned column = threadIdx.x % LANES * VEC<T>, lane_group = threadIdx.x / LANES, width = p.kv_heads * D;
    const T *q = row_of<T>(p.q, job.b) + job.head0 * D + column;
    size_t at = size_t(job.b) * p.capacity * width + job.kv_head * D + column;
    const T *k = static_cast<const T *>(p.k_cache) + at, *v = static_cast<const T *>(p.v_cache) + at;
    bool packed = aligned16(q, 0) && aligned16(k, 0) && aligned16(v, 0);
    float qs[G][VEC<T>], scale = p.scale * LOG2_E;
#pragma unroll
    for (int g = 0; g < G; g++) unpack<T>(qs[g], load(q + min(g + 0u, job.heads - 1) * D, packed));
    // The bound is raised for a lane group so that all of a warp stay together: a key from `end` on counts for nothing.
    for (unsigned key0 = job.begin + lane_group; key0 < job.end + lane_group; key0 += GROUPS * U) {
        uint4 ks[U], vs[U];
        float s[G][U];
#pragma unroll
        for (int u = 0; u < U; u++) {
            size_t row = min(key0 + u * GROUPS, job.end - 1);
            ks[u] = load(k + row * width, packed);
            vs[u] = load(v + row * width, packed);
        }
#pragma unroll
        for (int u = 0; u < U; u++) {
            float keys[VEC<T>];
            unpack<T>(keys, ks[u]);
#pragma unroll
            for (int g = 0; g < G; g++) {
                float dot = 0;
#pragma unroll
                for (int i = 0; i < VEC<T>; i++) dot += qs[g][i] * keys[i];
#pragma unroll
                for (int o = LANES / 2; o > 0; o >>= 1) dot += __shfl_xor_sync(~0u, dot, o);
                s[g][u] = key0 + u * GROUPS < job.end ? dot : -INFINITY;
            }
        }
        state.add(s, vs, scale);
    }
}

// Merges the lane groups of each warp, and puts what each warp has found into shared memory.
template <class T, int D, int G>
__device__ __forceinline__ void merge_warps(State<T, G> &state, Shared<D, G> &shared, float scale) {
    constexpr unsigned LANES = D / VEC<T>;
#pragma unroll
    for (int o = LANES; o < 32; o <<= 1) state.merge(o, scale);
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = threadIdx.x % LANES * VEC<T>;
    if (lane < LANES) {
#pragma unroll
        for (int g = 0; g < G; g++) {
#pragma unroll
            for (int i = 0; i < VEC<T>; i++) shared.sums[warp][g][column + i] = state.o[g][i];
            if (lane == 0) shared.parts.top[warp][g] = state.top[g], shared.parts.sum[warp][g] = state.sum[g];
        }
    }
    __syncthreads(); // all warps' findings are there for `weigh`
    if (threadIdx.x < G) shared.tops[threadIdx.x] = shared.parts.weigh(threadIdx.x, WARPS, scale);
    __syncthreads(); // the weights are there for whoever adds up columns
}

// Adds the warps up: to the output when this CTA has all the keys, else to its part of `partial`, which has, for each
// head and split, D weighted sums, then the maximum and the sum of exponentials.
template <class T, int D, int G>
__device__ __forceinline__ void store_part(const DecodeAttentionParams &p, const Job<G> &job,
                                           const Shared<D, G> &shared, T *out, float *partial) {
    for (unsigned i = threadIdx.x; i < job.heads * D; i += THREADS) {
        unsigned g = i / D, d = i % D;
        float o = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) o += shared.parts.top[w][g] * shared.sums[w][g][d];
        if (job.active == 1)
            out[i] = from_f32<T>(o / shared.parts.sum[0][g]);
        else
            partial[(g * p.splits + job.split) * (D + STATS) + d] = o;
    }
    if (job.active > 1 && threadIdx.x < job.heads) {
        float *end_of_part = partial + (threadIdx.x * p.splits + job.split) * (D + STATS) + D;
        end_of_part[0] = shared.tops[threadIdx.x];
        end_of_part[1] = shared.parts.sum[0][threadIdx.x];
    }
}

// Is this the last of the job's CTAs? Then the others' parts can be seen. All threads get the answer.
template <int D, int G>
__device__ __forceinline__ bool is_last(const DecodeAttentionParams &p, const Job<G> &job, Shared<D, G> &shared) {
    __threadfence(); // this thread's writes are seen by whoever sees the ticket taken
    __syncthreads(); // and so are those of the CTA's other threads
    if (threadIdx.x == 0) {
        unsigned *ticket = p.tickets + job.b * (p.kv_heads * job.chunks) + job.index;
        shared.last = atomicAdd(ticket, 1) == job.active - 1;
        if (shared.last) *ticket = 0; // for the next launch
    }
    __syncthreads();
    if (shared.last) __threadfence(); // nothing is read before the ticket was
    return shared.last;
}

// Adds the splits up, in their order. From L2: another multiprocessor wrote them.
template <class T, int D, int G>
__device__ __forceinline__ void add_splits(const DecodeAttentionParams &p, const Job<G> &job,
                                           Shared<D, G> &shared, T *out, const float *partial) {
    Parts<D, G> &parts = shared.parts;
    for (unsigned i = threadIdx.x; i < job.active * job.heads; i += THREADS) {
        const float *end_of_part = partial + (i % job.heads * p.splits + i / job.heads) * (D + STATS) + D;
        parts.top[i / job.heads][i % job.heads] = __ldcg(end_of_part);
        parts.sum[i / job.heads][i % job.heads] = __ldcg(end_of_part + 1);
    }
    __syncthreads();
    if (threadIdx.x < job.heads) parts.weigh(threadIdx.x, job.active, p.scale * LOG2_E);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < job.heads * D; i += THREADS) {
        unsigned g = i / D, d = i % D;
        float o = 0;
#pragma unroll 16
        for (unsigned part = 0; part < job.active; part++)
            o += parts.top[part][g] * __ldcg(partial + (g * p.splits + part) * (D + STATS) + d);
        out[i] = from_f32<T>(o / parts.sum[0][g]);
    }
}

template <class T, int D, int G>
__device__ __forceinline__ void decode_attention(const DecodeAttentionParams &p) {
    // Keys of a lane group at a time: as many as the registers leave room for.
    constexpr unsigned U = G > 2 ? 2 : 4, GROUPS = THREADS / (D / VEC<T>);
    __shared__ Shared<D, G> shared;
    Job<G> job(p, GROUPS * U);
    if (job.begin >= job.len) return;
    State<T, G> state;
    state.clear();
    read_keys<T, D, G, U>(p, job, state);
    merge_warps(state, shared, p.scale * LOG2_E);
    T *out = row_of<T>(p.out, job.b) + job.head0 * D;
    float *partial = p.partial + (size_t(job.b) * p.q_heads + job.head0) * p.splits * (D + STATS);
    store_part(p, job, shared, out, partial);
    if (job.active > 1 && is_last(p, job, shared)) add_splits(p, job, shared, out, static_cast<const float *>(partial));
}

#define ENTRY(G, D, T)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, G > 4 ? 1 : 2)                                               \
        decode_attention_g##G##_d##D##_##T(const __grid_constant__ DecodeAttentionParams p) {                          \
        begin_kernel();                                                                                                \
        decode_attention<T, D, G>(p);                                                                                  \
    }
#define ENTRIES(G, T) ENTRY(G, 32, T) ENTRY(G, 64, T) ENTRY(G, 128, T)
ENTRIES(2, bf16)
ENTRIES(4, bf16)
ENTRIES(8, bf16)
ENTRIES(2, f16)
ENTRIES(4, f16)
ENTRIES(8, f16)
ENTRIES(2, f32)
ENTRIES(4, f32)
ENTRIES(8, f32)

// One block for each row.
