#pragma once
// What the attention kernels of Hopper share. A CTA has two warpgroups that multiply, each with 64 rows of its own, and
// a third, one warp of which keeps rings of tiles full. A ring's barriers: `full` for a tile that has come, `free` for
// one that both warpgroups have done with.
//
// What is read often stays in registers where there is room: a product of two tiles in shared memory needs three
// quarters of its bandwidth or all of it, and one with a left factor in registers half.
#include "attention.cuh"
#include "cluster.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

#if WGMMA
constexpr int MULTIPLIERS = ATTENTION_WGMMA_THREADS - 128; // threads that multiply
constexpr int LOADER = MULTIPLIERS / 32;                 // the warp that loads
constexpr int MULTIPLIER_REGISTERS = 240, LOADER_REGISTERS = 24; // of the 168 that each of 384 has

// The columns of one head of a matrix.
struct Source {
    const TensorMap &map;
    unsigned column;
};

// Tiles in shared memory through which rows pass, STAGES at a time.
template <class T, int D, int ROWS, int STAGES> struct Ring {
    using Rows = Tile<D, ROWS>;
    static constexpr unsigned BYTES = STAGES * Rows::BYTES;
    Barrier full[STAGES], free[STAGES], copied;
    unsigned copies; // that `copied` has seen

    __device__ __forceinline__ void init() {
        constexpr unsigned READERS = MULTIPLIERS / 32 * Barrier::WARP_ARRIVALS;
        for (int i = 0; i < STAGES; i++) full[i].init(Barrier::WARP_ARRIVALS), free[i].init(READERS);
        copied.init(1), copies = 0;
    }

    // By the loader: waits for a tile to be free.
    __device__ __forceinline__ void claim(const Turn<STAGES> &turn) { free[turn.stage].wait(turn.parity ^ 1); }
    // Fills it with the rows from `row` on, to the end of a sequence and past it.
    __device__ __forceinline__ void fill(unsigned char *tiles, Turn<STAGES> &turn, const Source &from, unsigned row) {
        unsigned lane = threadIdx.x % 32;
        if (lane == 0) copy(tiles + turn.stage * Rows::BYTES, full[turn.stage], from, row);
        else if (lane < Barrier::WARP_ARRIVALS) full[turn.stage].arrive();
        turn.next();
    }
    // The same with zeros from row `valid` of the tile on: for a factor whose rows meet weights of zero, since what
    // another sequence has there need not be finite.
    __device__ __forceinline__ void fill(unsigned char *tiles, Turn<STAGES> &turn, const Source &from, unsigned row,
                                         unsigned valid) {
        if (valid >= ROWS) return fill(tiles, turn, from, row);
        unsigned char *tile = tiles + turn.stage * Rows::BYTES;
        unsigned parity = copies % 2;
        __syncwarp();
        if (threadIdx.x % 32 == 0) copy(tile, copied, from, row), copies++;
        copied.wait(parity);
        for (unsigned i = threadIdx.x % 32 + valid * (D / 8); i < ROWS * (D / 8); i += 32)
            *reinterpret_cast<uint4 *>(tile + Rows::at(i / (D / 8), i % (D / 8))) = uint4();
        wgmma_publish();
        full[turn.stage].warp_arrives();
        turn.next();
    }

    // Waits for a tile to come.
    __device__ __forceinline__ void await(const Turn<STAGES> &turn) { full[turn.stage].wait(turn.parity); }
    // Gives a tile that this warp has read back.
    __device__ __forceinline__ void release(unsigned stage) { free[stage].warp_arrives(); }
    __device__ __forceinline__ void release(Turn<STAGES> &turn) {
        release(turn.stage);
        turn.next();
    }

  private:
    __device__ __forceinline__ static void copy(unsigned char *tile, Barrier &done, const Source &from, unsigned row) {
        done.expect(Rows::BYTES);
#pragma unroll
        for (int panel = 0; panel < D / Rows::COLUMNS; panel++)
#pragma unroll
            for (int r = 0; r < ROWS; r += ATTENTION_WGMMA_COPY_ROWS)
                copy_tile(tile + panel * Rows::PANEL + r * Rows::PITCH, from.map, from.column + panel * Rows::COLUMNS,
                          row + r, done);
    }
};

// Products by warpgroups, asynchronous: 64 rows for four warps, 16 of them in the registers of each.
struct Wgmma {
    // c[own rows, N] = a[own rows, D] b[N, D]^T, both tiles.
    template <class T, int D, class A, class B, int N>
    __device__ __forceinline__ static void multiply(float (&c)[1][N][4], unsigned a, unsigned b) {
        // From one lane, so that the compiler sees that the warp agrees.
        a += __shfl_sync(~0u, threadIdx.x / 128, 0) * 64 * A::PITCH;
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            uint64_t fa = wgmma_tile<A::COLUMNS>(a + step<A>(k), 16), fb = wgmma_tile<B::COLUMNS>(b + step<B>(k), 16);
            wgmma_tiles<T, N * 8>(c[0], fa, fb, k > 0);
        }
    }
    // The same with a in registers.
    template <class T, int D, class B, int N>
    __device__ __forceinline__ static void multiply(float (&c)[1][N][4], const unsigned (&a)[D / 16][4], unsigned b) {
#pragma unroll
        for (int k = 0; k < D / 16; k++)
            wgmma_rows_transposed<T, N * 8>(c[0], a[k], wgmma_tile<B::COLUMNS>(b + step<B>(k), 16), k > 0);
    }
    // c[own rows, D] += a[own rows, 16 K] b[16 K, D]: a from registers, as `to_fragments` makes them, b a tile.
    template <class T, class B, int N, int K>
    __device__ __forceinline__ static void add(float (&c)[1][N][4], const unsigned (&a)[1][K][4], unsigned b) {
#pragma unroll
        for (int k = 0; k < K; k++)
            wgmma_rows<T, N * 8>(c[0], a[0][k], wgmma_tile<B::COLUMNS>(b + k * 16 * B::PITCH, B::PANEL));
    }

  private:
    // Bytes from a row's start to its columns 16 k, before the swizzle.
    template <class B> __device__ __forceinline__ static constexpr unsigned step(int k) {
        return k / (B::COLUMNS / 16) * B::PANEL + k % (B::COLUMNS / 16) * 32;
    }
};

// This warp's 16 rows of a tile, as a left factor in registers.
template <class T, int D, class A> __device__ __forceinline__ void load_rows(unsigned (&a)[D / 16][4], unsigned tile) {
    unsigned lane = threadIdx.x % 32;
    tile += A::at(threadIdx.x / 32 * 16 + lane % 16, lane / 16);
#pragma unroll
    for (int k = 0; k < D / 16; k++) ldmatrix_x4(a[k], A::step(tile, k));
}

// Jobs in the order in which CTAs draw them: sequence after sequence, of each the tiles from the last to the first, of
// each of these the heads, so that heads of a group find keys and values in L2. For a whole warp, with growing tickets.
struct Jobs {
    const unsigned *cu_seqlens;
    unsigned n, n_seqs, heads, rows; // of a tile
    unsigned chunk = 0, before = 0;  // the 32 sequences in hand, and the jobs before them

    struct Job {
        unsigned head, tile, sequence, start, len; // where the sequence begins, and its length
        bool none;
    };
    __device__ __forceinline__ Job find(unsigned ticket) {
        unsigned lane = threadIdx.x % 32;
        for (; chunk < n_seqs; chunk += 32) {
            unsigned start = 0, len = 0;
            if (chunk + lane < n_seqs) {
                Sequence seq(cu_seqlens, chunk + lane, n);
                start = seq.start, len = seq.len;
            }
            unsigned own = (len + rows - 1) / rows * heads, sum = own;
#pragma unroll
            for (int i = 1; i < 32; i *= 2) {
                unsigned left = __shfl_up_sync(~0u, sum, i);
                sum += lane >= i ? left : 0;
            }
            unsigned found = __ballot_sync(~0u, ticket < before + sum);
            if (found) {
                int at = __ffs(found) - 1;
                unsigned left = __shfl_sync(~0u, before + sum, at) - 1 - ticket; // jobs of the sequence after this one
                start = __shfl_sync(~0u, start, at), len = __shfl_sync(~0u, len, at);
                return {heads - 1 - left % heads, left / heads, chunk + at, start, len, false};
            }
            before += __shfl_sync(~0u, sum, 31);
        }
        return {0, 0, 0, 0, 0, true};
    }
};

// Who does which job: a CTA begins with the one of its number and draws the next ones. What a job computes does not
// depend on who does it.
struct Tickets {
    unsigned *counter; // 0 before and after
    unsigned ticket;

    __device__ __forceinline__ explicit Tickets(unsigned *counter) : counter(counter), ticket(blockIdx.x) {}

    __device__ __forceinline__ Jobs::Job draw(Jobs &jobs) {
        unsigned mine = ticket, drawn = 0;
        if (threadIdx.x % 32 == 0) drawn = atomicAdd(counter, 1);
        drawn = __shfl_sync(~0u, drawn, 0);
        ticket = gridDim.x + drawn;
        Jobs::Job job = jobs.find(mine);
        // A CTA that finds no job has drawn one ticket too many: the last of these puts the counter back.
        if (job.none && drawn + 1 == jobs.before + gridDim.x && threadIdx.x % 32 == 0) *counter = 0;
        return job;
    }
};

// The roles in a CTA whose barriers are made: one warp loads, two warpgroups multiply.
template <class Load, class Multiply> __device__ __forceinline__ void play_roles(Load load, Multiply multiply) {
    if (threadIdx.x >= MULTIPLIERS) {
        set_registers<LOADER_REGISTERS, false>();
        if (threadIdx.x / 32 == LOADER) load();
    } else {
        set_registers<MULTIPLIER_REGISTERS, true>();
        multiply();
    }
}

// By those that multiply: each job that comes with queries, which `work` gives back.
template <class S, class Work> __device__ __forceinline__ void for_each_job(S &shared, const Turn<1> &q, Work work) {
    for (;;) {
        shared.q_ring.await(q);
        Jobs::Job job = shared.job;
        if (job.none) return;
        work(job);
    }
}

// All threads that multiply.
__device__ __forceinline__ void multipliers_sync() { asm volatile("bar.sync 1, %0;" ::"n"(MULTIPLIERS) : "memory"); }

// `name_d<D>_<T>` of the template `kernel`, in clusters of so many CTAs, which is its third argument where it has one.
#define ATTENTION_HOPPER_OF(name, Params, kernel, CLUSTER, D, T, ...)                                                  \
    extern "C" __global__ void CLUSTER_OF(CLUSTER) __launch_bounds__(ATTENTION_WGMMA_THREADS, 1)                       \
        name##_d##D##_##T(const __grid_constant__ Params p) {                                                          \
        begin_kernel();                                                                                                \
        kernel<T, D __VA_OPT__(,) __VA_ARGS__>(p);                                                                     \
    }
#define ATTENTION_HOPPER(name, Params, kernel, CLUSTER, ...)                                                           \
    ATTENTION_HOPPER_OF(name, Params, kernel, CLUSTER, 64, bf16, __VA_ARGS__)                                          \
    ATTENTION_HOPPER_OF(name, Params, kernel, CLUSTER, 64, f16, __VA_ARGS__)                                           \
    ATTENTION_HOPPER_OF(name, Params, kernel, CLUSTER, 128, bf16, __VA_ARGS__)                                         \
    ATTENTION_HOPPER_OF(name, Params, kernel, CLUSTER, 128, f16, __VA_ARGS__)
#endif
