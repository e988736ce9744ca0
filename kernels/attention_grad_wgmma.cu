// attention_grad on Hopper, for heads of 64 and 128 elements: kernels 2 and 3 of attention_grad.cu, whose comment says
// what they compute and in which order. Two warpgroups of 64 rows multiply, and a warp loads (attention_wgmma.cuh).
//
// As soon as a warpgroup has what it needs of a tile's scores, it queues those of the next tile behind the products
// that use them: so that the tensor cores have work while it computes exponentials.
#include "attention_slopes.cuh"
#include "attention_wgmma.cuh"

#if WGMMA
constexpr int KV_KEYS = ATTENTION_GRAD_KV_WGMMA_KEYS, KV_QUERIES = 64, KV_STAGES = 4;
constexpr int Q_QUERIES = ATTENTION_GRAD_Q_WGMMA_QUERIES, Q_KEYS = 64, Q_STAGES = 3;

// ---- d_k and d_v: a CTA has 128 keys of one key head, and SHARES of them share its query heads
template <class T, int D> struct KeysShared {
    using Keys = Ring<T, D, KV_KEYS, 1>;
    using Queries = Ring<T, D, KV_QUERIES, KV_STAGES>;
    union {
        struct {
            unsigned char k[Keys::BYTES], v[Keys::BYTES], q[Queries::BYTES], d_out[Queries::BYTES];
        };
        float4 sums[2][D / 8][MULTIPLIERS]; // in the end: d_k and d_v, as the threads have them
    };
    float lse[KV_STAGES][KV_QUERIES], delta[KV_STAGES][KV_QUERIES];
    Keys k_ring, v_ring;
    Queries q_ring, d_ring;
};

// What a CTA works on.
struct KeysJob {
    BlockJob job; // its head is a key head
    Sequence seq;
    unsigned key0, first_head, heads, rounds; // of query tiles, from the first that sees these keys

    __device__ __forceinline__ KeysJob(const AttentionGradParams &p, unsigned shares)
        : job(blockIdx.x / shares, p.kv_heads, p.n_seqs), seq(p.cu_seqlens, job.sequence, p.n),
          key0(job.tile * KV_KEYS) {
        unsigned group = p.q_heads / p.kv_heads;
        heads = group / shares, first_head = job.head * group + blockIdx.x % shares * heads;
        rounds = key0 < seq.len ? (seq.len - key0 + KV_QUERIES - 1) / KV_QUERIES : 0;
    }
};

// The loader: keys and values, then tiles of queries and gradients, head after head.
template <class T, int D>
__device__ __forceinline__ void load_queries(const AttentionGradWgmmaParams &p, KeysShared<T, D> &shared,
                                             const KeysJob &job) {
    const AttentionGradParams &g = p.grad;
    unsigned lane = threadIdx.x % 32, column = job.job.head * D;
    Turn<1> k, v;
    Turn<KV_STAGES> q, d;
    shared.k_ring.fill(shared.k, k, {p.k, column}, job.seq.start + job.key0);
    for (unsigned step = 0; step < job.rounds * job.heads; step++) {
        unsigned head = job.first_head + step / job.rounds, query = job.key0 + step % job.rounds * KV_QUERIES;
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
        if (step == 0) shared.v_ring.fill(shared.v, v, {p.v, column}, job.seq.start + job.key0);
        shared.d_ring.claim(d);
#pragma unroll
        for (int i = 0; i < KV_QUERIES / 32; i++) shared.delta[d.stage][lane + i * 32] = e[i];
        __syncwarp();
        shared.d_ring.fill(shared.d_out, d, {p.d_out, head * D}, row, valid);
    }
}

// What a warpgroup does that multiplies: 64 keys.
template <class T, int D> struct KeysGradient {
    using S = KeysShared<T, D>;
    using Keys = typename S::Keys::Rows;
    using Queries = typename S::Queries::Rows;
    const AttentionGradParams &p;
    S &shared;
    const KeysJob &job;
    const unsigned first, key; // from key0: the first of the warpgroup's keys, and of this warp's
    Turn<KV_STAGES> next;      // the tiles whose scores are queued next
    Turn<KV_STAGES> now;       // those in hand
    unsigned step = 0;         // of `next`
    float s[1][KV_QUERIES / 8][4], dp[1][KV_QUERIES / 8][4];
    float d_k[1][D / 8][4], d_v[1][D / 8][4];
    unsigned weights[1][KV_QUERIES / 16][4], slopes[1][KV_QUERIES / 16][4];

    __device__ __forceinline__ KeysGradient(const AttentionGradParams &p, S &shared, const KeysJob &job)
        : p(p), shared(shared), job(job), first(__shfl_sync(~0u, threadIdx.x / 128, 0) * 64),
          key(threadIdx.x / 32 * 16) {}

    __device__ __forceinline__ unsigned query(unsigned step) const { return step % job.rounds * KV_QUERIES; }
    __device__ __forceinline__ unsigned q_tile(const Turn<KV_STAGES> &turn) const {
        return shared_address(shared.q) + turn.stage * Queries::BYTES;
    }
    __device__ __forceinline__ unsigned d_tile(const Turn<KV_STAGES> &turn) const {
        return shared_address(shared.d_out) + turn.stage * Queries::BYTES;
    }
    __device__ __forceinline__ void release(unsigned stage) {
        shared.q_ring.release(stage);
        shared.d_ring.release(stage);
    }
    // Passes over tiles whose queries all come before these keys.
    __device__ __forceinline__ bool skip(unsigned steps) {
        for (; step < steps && first >= query(step) + KV_QUERIES; step++, next.next()) {
            shared.q_ring.await(next), shared.d_ring.await(next);
            release(next.stage);
        }
        return step < steps;
    }
    __device__ __forceinline__ void queue_scores() {
        shared.q_ring.await(next);
        wgmma_fence();
        Wgmma::multiply<T, D, Keys, Queries>(s, shared_address(shared.k), q_tile(next));
        wgmma_commit();
        shared.d_ring.await(next);
        wgmma_fence();
        Wgmma::multiply<T, D, Keys, Queries>(dp, shared_address(shared.v), d_tile(next));
        wgmma_commit();
    }
    __device__ __forceinline__ void run() {
        unsigned steps = job.rounds * job.heads;
        int held = -1; // the stage that the sums under way still read
        shared.k_ring.await(Turn<1>());
        clear(d_k[0]), clear(d_v[0]);
        if (!skip(steps)) return;
        shared.v_ring.await(Turn<1>());
        queue_scores();
        for (;;) {
            now = next;
            int distance = int(key - query(step));
            bool diagonal = distance + 15 > 0;
            step++, next.next();
            wgmma_wait<1>(s[0]);
            if (held >= 0) release(held);
            weigh_keys(s, shared.lse[now.stage], p.scale * LOG2_E, diagonal, distance);
            to_fragments<T>(weights, s);
            wgmma_fence();
            Wgmma::add<T, Queries>(d_v, weights, d_tile(now));
            wgmma_commit();
            wgmma_wait<1>(dp[0]);
            slope_keys(dp, s, shared.delta[now.stage], diagonal, distance);
            to_fragments<T>(slopes, dp);
            wgmma_fence();
            Wgmma::add<T, Queries>(d_k, slopes, q_tile(now));
            wgmma_commit();
            held = now.stage;
            if (!skip(steps)) break;
            wgmma_wait<1>(d_v[0]); // registers are scarce: those of `weights` are free now
            queue_scores();
        }
        wgmma_wait<0>(d_v[0]);
        wgmma_wait<0>(d_k[0]);
    }
    // Leaves the sums of this CTA's heads in shared memory, for the cluster.
    __device__ __forceinline__ void leave() {
        multipliers_sync(); // the other warpgroup has read keys and values
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            shared.sums[0][n][threadIdx.x] = {d_k[0][n][0], d_k[0][n][1], d_k[0][n][2], d_k[0][n][3]};
            shared.sums[1][n][threadIdx.x] = {d_v[0][n][0], d_v[0][n][1], d_v[0][n][2], d_v[0][n][3]};
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
                    float4 v = *cluster_shared(&shared.sums[which][n][threadIdx.x], share);
                    sum[n][0] += v.x, sum[n][1] += v.y, sum[n][2] += v.z, sum[n][3] += v.w;
                }
            }
        };
        add(d_k[0], 0), add(d_v[0], 1);
    }
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

template <class T, int D, int SHARES>
__device__ __forceinline__ void attention_grad_kv(const AttentionGradWgmmaParams &p) {
    extern __shared__ __align__(1024) unsigned char bytes[];
    auto &shared = *reinterpret_cast<KeysShared<T, D> *>(bytes);
    KeysJob job(p.grad, SHARES);
    if (job.rounds == 0) return; // so do all CTAs of the cluster
    if (threadIdx.x == 0) {
        shared.k_ring.init(), shared.v_ring.init(), shared.q_ring.init(), shared.d_ring.init();
        barriers_are_made();
    }
    __syncthreads();
    if (threadIdx.x >= MULTIPLIERS) {
        set_registers<LOADER_REGISTERS, false>();
        if (threadIdx.x / 32 == LOADER) load_queries<T, D>(p, shared, job);
        if constexpr (SHARES > 1) cluster_sync(), cluster_sync();
        return;
    }
    set_registers<MULTIPLIER_REGISTERS, true>();
    KeysGradient<T, D> gradient(p.grad, shared, job);
    gradient.run();
    if constexpr (SHARES == 1) {
        multipliers_sync(); // the others have read keys and values
    } else {
        // Each CTA adds up and stores the rows of a part of its warps.
        bool mine = threadIdx.x / (MULTIPLIERS / SHARES) == blockIdx.x % SHARES;
        gradient.leave();
        cluster_sync();
        if (mine) gradient.template merge<SHARES>();
        cluster_sync(); // all have read what this CTA left
        if (!mine) return;
    }
    gradient.store();
}

// ---- d_q: a CTA stays for the whole launch; a job is 128 queries of one head
template <class T, int D> struct QueriesShared {
    using Queries = Ring<T, D, Q_QUERIES, 1>;
    using Keys = Ring<T, D, Q_KEYS, Q_STAGES>;
    unsigned char q[Queries::BYTES], d_out[Queries::BYTES], k[Keys::BYTES], v[Keys::BYTES], out[Queries::BYTES];
    Queries q_ring, d_ring;
    Keys k_ring, v_ring;
    Jobs::Job job; // comes with the queries
};

// How many tiles of keys a job has, from the first key to the last query.
__device__ __forceinline__ unsigned key_tiles(const Jobs::Job &job) {
    unsigned end = min((job.tile + 1) * Q_QUERIES, job.len);
    return (end + Q_KEYS - 1) / Q_KEYS;
}

template <class T, int D>
__device__ __forceinline__ void load_keys(const AttentionGradWgmmaParams &p, QueriesShared<T, D> &shared) {
    const AttentionGradParams &g = p.grad;
    Jobs jobs{g.cu_seqlens, g.n, g.n_seqs, g.q_heads, Q_QUERIES};
    Turn<1> q, d;
    Turn<Q_STAGES> k, v;
    for (Tickets tickets(p.ticket);;) {
        Jobs::Job job = tickets.draw(jobs);
        unsigned first = job.tile * Q_QUERIES, column = job.head / (g.q_heads / g.kv_heads) * D;
        shared.q_ring.claim(q);
        if (threadIdx.x % 32 == 0) shared.job = job;
        if (job.none) return shared.q_ring.full[0].warp_arrives();
        shared.q_ring.fill(shared.q, q, {p.q, job.head * D}, job.start + first);
        shared.d_ring.claim(d);
        shared.d_ring.fill(shared.d_out, d, {p.d_out, job.head * D}, job.start + first);
        for (unsigned tile = key_tiles(job); tile-- > 0;) {
            unsigned key = tile * Q_KEYS;
            shared.k_ring.claim(k);
            shared.k_ring.fill(shared.k, k, {p.k, column}, job.start + key, job.len - key);
            shared.v_ring.claim(v);
            shared.v_ring.fill(shared.v, v, {p.v, column}, job.start + key);
        }
    }
}

template <class T, int D> struct QueriesGradient {
    using S = QueriesShared<T, D>;
    using Queries = typename S::Queries::Rows;
    using Keys = typename S::Keys::Rows;
    const AttentionGradParams &p;
    S &shared;
    const unsigned group, warp_row; // the warpgroup, the first row of this warp
    Turn<1> q, d;
    Turn<Q_STAGES> k, v;
    unsigned queries[D / 16][4], gradients[D / 16][4];
    float s[1][Q_KEYS / 8][4], dp[1][Q_KEYS / 8][4], d_q[1][D / 8][4];
    unsigned slopes[1][Q_KEYS / 16][4];

    __device__ __forceinline__ QueriesGradient(const AttentionGradParams &p, S &shared)
        : p(p), shared(shared), group(__shfl_sync(~0u, threadIdx.x / 128, 0)), warp_row(threadIdx.x / 32 * 16) {}

    __device__ __forceinline__ void queue_scores(const Turn<Q_STAGES> &k, const Turn<Q_STAGES> &v) {
        shared.k_ring.await(k);
        wgmma_fence();
        Wgmma::multiply<T, D, Keys>(s, queries, shared_address(shared.k) + k.stage * Keys::BYTES);
        wgmma_commit();
        shared.v_ring.await(v);
        wgmma_fence();
        Wgmma::multiply<T, D, Keys>(dp, gradients, shared_address(shared.v) + v.stage * Keys::BYTES);
        wgmma_commit();
    }
    __device__ __forceinline__ void job(const Jobs::Job &job) {
        unsigned first = job.tile * Q_QUERIES, query = first + warp_row;
        size_t row0 = size_t(job.head) * p.n + job.start;
        RowScalars<1> rows(p.lse + row0, p.delta + row0, query, job.len);
        load_rows<T, D, Queries>(queries, shared_address(shared.q));
        clear(d_q[0]);
        unsigned tile = key_tiles(job);
        while (tile > 1 && (tile - 1) * Q_KEYS > first + group * 64 + 63) { // after all queries of this warpgroup
            tile--;
            shared.k_ring.await(k), shared.v_ring.await(v);
            shared.k_ring.release(k), shared.v_ring.release(v);
        }
        shared.d_ring.await(d);
        load_rows<T, D, Queries>(gradients, shared_address(shared.d_out));
        queue_scores(k, v);
        for (bool begun = false;; begun = true) {
            tile--;
            wgmma_wait<1>(s[0]);
            if (begun) shared.k_ring.release(k);
            weigh_queries(s, rows.lse, p.scale * LOG2_E);
            wgmma_wait<0>(dp[0]);
            // Products have read them (Barrier::warp_arrives).
            if (!begun) shared.q_ring.release(q), shared.d_ring.release(d);
            shared.v_ring.release(v);
            slope_queries(s, dp, rows.delta, tile * Q_KEYS + Q_KEYS - 1 > query, query, tile * Q_KEYS);
            to_fragments<T>(slopes, s);
            wgmma_fence();
            Wgmma::add<T, Keys>(d_q, slopes, shared_address(shared.k) + k.stage * Keys::BYTES);
            wgmma_commit();
            if (tile == 0) break;
            Turn<Q_STAGES> next = k;
            next.next();
            queue_scores(next, v);
        }
        wgmma_wait<0>(d_q[0]);
        shared.k_ring.release(k);
        if (query >= job.len) return;
        T *to = row_of<T>(p.d_q, job.start + query) + job.head * D;
        unsigned valid = job.len - query;
        store_rows<T, D, Queries, 1>(to, p.d_q.stride, valid, d_q, {{p.scale, p.scale}}, shared.out, warp_row);
    }
    __device__ __forceinline__ void run() {
        for_each_job(shared, q, [&](const Jobs::Job &next) { job(next); });
    }
};

template <class T, int D> __device__ __forceinline__ void attention_grad_q(const AttentionGradWgmmaParams &p) {
    extern __shared__ __align__(1024) unsigned char bytes[];
    auto &shared = *reinterpret_cast<QueriesShared<T, D> *>(bytes);
    if (threadIdx.x == 0) {
        shared.q_ring.init(), shared.d_ring.init(), shared.k_ring.init(), shared.v_ring.init();
        barriers_are_made();
    }
    __syncthreads();
    play_roles([&] { load_keys<T, D>(p, shared); }, [&] { QueriesGradient<T, D>(p.grad, shared).run(); });
}
ATTENTION_HOPPER(attention_grad_kv_wgmma, AttentionGradWgmmaParams, attention_grad_kv, 1, 1)
ATTENTION_HOPPER(attention_grad_kv_wgmma_x2, AttentionGradWgmmaParams, attention_grad_kv, 2, 2)
ATTENTION_HOPPER(attention_grad_kv_wgmma_x4, AttentionGradWgmmaParams, attention_grad_kv, 4, 4)
ATTENTION_HOPPER(attention_grad_q_wgmma, AttentionGradWgmmaParams, attention_grad_q, 1)
#endif
