#pragma once
// attention_grad on Hopper for long sequences, with heads of 64 and 128 elements: all three gradients with five
// products, where attention_grad.cu has seven. Keys, d_k and d_v: attention_grad_keys.cuh. d_q is a sum over tiles of
// keys: CTAs add their parts up in memory, those of the first keys first, so that its bits do not depend on when they
// run, and a last kernel makes d_q of the sums.
//
// For a part of d_q both warpgroups leave their slopes in shared memory, and each multiplies all 128 keys by half of
// their columns. That is done a step later, when the slopes of both are long there. All CTAs of a sequence come to
// tiles of queries in the same order, so that none waits for long: one thread waits for this CTA's turn, ahead of those
// that add, another passes it on behind them.
//
// Sums are f32 [q_heads, n + n_seqs, D], each sequence with a row to spare at its end. Rows lie in pairs, and numbers
// as lanes have them: of columns 16 i and on, lane t of a row has 2 t, 2 t + 1, 2 t + 8 and 2 t + 9, which are 16
// bytes; four such lanes of both rows are 128.
#include "attention_grad_keys.cuh"

#if WGMMA
constexpr int SUMS_STAGES = 3, TURNS = 4;
// The warps that do not multiply count more than those of attention.
constexpr int SUMS_MULTIPLIER_REGISTERS = 232, SUMS_LOADER_REGISTERS = 40;

// Where the sums of a sequence's rows from `row` on begin; it is even.
template <int D>
__device__ __forceinline__ float4 *sums_of(const AttentionGradWgmmaParams &p, const Sequence &seq, unsigned index,
                                           unsigned head, unsigned row) {
    size_t rows = size_t(p.grad.n) + p.grad.n_seqs;
    return reinterpret_cast<float4 *>(p.sums) + (head * rows + seq.start + index + row) * (D / 4);
}
// From there, this lane's four numbers in a row, of columns 16 i and on.
template <int D> __device__ __forceinline__ unsigned sum_at(unsigned row, unsigned i) {
    return row / 2 * (D / 2) + i * 8 + row % 2 * 4 + threadIdx.x % 4;
}

__device__ __forceinline__ void add_to_memory(float4 *to, float a, float b, float c, float d) {
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1,%2,%3,%4};" ::"l"(__cvta_generic_to_global(to)), "f"(a),
                 "f"(b), "f"(c), "f"(d)
                 : "memory");
}

// Adds a warpgroup's half of a tile's columns to `valid` rows of sums, or makes them their first.
template <int D>
__device__ __forceinline__ void add_to_sums(float4 *sums, const float (&c)[D / 16][4], unsigned half, unsigned valid,
                                            bool first) {
    unsigned row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    sums += sum_at<D>(row, half * (D / 32));
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (row + 8 * h >= valid) break;
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            float4 *to = sums + i * 8 + h * 4 * (D / 2);
            const float *a = &c[2 * i][2 * h], *b = &c[2 * i + 1][2 * h];
            if (first) *to = {a[0], a[1], b[0], b[1]};
            else add_to_memory(to, a[0], a[1], b[0], b[1]);
        }
    }
}

// Whose turn it is to add to a tile of queries of one head: a number in memory, 0 before and after.
struct QuerySum {
    unsigned *turn;

    __device__ __forceinline__ QuerySum(const AttentionGradWgmmaParams &p, unsigned sequence, unsigned head,
                                        unsigned tile)
        : turn(p.turns + (size_t(sequence) * p.tiles + tile) * p.grad.q_heads + head) {}

    // Until so many have added.
    __device__ __forceinline__ void await(unsigned adders) const {
        while (load_acquire(turn) != adders) {}
    }
    // By a thread that knows of all that was added.
    __device__ __forceinline__ void publish(unsigned adders) const {
        asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(turn), "r"(adders) : "memory");
    }
};

template <class T, int D> struct SumsShared : KeysShared<T, D, SUMS_STAGES> {
    using Slopes = Tile<KV_QUERIES, KV_KEYS>; // [keys, queries]
    alignas(1024) unsigned char slopes[2][Slopes::BYTES];
    Barrier slopes_full[2], slopes_free[2];
    Barrier turn[TURNS], added[TURNS], passed[TURNS]; // to add a part of d_q
    unsigned ticket;

    __device__ __forceinline__ void init() {
        constexpr unsigned WARPS = MULTIPLIERS / 32 * Barrier::WARP_ARRIVALS;
        KeysShared<T, D, SUMS_STAGES>::init();
        for (int i = 0; i < 2; i++) slopes_full[i].init(WARPS), slopes_free[i].init(WARPS);
        for (int i = 0; i < TURNS; i++) turn[i].init(1), added[i].init(WARPS), passed[i].init(1);
    }
};

// One thread: gives this CTA's parts of d_q their turns, each after those of the keys before, as far ahead as there are
// barriers.
template <class T, int D>
__device__ __forceinline__ void give_turns(const AttentionGradWgmmaParams &p, SumsShared<T, D> &shared,
                                           const KeysJob &job) {
    Turn<TURNS> turn;
    for (unsigned step = 0; step < job.steps(); step++, turn.next()) {
        shared.passed[turn.stage].wait(turn.parity ^ 1);
        QuerySum(p, job.job.sequence, job.head(step), job.query(step) / KV_QUERIES).await(job.job.tile);
        shared.turn[turn.stage].arrive();
    }
}

// Another: says when they are added, to the CTA of the next keys.
template <class T, int D>
__device__ __forceinline__ void pass_turns(const AttentionGradWgmmaParams &p, SumsShared<T, D> &shared,
                                           const KeysJob &job) {
    Turn<TURNS> turn;
    for (unsigned step = 0; step < job.steps(); step++, turn.next()) {
        unsigned query = job.query(step);
        shared.added[turn.stage].wait(turn.parity);
        bool last = query / KV_KEYS == job.job.tile;
        QuerySum(p, job.job.sequence, job.head(step), query / KV_QUERIES).publish(last ? 0 : job.job.tile + 1);
        shared.passed[turn.stage].arrive();
    }
}

template <class T, int D> struct SumsGradient : KeysGradient<T, D, SUMS_STAGES> {
    using Base = KeysGradient<T, D, SUMS_STAGES>;
    using Base::d_k, Base::d_v, Base::group, Base::job, Base::key, Base::slopes;
    using Keys = typename Base::Keys;
    using Slopes = typename SumsShared<T, D>::Slopes;
    using Part = float[D / 16][4];
    const AttentionGradWgmmaParams &params;
    SumsShared<T, D> &shared;
    Turn<SUMS_STAGES> now; // the tiles in hand
    Turn<2> left, taken;   // where slopes are left, and from where they are multiplied
    Turn<TURNS> turn;      // to add

    __device__ __forceinline__ SumsGradient(const AttentionGradWgmmaParams &params, SumsShared<T, D> &shared,
                                            const KeysJob &job)
        : Base(params.grad, shared, job), params(params), shared(shared) {}

    __device__ __forceinline__ void leave_slopes() {
        unsigned lane = threadIdx.x % 32;
        shared.slopes_free[left.stage].wait(left.parity ^ 1);
        unsigned to = shared_address(shared.slopes[left.stage]) + Slopes::at(key + lane % 16, lane / 16);
#pragma unroll
        for (int k = 0; k < KV_QUERIES / 16; k++) stmatrix_x4(Slopes::step(to, k), slopes[0][k]);
    }
    __device__ __forceinline__ void tell_slopes() {
        wgmma_publish();
        shared.slopes_full[left.stage].warp_arrives();
        left.next();
    }
    // The part of d_q of a step whose slopes are there.
    __device__ __forceinline__ void queue_part(Part &d_q) {
        constexpr unsigned COLUMNS = D / 2; // of this warpgroup
        unsigned from = shared_address(shared.slopes[taken.stage]), keys = shared_address(shared.k);
        keys += group * COLUMNS / Keys::COLUMNS * Keys::PANEL + group * COLUMNS % Keys::COLUMNS * 2;
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < KV_KEYS / 16; k++) {
            uint64_t a = wgmma_tile<Slopes::COLUMNS>(from + k * 16 * Slopes::PITCH, Slopes::PANEL);
            uint64_t b = wgmma_tile<Keys::COLUMNS>(keys + k * 16 * Keys::PITCH, Keys::PANEL);
            wgmma_columns<T, COLUMNS>(d_q, a, b, k > 0);
        }
        wgmma_commit();
    }
    __device__ __forceinline__ void await_slopes() { shared.slopes_full[taken.stage].wait(taken.parity); }
    // Adds the part of this step to d_q's sums.
    __device__ __forceinline__ void add_part(const Part &d_q, unsigned step) {
        unsigned query = job.query(step);
        float4 *to = sums_of<D>(params, job.seq, job.job.sequence, job.head(step), query);
        shared.slopes_free[taken.stage].warp_arrives();
        taken.next();
        shared.turn[turn.stage].wait(turn.parity);
        add_to_sums<D>(to, d_q, group, job.seq.len - query, job.job.tile == 0);
        shared.added[turn.stage].warp_arrives();
        turn.next();
    }
    __device__ __forceinline__ void next() {
        this->release(now);
        now.next();
    }
    __device__ __forceinline__ void run() {
        unsigned busy = this->busy(), step = 0;
        this->begin();
        if (busy > 0) {
            Part d_q;
            this->queue_scores(now), this->queue_gradients(now);
            for (;;) {
                this->use(step, now, [] {}, [&] { leave_slopes(); });
                tell_slopes();
                if (step > 0) await_slopes();
                queue_part(d_q); // of the step before; of the first nothing is used
                wgmma_wait<0>(d_q);
                next();
                if (++step == busy) break;
                this->queue_scores(now);
                if (step > 1) add_part(d_q, step - 2);
                this->queue_gradients(now);
            }
            wgmma_wait<0>(d_v[0]), wgmma_wait<0>(d_k[0]);
            if (step > 1) add_part(d_q, step - 2);
        }
        for (; step < job.steps(); step++) follow(step);
        take(step - 1);
    }
    // The part of a step before this one.
    __device__ __forceinline__ void take(unsigned step) {
        Part d_q;
        await_slopes();
        queue_part(d_q);
        wgmma_wait<0>(d_q);
        add_part(d_q, step);
    }
    // In a step that is not this warpgroup's, it still has half of the columns of d_q.
    __device__ __forceinline__ void follow(unsigned step) {
        this->await(now);
        next();
#pragma unroll
        for (int k = 0; k < KV_QUERIES / 16; k++)
            slopes[0][k][0] = slopes[0][k][1] = slopes[0][k][2] = slopes[0][k][3] = 0;
        leave_slopes();
        tell_slopes();
        if (step > 0) take(step - 1);
    }
};

// Jobs are drawn in the order in which CTAs start, since they wait for those of the keys before.
__device__ __forceinline__ unsigned draw(unsigned *counter, unsigned jobs) {
    unsigned drawn = atomicAdd(counter, 1);
    if (drawn + 1 == jobs) *counter = 0;
    return drawn;
}

// Makes a CTA's barriers, and says which job is its own, or its cluster's.
template <class T, int D, int SHARES>
__device__ __forceinline__ unsigned begin_job(const AttentionGradWgmmaParams &p, SumsShared<T, D> &shared) {
    bool draws = SHARES == 1 || cluster_rank() == 0;
    if (threadIdx.x == 0) {
        shared.init(), barriers_are_made();
        if (draws) shared.ticket = draw(p.ticket, gridDim.x / SHARES);
    }
    if constexpr (SHARES == 1) {
        __syncthreads();
        return shared.ticket;
    } else {
        cluster_sync();
        unsigned ticket = *cluster_shared(&shared.ticket, 0);
        cluster_sync(); // all have read it: a CTA without work may leave
        return ticket;
    }
}

template <class T, int D, int SHARES>
__device__ __forceinline__ void attention_grad_sums(const AttentionGradWgmmaParams &p) {
    extern __shared__ __align__(1024) unsigned char bytes[];
    auto &shared = *reinterpret_cast<SumsShared<T, D> *>(bytes);
    unsigned ticket = begin_job<T, D, SHARES>(p, shared);
    KeysJob job(p.grad, ticket, blockIdx.x % SHARES, SHARES);
    if (job.rounds == 0) return; // so do all CTAs of the cluster
    if (threadIdx.x >= MULTIPLIERS) {
        set_registers<SUMS_LOADER_REGISTERS, false>();
        if (threadIdx.x / 32 == LOADER) load_queries(p, shared, job, job.seq.len - job.key0);
        if (threadIdx.x == (LOADER + 1) * 32) give_turns<T, D>(p, shared, job);
        if (threadIdx.x == (LOADER + 2) * 32) pass_turns<T, D>(p, shared, job);
        leave_cluster<SHARES>();
        return;
    }
    set_registers<SUMS_MULTIPLIER_REGISTERS, true>();
    SumsGradient<T, D> gradient(p, shared, job);
    gradient.run();
    gradient.template finish<SHARES>();
}

// d_q = scale times the sums: a CTA has a tile of queries of one head.
template <class T, int D>
__device__ __forceinline__ void attention_grad_summed(const AttentionGradWgmmaParams &params) {
    constexpr int ROWS = ATTENTION_GRAD_WGMMA_QUERIES;
    using Rows = Tile<D, ROWS>;
    extern __shared__ __align__(1024) unsigned char bytes[];
    const AttentionGradParams &p = params.grad;
    BlockJob job(p.q_heads, p.n_seqs);
    Sequence seq(p.cu_seqlens, job.sequence, p.n);
    seq.len = min(seq.len, p.max_len); // no more has sums
    unsigned first = job.tile * ROWS, warp_row = threadIdx.x / 32 * 16, row = warp_row + threadIdx.x % 32 / 4;
    if (first + warp_row >= seq.len) return;
    const float4 *sums = sums_of<D>(params, seq, job.sequence, job.head, first);
    float c[1][D / 8][4];
#pragma unroll
    for (int i = 0; i < D / 16; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            bool valid = first + row + 8 * h < seq.len;
            float4 v = valid ? __ldcs(sums + sum_at<D>(row + 8 * h, i)) : float4();
            c[0][2 * i][2 * h] = v.x, c[0][2 * i][2 * h + 1] = v.y;
            c[0][2 * i + 1][2 * h] = v.z, c[0][2 * i + 1][2 * h + 1] = v.w;
        }
    T *to = row_of<T>(p.d_q, seq.start + first + warp_row) + job.head * D;
    store_rows<T, D, Rows, 1>(to, p.d_q.stride, seq.len - first - warp_row, c, {{p.scale, p.scale}}, bytes, warp_row);
}
#endif
