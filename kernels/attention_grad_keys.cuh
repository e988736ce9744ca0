#pragma once
// What both gradients by tiles of keys on Hopper share: a CTA has 128 keys of one key head, whose d_k and d_v stay in
// registers, and walks over the queries of its group, or SHARES CTAs, a cluster, share these. Two warpgroups of 64 keys
// multiply, and a warp loads (attention_wgmma.cuh). Scores have keys as rows, so that weights and slopes are left
// factors for d_v and d_k.
#include "attention_slopes.cuh"
#include "attention_wgmma.cuh"

#if WGMMA
constexpr int KV_KEYS = ATTENTION_GRAD_WGMMA_KEYS, KV_QUERIES = ATTENTION_GRAD_WGMMA_QUERIES;

template <class T, int D, int STAGES> struct KeysShared {
    using Keys = Ring<T, D, KV_KEYS, 1>;
    using Queries = Ring<T, D, KV_QUERIES, STAGES>;
    unsigned char k[Keys::BYTES], v[Keys::BYTES], q[Queries::BYTES], d_out[Queries::BYTES];
    float lse[STAGES][KV_QUERIES], delta[STAGES][KV_QUERIES];
    Keys k_ring, v_ring;
    Queries q_ring, d_ring;

    __device__ __forceinline__ void init() { k_ring.init(), v_ring.init(), q_ring.init(), d_ring.init(); }
};

// What a CTA works on: steps over tiles of queries, from the last to the first that sees its keys, and over the heads
// of each. `index` counts key heads first, then sequences, then tiles of keys: those with most queries come first.
struct KeysJob {
    BlockJob job; // its head is a key head
    Sequence seq;
    unsigned key0, first_head, heads, rounds; // of query tiles

    __device__ __forceinline__ KeysJob(const AttentionGradParams &p, unsigned index, unsigned share, unsigned shares)
        : job(index, p.kv_heads, p.n_seqs), seq(p.cu_seqlens, job.sequence, p.n), key0(job.tile * KV_KEYS) {
        unsigned group = p.q_heads / p.kv_heads;
        seq.len = min(seq.len, p.max_len); // more has no CTAs
        heads = group / shares, first_head = job.head * group + share * heads;
        rounds = key0 < seq.len ? (seq.len - key0 + KV_QUERIES - 1) / KV_QUERIES : 0;
    }
    __device__ __forceinline__ unsigned steps() const { return rounds * heads; }
    __device__ __forceinline__ unsigned head(unsigned step) const { return first_head + step % heads; }
    __device__ __forceinline__ unsigned query(unsigned step) const { // the first of the tile
        return key0 + (rounds - 1 - step / heads) * KV_QUERIES;
    }
};

// The loader: keys and values, then tiles of queries and gradients. From `valid_keys` on keys become zeros.
template <class T, int D, int STAGES>
__device__ __forceinline__ void load_queries(const AttentionGradWgmmaParams &p, KeysShared<T, D, STAGES> &shared,
                                             const KeysJob &job, unsigned valid_keys) {
    const AttentionGradParams &g = p.grad;
    unsigned lane = threadIdx.x % 32, column = job.job.head * D, row0 = job.seq.start + job.key0;
    Turn<1> k, v;
    Turn<STAGES> q, d;
    shared.k_ring.fill(shared.k, k, {p.k, column}, row0, valid_keys);
    for (unsigned step = 0; step < job.steps(); step++) {
        unsigned head = job.head(step), query = job.query(step);
        unsigned row = job.seq.start + query, valid = job.seq.len - query;
        const float *lse = g.lse + size_t(head) * g.n + row, *delta = g.delta + size_t(head) * g.n + row;
        float l[KV_QUERIES / 32], e[KV_QUERIES / 32];
#pragma unroll
        for (int i = 0; i < KV_QUERIES / 32; i++) {
            unsigned at = lane + i * 32;
            l[i] = at < valid ? lse[at] : 0.f, e[i] = at < valid ? delta[at] : 0.f;
        }
        shared.q_ring.claim(q);
#pragma unroll
        for (int i = 0; i < KV_QUERIES / 32; i++) shared.lse[q.stage][lane + i * 32] = l[i];
        __syncwarp();
        shared.q_ring.fill(shared.q, q, {p.q, head * D}, row, valid);
        if (step == 0) shared.v_ring.fill(shared.v, v, {p.v, column}, row0);
        shared.d_ring.claim(d);
#pragma unroll
        for (int i = 0; i < KV_QUERIES / 32; i++) shared.delta[d.stage][lane + i * 32] = e[i];
        __syncwarp();
        shared.d_ring.fill(shared.d_out, d, {p.d_out, head * D}, row, valid);
    }
}

// What a warpgroup does that multiplies: 64 keys.
template <class T, int D, int STAGES> struct KeysGradient {
    using S = KeysShared<T, D, STAGES>;
    using Keys = typename S::Keys::Rows;
    using Queries = typename S::Queries::Rows;
    const AttentionGradParams &p;
    S &shared;
    const KeysJob &job;
    const unsigned group, key; // the warpgroup, and the first of this warp's keys from key0
    float s[1][KV_QUERIES / 8][4], dp[1][KV_QUERIES / 8][4];
    float d_k[1][D / 8][4], d_v[1][D / 8][4];
    unsigned weights[1][KV_QUERIES / 16][4], slopes[1][KV_QUERIES / 16][4];

    __device__ __forceinline__ KeysGradient(const AttentionGradParams &p, S &shared, const KeysJob &job)
        : p(p), shared(shared), job(job), group(__shfl_sync(~0u, threadIdx.x / 128, 0)), key(threadIdx.x / 32 * 16) {}

    __device__ __forceinline__ unsigned q_tile(const Turn<STAGES> &turn) const {
        return shared_address(shared.q) + turn.stage * Queries::BYTES;
    }
    __device__ __forceinline__ unsigned d_tile(const Turn<STAGES> &turn) const {
        return shared_address(shared.d_out) + turn.stage * Queries::BYTES;
    }
    // So many steps from the first; in the rest, the last tile's, all queries come before the second warpgroup's keys.
    __device__ __forceinline__ unsigned busy() const { return job.steps() - group * job.heads; }
    __device__ __forceinline__ void await(const Turn<STAGES> &turn) {
        shared.q_ring.await(turn), shared.d_ring.await(turn);
    }
    __device__ __forceinline__ void release(const Turn<STAGES> &turn) {
        shared.q_ring.release(turn.stage), shared.d_ring.release(turn.stage);
    }
    __device__ __forceinline__ void queue_scores(const Turn<STAGES> &turn) {
        shared.q_ring.await(turn);
        wgmma_fence();
        Wgmma::multiply<T, D, Keys, Queries>(s, shared_address(shared.k), q_tile(turn));
        wgmma_commit();
    }
    __device__ __forceinline__ void queue_gradients(const Turn<STAGES> &turn) {
        shared.d_ring.await(turn);
        wgmma_fence();
        Wgmma::multiply<T, D, Keys, Queries>(dp, shared_address(shared.v), d_tile(turn));
        wgmma_commit();
    }
    __device__ __forceinline__ void begin() {
        clear(d_k[0]), clear(d_v[0]);
        shared.k_ring.await(Turn<1>()), shared.v_ring.await(Turn<1>());
    }
    // Scores to weights to slopes, and what they add to d_v and d_k. `release` gives back what the products before
    // read, `leave` has the slopes before they are multiplied.
    template <class Release, class Leave>
    __device__ __forceinline__ void use(unsigned step, const Turn<STAGES> &now, Release release, Leave leave) {
        int distance = int(job.key0 + key - job.query(step));
        bool diagonal = distance + 15 > 0;
        wgmma_wait<1>(s[0]);
        release();
        weigh_keys(s, shared.lse[now.stage], p.scale * LOG2_E, diagonal, distance);
        to_fragments<T>(weights, s);
        wgmma_fence();
        Wgmma::add<T, Queries>(d_v, weights, d_tile(now));
        wgmma_commit();
        wgmma_wait<1>(dp[0]);
        slope_keys(dp, s, shared.delta[now.stage], diagonal, distance);
        to_fragments<T>(slopes, dp);
        leave();
        wgmma_fence();
        Wgmma::add<T, Queries>(d_k, slopes, q_tile(now));
        wgmma_commit();
    }
    using Sums = float4[2][D / 8][MULTIPLIERS];
    // In the end: d_k and d_v, as the threads have them, where tiles were.
    __device__ __forceinline__ Sums &sums() const {
        static_assert(sizeof(Sums) <= offsetof(S, lse), "they fit");
        return *reinterpret_cast<Sums *>(shared.k);
    }
    // Leaves the sums of this CTA's heads in shared memory, for the cluster.
    __device__ __forceinline__ void leave() {
        multipliers_sync(); // the other warpgroup has read keys and values
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            sums()[0][n][threadIdx.x] = {d_k[0][n][0], d_k[0][n][1], d_k[0][n][2], d_k[0][n][3]};
            sums()[1][n][threadIdx.x] = {d_v[0][n][0], d_v[0][n][1], d_v[0][n][2], d_v[0][n][3]};
        }
    }
    // The sums of all CTAs of the cluster for this thread's rows, in the order of the heads.
    template <int SHARES> __device__ __forceinline__ void merge() {
        auto add = [&](float (&sum)[D / 8][4], int which) {
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                sum[n][0] = sum[n][1] = sum[n][2] = sum[n][3] = 0.f;
#pragma unroll
                for (int share = 0; share < SHARES; share++) {
                    float4 v = *cluster_shared(&sums()[which][n][threadIdx.x], share);
                    sum[n][0] += v.x, sum[n][1] += v.y, sum[n][2] += v.z, sum[n][3] += v.w;
                }
            }
        };
        add(d_k[0], 0), add(d_v[0], 1);
    }
    // The end, when all that this CTA's heads add is in registers: of SHARES CTAs, a cluster, each adds up and stores the
    // rows of a part of its warps. The warps that do not multiply meet the others by `leave_cluster`.
    template <int SHARES> __device__ __forceinline__ void finish() {
        if constexpr (SHARES == 1) {
            multipliers_sync(); // the others have read keys and values
        } else {
            bool mine = threadIdx.x / (MULTIPLIERS / SHARES) == cluster_rank();
            leave();
            cluster_sync();
            if (mine) merge<SHARES>();
            cluster_sync(); // all have read what this CTA left
            if (!mine) return;
        }
        store();
    }

  private:
    // Rows of this warp to memory, through its rows of the tiles of keys and values.
    __device__ __forceinline__ void store() {
        if (job.key0 + key >= job.seq.len) return;
        size_t row = job.seq.start + job.key0 + key;
        unsigned valid = job.seq.len - job.key0 - key, column = job.job.head * D;
        T *to_k = row_of<T>(p.d_k, row) + column, *to_v = row_of<T>(p.d_v, row) + column;
        store_rows<T, D, Keys, 1>(to_k, p.d_k.stride, valid, d_k, {{p.scale, p.scale}}, shared.k, key);
        store_rows<T, D, Keys, 1>(to_v, p.d_v.stride, valid, d_v, {{1.f, 1.f}}, shared.v, key);
    }
};

// By warps that do not multiply, in the end.
template <int SHARES> __device__ __forceinline__ void leave_cluster() {
    if constexpr (SHARES > 1) __syncwarp(), cluster_sync(), cluster_sync();
}
#endif
