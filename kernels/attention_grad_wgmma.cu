// attention_grad on Hopper, for heads of 64 and 128 elements: kernels 2 and 3 of attention_grad.cu, whose comment says
// what they compute; and those of attention_grad_sums.cuh, for long sequences.
//
// As soon as a warpgroup has what it needs of a tile's scores, it queues those of the next tile behind the products
// that use them: so that the tensor cores have work while it computes exponentials.
#include "attention_grad_keys.cuh"
#include "attention_grad_sums.cuh"

#if WGMMA
constexpr int Q_QUERIES = ATTENTION_GRAD_Q_WGMMA_QUERIES, Q_KEYS = 64, Q_STAGES = 3;

// ---- d_k and d_v: SHARES CTAs share a key head's query heads
constexpr int KV_STAGES = 4;

template <class T, int D> struct SharedKeysGradient : KeysGradient<T, D, KV_STAGES> {
    using Base = KeysGradient<T, D, KV_STAGES>;
    using typename Base::S;
    using Base::d_k, Base::d_v, Base::job, Base::shared;

    __device__ __forceinline__ SharedKeysGradient(const AttentionGradParams &p, S &shared, const KeysJob &job)
        : Base(p, shared, job) {}

    __device__ __forceinline__ void run() {
        unsigned busy = this->busy(), step = 0;
        Turn<KV_STAGES> next; // the tiles whose scores are queued next
        int held = -1;        // the stage that the sums under way still read
        auto release = [&] {
            if (held >= 0) shared.q_ring.release(held), shared.d_ring.release(held);
        };
        this->begin();
        if (busy > 0) {
            this->queue_scores(next), this->queue_gradients(next);
            for (;;) {
                this->use(step, next, release, [] {});
                held = next.stage;
                next.next();
                if (++step == busy) break;
                wgmma_wait<1>(d_v[0]); // registers are scarce: those of `weights` are free now
                this->queue_scores(next), this->queue_gradients(next);
            }
            wgmma_wait<0>(d_v[0]), wgmma_wait<0>(d_k[0]);
            release();
        }
        for (; step < job.steps(); step++, next.next()) this->await(next), this->release(next);
    }
};

template <class T, int D, int SHARES>
__device__ __forceinline__ void attention_grad_kv(const AttentionGradWgmmaParams &p) {
    extern __shared__ __align__(1024) unsigned char bytes[];
    auto &shared = *reinterpret_cast<KeysShared<T, D, KV_STAGES> *>(bytes);
    KeysJob job(p.grad, blockIdx.x / SHARES, blockIdx.x % SHARES, SHARES);
    if (job.rounds == 0) return; // so do all CTAs of the cluster
    if (threadIdx.x == 0) shared.init(), barriers_are_made();
    __syncthreads();
    if (threadIdx.x >= MULTIPLIERS) {
        set_registers<LOADER_REGISTERS, false>();
        if (threadIdx.x / 32 == LOADER) load_queries(p, shared, job, KV_KEYS);
        leave_cluster<SHARES>();
        return;
    }
    set_registers<MULTIPLIER_REGISTERS, true>();
    SharedKeysGradient<T, D> gradient(p.grad, shared, job);
    gradient.run();
    gradient.template finish<SHARES>();
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
ATTENTION_HOPPER(attention_grad_sums, AttentionGradWgmmaParams, attention_grad_sums, 1, 1)
ATTENTION_HOPPER(attention_grad_sums_x2, AttentionGradWgmmaParams, attention_grad_sums, 2, 2)
ATTENTION_HOPPER(attention_grad_summed, AttentionGradWgmmaParams, attention_grad_summed, 1)
#endif
