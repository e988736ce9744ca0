// The next token of each sequence. One CTA for each; where only the largest logit matters and sequences are few, a cluster of
// eight, each of which looks at an eighth of the ids.
//
// A thread's largest logit is found on the way to the largest of all. The k-th largest of these 1024 is at most the
// k-th largest logit, so that one more pass can collect a short list of candidates into shared memory, in order of
// id, on which thresholds are searched by bisection. What does not fit the list takes the same steps on the whole row.
//
// A warp looks at a range of ids of its own, so that lists, masses and the cumulative sum are in order of id without a
// sort, and the draw is the same whatever path led to it. Sums of masses are f64 across warps, in a fixed order. A
// helper that writes to a field of `Shared` again has a barrier before it, so that what stood there has been read. A
// row is small (0.6 MB in f32) and comes from L2 after the first pass; the bound is the latency of passes and barriers
// on one multiprocessor.
#include "cluster.cuh"
#include "keys.cuh"
#include "philox.cuh"
#include "reduce.cuh"
#include "types.cuh"
#include <cfloat>
#include <cstdint>

constexpr unsigned THREADS = SAMPLE_THREADS;
constexpr unsigned WARPS = THREADS / 32;
// Candidates of one warp, which looks at a range of ids of its own.
constexpr unsigned CAPACITY = 128;
// Candidates to look for when top_p alone decides how many are needed.
constexpr unsigned TOP_P_CANDIDATES = 256;

struct Shared {
    float value[WARPS * CAPACITY];
    unsigned id[WARPS * CAPACITY];
    double totals[WARPS];
    unsigned long long best[WARPS];
    unsigned counts[WARPS];
    float floats[32];
    unsigned chosen;
};

__device__ unsigned block_count(unsigned n, Shared &s) {
    n = __reduce_add_sync(~0u, n);
    __syncthreads();
    if (threadIdx.x % 32 == 0) s.counts[threadIdx.x / 32] = n;
    __syncthreads();
    return __reduce_add_sync(~0u, s.counts[threadIdx.x % 32]);
}

__device__ double block_total(float v, Shared &s) {
    v = warp_sum(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0) s.totals[threadIdx.x / 32] = v;
    __syncthreads();
    double total = s.totals[threadIdx.x % 32];
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) total += __shfl_xor_sync(~0u, total, o);
    return total;
}

// The logits of one sequence; each warp of `warps`, of which this is one, looks at ids start .. end, four at a time.
struct Row {
    float *logits;
    unsigned vocab, start, end;
    bool packed;

    __device__ Row(float *logits, unsigned vocab, unsigned warp = threadIdx.x / 32, unsigned warps = WARPS)
        : logits(logits), vocab(vocab) {
        unsigned range = (vocab + warps * 128 - 1) / (warps * 128) * 128;
        start = min(warp * range, vocab);
        end = min(start + range, vocab);
        packed = reinterpret_cast<uintptr_t>(logits) % 16 == 0;
    }
    // Ids i .. i + 3; -inf for those that do not exist.
    __device__ __forceinline__ float4 load(unsigned i) const {
        if (packed && i + 4 <= end) return *reinterpret_cast<const float4 *>(logits + i);
        auto one = [&](unsigned j) { return j < end ? logits[j] : -INFINITY; };
        return make_float4(one(i), one(i + 1), one(i + 2), one(i + 3));
    }
    // Calls `visit(first id, four logits)` for every id of this warp's range; all lanes take part in every call.
    template <class Visit> __device__ __forceinline__ void each(Visit visit) const {
        constexpr int AHEAD = 4;
        for (unsigned i = start; i < end; i += AHEAD * 128) {
            float4 x[AHEAD];
#pragma unroll
            for (int a = 0; a < AHEAD; a++) x[a] = load(i + a * 128 + threadIdx.x % 32 * 4);
#pragma unroll
            for (int a = 0; a < AHEAD; a++) visit(i + a * 128 + threadIdx.x % 32 * 4, x[a]);
        }
    }
};

// Divides the positive and multiplies the negative logits of the distinct tokens of history[0 .. len].
__device__ void penalize(const SampleParams &p, float *logits, const unsigned *history, unsigned len, unsigned *seen) {
    for (unsigned i = threadIdx.x; i < (p.vocab + 31) / 32; i += THREADS) seen[i] = 0;
    __syncthreads();
    for (unsigned i = threadIdx.x; i < len; i += THREADS) {
        unsigned token = history[i];
        if (token >= p.vocab) continue;
        unsigned bit = 1u << token % 32;
        if (atomicOr(&seen[token / 32], bit) & bit) continue;
        float v = logits[token];
        logits[token] = v > 0 ? v / p.repetition_penalty : v * p.repetition_penalty;
    }
    __syncthreads();
}

struct Best {
    float value = -INFINITY; // this thread's largest
    unsigned id = 0;

    __device__ __forceinline__ void add(unsigned i, float v) {
        if (v > value) {
            value = v;
            id = i;
        }
    }
    __device__ __forceinline__ void add(const Row &row) {
        row.each([&](unsigned i, float4 x) { add(i, x.x), add(i + 1, x.y), add(i + 2, x.z), add(i + 3, x.w); });
    }
};

// A logit and its id as a number that is larger where the logit is, or the id is less among equals.
__device__ __forceinline__ unsigned long long rank_of(const Best &best) {
    return (uint64_t(key_of(best.value)) << 32) | ~best.id;
}
__device__ __forceinline__ unsigned long long warp_best(unsigned long long best) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) {
        unsigned long long other = __shfl_xor_sync(~0u, best, o);
        best = other > best ? other : best;
    }
    return best;
}
__device__ __forceinline__ unsigned long long block_best(unsigned long long best, unsigned long long (&of_warps)[WARPS]) {
    best = warp_best(best);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = best;
    __syncthreads();
    return warp_best(of_warps[threadIdx.x % 32]);
}

// The largest logit of all; the lowest id among equals.
__device__ Best block_best(const Best &mine, Shared &s) {
    unsigned long long best = block_best(rank_of(mine), s.best);
    Best all;
    all.value = from_key(unsigned(best >> 32));
    all.id = ~unsigned(best);
    return all;
}

// The largest key in lo ..= hi for which `holds`, which holds for lo, and for whatever is below where it holds.
template <class Holds> __device__ unsigned bisect(unsigned lo, unsigned hi, Holds holds) {
    while (lo < hi) {
        unsigned mid = lo + (hi - lo) / 2 + 1;
        if (holds(mid)) lo = mid;
        else hi = mid - 1;
    }
    return lo;
}

// What is chosen from: this warp's part, in order of id. Values are divided by the temperature.
struct Set {
    const float *value;
    const unsigned *id; // null: first + index
    unsigned first, count;
    float max; // of the whole set

    __device__ __forceinline__ float mass(unsigned i) const { return expf(value[i] - max); }
    __device__ __forceinline__ unsigned id_of(unsigned i) const { return id ? id[i] : first + i; }

    __device__ unsigned count_from(unsigned key, Shared &s) const {
        unsigned n = 0;
        for (unsigned i = threadIdx.x % 32; i < count; i += 32) n += key_of(value[i]) >= key;
        return block_count(n, s);
    }
    __device__ double mass_from(unsigned key, Shared &s) const {
        float sum = 0;
        for (unsigned i = threadIdx.x % 32; i < count; i += 32) sum += key_of(value[i]) >= key ? mass(i) : 0.f;
        return block_total(sum, s);
    }
};

// Collects the logits from `least` on. False when they do not fit; then the list is not to be used.
__device__ bool collect(const Row &row, float least, float temperature, Shared &s, Set &set) {
    unsigned warp = threadIdx.x / 32, n = 0;
    row.each([&](unsigned i, float4 x) {
        float v[4] = {x.x, x.y, x.z, x.w};
        unsigned hits = 0;
#pragma unroll
        for (int j = 0; j < 4; j++) hits |= unsigned(i + j < row.end && v[j] >= least) << j;
        if (!__any_sync(~0u, hits)) return;
        unsigned mine = __popc(hits), before = mine;
#pragma unroll
        for (int o = 1; o < 32; o <<= 1) {
            unsigned other = __shfl_up_sync(~0u, before, o);
            if (threadIdx.x % 32 >= o) before += other;
        }
        unsigned at = n + before - mine;
        n += __shfl_sync(~0u, before, 31);
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (hits >> j & 1) {
                if (at < CAPACITY) {
                    s.value[warp * CAPACITY + at] = v[j] / temperature;
                    s.id[warp * CAPACITY + at] = i + j;
                }
                at++;
            }
    });
    set.value = s.value + warp * CAPACITY;
    set.id = s.id + warp * CAPACITY;
    set.first = 0;
    set.count = n;
    // A barrier, too: the list is complete after it.
    return !__syncthreads_or(n > CAPACITY);
}

// The sum of exp((logit - max) / temperature) over the whole row.
__device__ double total_mass(const Row &row, float max, float temperature, Shared &s) {
    float sum = 0;
    row.each([&](unsigned i, float4 x) {
        sum += expf(x.x / temperature - max) + expf(x.y / temperature - max);
        sum += expf(x.z / temperature - max) + expf(x.w / temperature - max);
    });
    return block_total(sum, s);
}

// The whole row as the set: its values are divided in place.
__device__ void take_all(const Row &row, float temperature, Set &set) {
    for (unsigned i = row.start + threadIdx.x % 32; i < row.end; i += 32) row.logits[i] /= temperature;
    set.value = row.logits + row.start;
    set.id = nullptr;
    set.first = row.start;
    set.count = row.end - row.start;
    __syncthreads();
}

// A set that holds every token that top_k and top_p may keep. Returns the mass that top_p is a share of when top_k
// is off, and 0 when it has to be summed.
__device__ double candidates(const SampleParams &p, const Row &row, float mine, Shared &s, Set &set) {
    unsigned want = p.top_k ? p.top_k : p.top_p < 1 ? TOP_P_CANDIDATES : THREADS + 1;
    if (want <= THREADS) {
        auto enough = [&](unsigned key) { return __syncthreads_count(key_of(mine) >= key) >= want; };
        float least = from_key(bisect(key_of(-INFINITY), key_of(FLT_MAX), enough));
        // A little less: logits that differ may be equal after the division.
        least -= fabsf(least) * 1e-6f + FLT_MIN;
        // Where others are possible, what is minus infinity is not listed: it may be nearly all.
        if (set.max > -INFINITY) least = fmaxf(least, -FLT_MAX);
        bool fits = collect(row, least, p.temperature, s, set);
        if (fits && p.top_k) return 0;
        double total = fits ? total_mass(row, set.max, p.temperature, s) : 0;
        if (fits && set.mass_from(0, s) >= p.top_p * total) return total;
    }
    take_all(row, p.temperature, set);
    return 0;
}

// The first of the kept, in order of id, whose cumulative mass exceeds u times the whole.
__device__ unsigned draw(const Set &set, unsigned least, float min_p, float u, Shared &s) {
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    auto kept = [&](unsigned i) {
        float mass = set.mass(i);
        return key_of(set.value[i]) >= least && mass >= min_p ? mass : 0.f;
    };
    // Each lane sums a range, so that the ranges of a warp are in order of id.
    unsigned range = (set.count + 31) / 32;
    unsigned start = min(lane * range, set.count), end = min(start + range, set.count);
    float mine = 0;
    for (unsigned i = start; i < end; i++) mine += kept(i);
    double before = mine;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
        double other = __shfl_up_sync(~0u, before, o);
        if (lane >= o) before += other;
    }
    __syncthreads();
    if (lane == 31) s.totals[warp] = before;
    if (threadIdx.x == 0) s.chosen = ~0u;
    __syncthreads();
    double warps_before = 0, total = 0;
    for (unsigned w = 0; w < WARPS; w++) {
        if (w < warp) warps_before += s.totals[w];
        total += s.totals[w];
    }
    // The cumulative mass before this lane's range. The atomic minimum decides where rounding lets two lanes claim.
    double sum = warps_before + before - mine, target = u * total;
    if (mine > 0 && sum + mine > target)
        for (unsigned i = start; i < end; i++) {
            float mass = kept(i);
            sum += mass;
            if (mass > 0 && sum > target) {
                atomicMin(&s.chosen, set.id_of(i));
                break;
            }
        }
    __syncthreads();
    if (s.chosen != ~0u) return s.chosen;
    // Rounding has left nothing above the target: the last of the kept.
    unsigned last = 0;
    for (unsigned i = start; i < end; i++)
        if (kept(i) > 0) last = set.id_of(i);
    last = __reduce_max_sync(~0u, last);
    __syncthreads();
    if (lane == 0) s.counts[warp] = last;
    __syncthreads();
    return __reduce_max_sync(~0u, s.counts[lane]);
}

__device__ unsigned choose(const SampleParams &p, const Row &row, unsigned position, Shared &s) {
    Best mine;
    mine.add(row);
    Best best = block_best(mine, s);
    if (p.temperature == 0) return best.id;
    Set set;
    set.max = best.value / p.temperature;
    double total = candidates(p, row, mine.value, s, set);
    unsigned top = key_of(set.max), least = 0;
    if (p.top_k) least = bisect(0, top, [&](unsigned key) { return set.count_from(key, s) >= p.top_k; });
    if (p.top_p < 1) {
        double need = p.top_p * (total > 0 ? total : set.mass_from(least, s));
        least = bisect(least, top, [&](unsigned key) { return set.mass_from(key, s) >= need; });
    }
    float u = uniform(philox(make_uint4(position, blockIdx.x, 0, 0), p.seed).x);
    return draw(set, least, p.min_p, u, s);
}

// Moves sequence b on. By one thread.
__device__ __forceinline__ void move_on(const SampleParams &p, unsigned b, unsigned position, unsigned token) {
    p.tokens[b] = token;
    if (position + 1 < p.capacity) p.history[size_t(b) * p.capacity + position + 1] = token;
    p.positions[b] = position + 1;
}

extern "C" __global__ void __launch_bounds__(THREADS) sample(const __grid_constant__ SampleParams p) {
    begin_kernel();
    __shared__ Shared s;
    unsigned b = blockIdx.x, position = p.positions[b];
    Row row(row_of<float>(p.logits, b), p.vocab);
    if (p.seen) {
        const unsigned *history = p.history + size_t(b) * p.capacity;
        unsigned len = position < p.capacity ? position + 1 : p.capacity;
        penalize(p, row.logits, history, len, p.seen + size_t(b) * ((p.vocab + 31) / 32));
    }
    unsigned token = choose(p, row, position, s);
    if (threadIdx.x == 0) move_on(p, b, position, token);
}

#if CLUSTERS
extern "C" __global__ void CLUSTER_OF(SAMPLE_GREEDY_CTAS) __launch_bounds__(THREADS)
    sample_greedy(const __grid_constant__ SampleParams p) {
    begin_kernel();
    __shared__ unsigned long long of_warps[WARPS], of_cta;
    unsigned rank = cluster_rank(), b = blockIdx.x / SAMPLE_GREEDY_CTAS;
    Best mine;
    mine.add(Row(row_of<float>(p.logits, b), p.vocab, rank * WARPS + threadIdx.x / 32, SAMPLE_GREEDY_CTAS * WARPS));
    unsigned long long best = block_best(rank_of(mine), of_warps);
    if (threadIdx.x == 0) of_cta = best;
    cluster_sync(); // all CTAs' are there
    if (rank == 0 && threadIdx.x < 32) {
        best = warp_best(*cluster_shared(&of_cta, threadIdx.x % SAMPLE_GREEDY_CTAS));
        if (threadIdx.x == 0) move_on(p, b, p.positions[b], ~unsigned(best));
    }
    cluster_sync(); // and have been read
}
#endif
