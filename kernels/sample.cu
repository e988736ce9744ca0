// The next token of each sequence. One CTA for each; where sequences are few, and only the largest logit matters or a top_k
// is small, a cluster of eight, each of which looks at an eighth of the ids.
//
// A thread's largest logit is found on the way to the largest of all. The k-th largest of these 1024 is at most the
// k-th largest logit, so that one more pass can collect a short list of candidates into shared memory, in order of
// id. Where it is very short one warp goes on alone (sample_few.cuh), else thresholds are searched on it by bisection.
// What does not fit the list takes the same steps on the whole row.
//
// A row is small (0.6 MB in f32) and comes from L2 after the first pass; the bound is the latency of passes and barriers
// on one multiprocessor.
#include "philox.cuh"
#include "sample_few.cuh"

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
        bool fits = collect(row, listed_from(least, set.max), p.temperature, s, set);
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

// What is drawn at a position, from 0 to 1.
__device__ __forceinline__ float uniform_at(const SampleParams &p, unsigned sequence, unsigned position) {
    return uniform(philox(make_uint4(position, sequence, 0, 0), p.seed).x);
}

// The token of a sequence, which the first thread learns. Called, so that a kernel that seldom does needs no more registers.
__device__ __noinline__ unsigned choose(const SampleParams &p, const Row &row, unsigned sequence, unsigned position, Shared &s,
                           Few &few) {
    Best mine;
    mine.add(row);
    Best best = block_best(mine, s);
    if (p.temperature == 0) return best.id;
    Set set;
    set.max = best.value / p.temperature;
    double total = candidates(p, row, mine.value, s, set);
    float u = uniform_at(p, sequence, position);
    if (set.id && gather<1>(set, 0, s, few)) return threadIdx.x < 32 ? few.choose(p, set.max, total, u) : 0;
    unsigned top = key_of(set.max), least = 0;
    if (p.top_k) least = bisect(0, top, [&](unsigned key) { return set.count_from(key, s) >= p.top_k; });
    if (p.top_p < 1) {
        double need = p.top_p * (total > 0 ? total : set.mass_from(least, s));
        least = bisect(least, top, [&](unsigned key) { return set.mass_from(key, s) >= need; });
    }
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
    __shared__ Few few;
    unsigned b = blockIdx.x, position = p.positions[b];
    Row row(row_of<float>(p.logits, b), p.vocab);
    if (p.seen) {
        const unsigned *history = p.history + size_t(b) * p.capacity;
        unsigned len = position < p.capacity ? position + 1 : p.capacity;
        penalize(p, row.logits, history, len, p.seen + size_t(b) * ((p.vocab + 31) / 32));
    }
    unsigned token = choose(p, row, b, position, s, few);
    if (threadIdx.x == 0) move_on(p, b, position, token);
}

#if CLUSTERS
extern "C" __global__ void CLUSTER_OF(SAMPLE_CTAS) __launch_bounds__(THREADS)
    sample_greedy(const __grid_constant__ SampleParams p) {
    begin_kernel();
    __shared__ unsigned long long of_warps[WARPS], of_cta;
    unsigned rank = cluster_rank(), b = blockIdx.x / SAMPLE_CTAS;
    Best mine;
    mine.add(Row(row_of<float>(p.logits, b), p.vocab, rank * WARPS + threadIdx.x / 32, SAMPLE_CTAS * WARPS));
    unsigned long long best = block_best(rank_of(mine), of_warps);
    if (threadIdx.x == 0) of_cta = best;
    cluster_sync(); // all CTAs' are there
    if (rank == 0 && threadIdx.x < 32) {
        best = warp_best(*cluster_shared(&of_cta, threadIdx.x % SAMPLE_CTAS));
        if (threadIdx.x == 0) move_on(p, b, p.positions[b], ~unsigned(best));
    }
    cluster_sync(); // and have been read
}

// With a top_k that is small beside the 256 warps of a cluster: the k-th largest of their largest logits is at most the k-th
// largest, and not much less, since few warps have two of the k. What is more than a short list the first CTA does alone.
extern "C" __global__ void CLUSTER_OF(SAMPLE_CTAS) __launch_bounds__(THREADS)
    sample_top_k(const __grid_constant__ SampleParams p) {
    begin_kernel();
    __shared__ Shared s;
    __shared__ Few few;
    __shared__ unsigned tops[WARPS];
    unsigned rank = cluster_rank(), b = blockIdx.x / SAMPLE_CTAS;
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Row row(row_of<float>(p.logits, b), p.vocab, rank * WARPS + warp, SAMPLE_CTAS * WARPS);
    Best mine;
    mine.add(row);
    unsigned top = __reduce_max_sync(~0u, key_of(mine.value));
    if (lane == 0) tops[warp] = top;
    cluster_sync(); // all warps' are there
    unsigned of_warps[SAMPLE_CTAS];
#pragma unroll
    for (unsigned i = 0; i < SAMPLE_CTAS; i++)
        of_warps[i] = *cluster_shared(&tops[lane], i), top = max(top, of_warps[i]);
    top = __reduce_max_sync(~0u, top);
    auto enough = [&](unsigned key) {
        unsigned n = 0;
#pragma unroll
        for (unsigned i = 0; i < SAMPLE_CTAS; i++) n += of_warps[i] >= key;
        return __reduce_add_sync(~0u, n) >= p.top_k;
    };
    unsigned least = bisect(key_of(-INFINITY), top, enough);
    Set set;
    set.max = from_key(top) / p.temperature;
    collect(row, listed_from(from_key(least), set.max), p.temperature, s, set);
    bool is_short = gather<SAMPLE_CTAS>(set, rank, s, few);
    if (!is_short) cluster_sync(); // all have read the counts of all
    if (rank > 0) return;
    unsigned position = p.positions[b], token = 0;
    if (!is_short) token = choose(p, Row(row.logits, p.vocab), b, position, s, few);
    else if (warp == 0) token = few.choose(p, set.max, 0, uniform_at(p, b, position));
    if (threadIdx.x == 0) move_on(p, b, position, token);
}
#endif
