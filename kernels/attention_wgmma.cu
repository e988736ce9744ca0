// attention on Hopper (FlashAttention-3: Shah et al., 2024), for heads of 64 and 128 elements. A CTA stays for the
// whole launch and draws one job after the other: 128 queries of one head.
//
// Each of the two warpgroups that multiply has 64 queries, which stay in its registers with their scores, weights and
// sums. While the tensor cores multiply one tile's weights by its values, the warpgroup computes the exponentials of
// the next. The two do not take turns at queueing products, as in the paper: that was worse for many tokens.
//
// The tiles of a job go from the last to the first: so the one on the diagonal, which alone is masked, comes before the
// loop, and tiles of a prefix come after those of the sequence. The next job's queries, keys and values are loaded
// while the last ones are worked on, and the output has a tile of its own on its way to memory.
#include "attention_softmax.cuh"
#include "attention_wgmma.cuh"

#if WGMMA
constexpr int QUERIES = ATTENTION_WGMMA_QUERIES, KEYS = 128, STAGES = 2;
static_assert(QUERIES == KEYS, "one tile on the diagonal");

// Dynamic shared memory.
template <class T, int D> struct ForwardShared {
    using Queries = Ring<T, D, QUERIES, 1>;
    using Keys = Ring<T, D, KEYS, STAGES>;
    unsigned char q[Queries::BYTES], k[Keys::BYTES], v[Keys::BYTES], out[Queries::BYTES];
    Queries q_ring;
    Keys k_ring, v_ring;
    Jobs::Job job; // comes with the queries
};

// The tiles of a job: those of the prefix, then those of the sequence up to the diagonal.
struct Span {
    unsigned prefix, all;

    __device__ __forceinline__ Span(const Prefix &prefix, const Jobs::Job &job)
        : prefix((prefix.len + KEYS - 1) / KEYS), all(this->prefix + job.tile + 1) {}
};

template <class T, int D>
__device__ __forceinline__ void load_forward(const AttentionWgmmaParams &p, ForwardShared<T, D> &shared) {
    const AttentionParams &a = p.attention;
    Jobs jobs{a.cu_seqlens, a.n, a.n_seqs, a.q_heads, QUERIES};
    Turn<1> q;
    Turn<STAGES> k, v;
    for (Tickets tickets(p.ticket);;) {
        Jobs::Job job = tickets.draw(jobs);
        shared.q_ring.claim(q);
        if (threadIdx.x % 32 == 0) shared.job = job;
        if (job.none) return shared.q_ring.full[0].warp_arrives();
        shared.q_ring.fill(shared.q, q, {p.q, job.head * D}, job.start + job.tile * QUERIES);
        unsigned column = job.head / (a.q_heads / a.kv_heads) * D;
        Prefix prefix(a, job.sequence);
        Span span(prefix, job);
        for (unsigned tile = span.all; tile-- > 0;) {
            bool own = tile >= span.prefix;
            unsigned first = (own ? tile - span.prefix : tile) * KEYS;
            unsigned row = (own ? job.start : prefix.start) + first, valid = (own ? job.len : prefix.len) - first;
            shared.k_ring.claim(k);
            shared.k_ring.fill(shared.k, k, {own ? p.k : p.prefix_k, column}, row);
            shared.v_ring.claim(v);
            shared.v_ring.fill(shared.v, v, {own ? p.v : p.prefix_v, column}, row, valid);
        }
    }
}

// What a warpgroup does that multiplies.
template <class T, int D> struct Forward {
    using S = ForwardShared<T, D>;
    using QueryTile = typename S::Queries::Rows;
    using KeyTile = typename S::Keys::Rows;
    const AttentionParams &p;
    S &shared;
    const unsigned warp_row; // the first row of this warp
    Turn<1> q;
    Turn<STAGES> k, v;
    unsigned queries[D / 16][4];
    float s[1][KEYS / 8][4], o[1][D / 8][4], shrink[1][2];
    unsigned weights[1][KEYS / 16][4];
    Softmax<1> softmax;

    __device__ __forceinline__ Forward(const AttentionParams &p, S &shared)
        : p(p), shared(shared), warp_row(threadIdx.x / 32 * 16) {}

    __device__ __forceinline__ void multiply_scores() {
        wgmma_fence();
        Wgmma::multiply<T, D, KeyTile>(s, queries, shared_address(shared.k) + k.stage * KeyTile::BYTES);
        wgmma_commit();
    }
    __device__ __forceinline__ void add_values() {
        wgmma_fence();
        Wgmma::add<T, KeyTile>(o, weights, shared_address(shared.v) + v.stage * KeyTile::BYTES);
        wgmma_commit();
    }
    __device__ __forceinline__ void job(const Jobs::Job &job) {
        Prefix prefix(p, job.sequence);
        Span span(prefix, job);
        unsigned query = job.tile * QUERIES + warp_row; // of this warp, the first
        load_rows<T, D, QueryTile>(queries, shared_address(shared.q));
        softmax.begin();
        clear(o[0]);
        shared.k_ring.await(k);
        multiply_scores();
        wgmma_wait<0>(s[0]);
        shared.q_ring.release(q); // which the product has read (Barrier::warp_arrives)
        shared.k_ring.release(k);
        mask(s, query, job.tile * QUERIES);
        softmax.weigh(s, shrink, p.scale * LOG2_E);
        to_fragments<T>(weights, s);
        for (unsigned tile = span.all - 1; tile-- > 0;) {
            shared.k_ring.await(k);
            multiply_scores();
            shared.v_ring.await(v);
            add_values();
            wgmma_wait<1>(s[0]);
            shared.k_ring.release(k);
            if (tile + 1 == span.prefix) mask_from(s, prefix.len - tile * KEYS);
            softmax.weigh(s, shrink, p.scale * LOG2_E);
            wgmma_wait<0>(o[0]);
            shared.v_ring.release(v);
            softmax.rescale(o, shrink);
            to_fragments<T>(weights, s);
        }
        shared.v_ring.await(v);
        add_values();
        wgmma_wait<0>(o[0]);
        shared.v_ring.release(v);
        store(job, query);
    }
    __device__ __forceinline__ void store(const Jobs::Job &job, unsigned query) {
        float inverse[1][2];
        softmax.finish(inverse, p.lse + size_t(job.head) * p.n + job.start, query, job.len, p.scale);
        if (query >= job.len) return;
        T *out = row_of<T>(p.out, job.start + query) + job.head * D;
        store_rows<T, D, QueryTile>(out, p.out.stride, job.len - query, o, inverse, shared.out, warp_row);
    }
    __device__ __forceinline__ void run() {
        for_each_job(shared, q, [&](const Jobs::Job &next) { job(next); });
    }
};

template <class T, int D> __device__ __forceinline__ void attention_wgmma(const AttentionWgmmaParams &p) {
    extern __shared__ __align__(1024) unsigned char bytes[];
    auto &shared = *reinterpret_cast<ForwardShared<T, D> *>(bytes);
    if (threadIdx.x == 0) {
        shared.q_ring.init(), shared.k_ring.init(), shared.v_ring.init();
        barriers_are_made();
    }
    __syncthreads();
    play_roles([&] { load_forward<T, D>(p, shared); }, [&] { Forward<T, D>(p.attention, shared).run(); });
}
ATTENTION_HOPPER(attention_wgmma, AttentionWgmmaParams, attention_wgmma, 1)
#endif
