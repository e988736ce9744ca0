#pragma once
// One struct for each kernel: its only argument, passed by value. Read by nvcc and by bindgen.
// `T` is the kernel's compute type (bf16, f16 or f32): pointers to it are void here, because one struct
// serves the three instances.
// What each op computes stands in src/ops/<op>.rs.
//
// The enums are what a launch and its kernel have to agree on: threads of a CTA, tiles, what lies in shared memory.
// A size that a kernel exists in several of (tokens of a tile, columns of r, elements of a head) is part of the
// kernel's name, on both sides.

// A matrix whose row i begins at element i * stride. Its rows and columns stand beside it.
typedef struct {
    const void *ptr;
    unsigned stride;
} Matrix;
typedef struct {
    void *ptr;
    unsigned stride;
} MatrixMut;

// Eight neighbouring elements for each thread: adamw, cast, dora, noise, swiglu.
enum { ELEMENTWISE_THREADS = 256, ELEMENTWISE_PER_THREAD = 8 };

// Blocks that share a nested absmax and an offset: quant::GROUP.
enum { QUANT_GROUP = 256 };

// A 4-bit weight [rows, cols], flattened; see src/quant/mod.rs.
typedef struct {
    const unsigned char *codes;        // [rows * cols / 2]; element 2j in the high half of byte j
    const float *absmax;               // [n_blocks], or null when nested
    const unsigned char *absmax_codes; // [n_blocks], or null when plain
    const float *groups;               // [n_blocks / 256, 2]: nested absmax, offset; or null when plain
    unsigned rows, cols;
    unsigned block_shift; // log2 of the block size
    unsigned fp4;         // 0: NF4, 1: FP4
} Weight4Params;

// quantize: absmax and codes of each block of x.
typedef struct {
    const void *x;        // T [len]
    unsigned char *codes; // [len / 2], rounded up
    float *absmax;        // [len / block], rounded up
    unsigned long long len;
    unsigned block_shift;
    unsigned fp4;
} QuantizeParams;
enum { QUANTIZE_THREADS = 512, QUANTIZE_PER_THREAD = 8 };

// nest_absmax: offset = mean(absmax) (kernels 1 and 2), then codes and groups (kernel 3).
typedef struct {
    const float *absmax;  // [n]
    unsigned char *codes; // [n]
    float *groups;        // [n / 256, 2], rounded up
    float *offset;        // [1], scratch
    float *sums;          // [2 n_runs + 32, 32], scratch: sums of the runs of each level
    unsigned n;
    unsigned run_shift; // log2 of the rows of a run
    unsigned n_runs;    // runs of the first level
} NestAbsmaxParams;
enum {
    NEST_ABSMAX_COLUMNS = 32,       // sums side by side: four accumulators of eight lanes, in PyTorch's order
    NEST_ABSMAX_RUNS_THREADS = 256, // kernel 1: a warp for each run
    NEST_ABSMAX_MEAN_THREADS = 1024,
};

// dequantize: out[i] = code[codes[i]] * absmax[i / block].
typedef struct {
    Weight4Params weight;
    MatrixMut out; // T [rows, cols]; with gaps only where cols % 8 = 0 and all is aligned to 16 bytes
} DequantizeParams;
enum { DEQUANTIZE_THREADS = 256, DEQUANTIZE_PER_THREAD = 32 };

// What the kernels of linear and linear4 have in common.
enum {
    // mma.cuh: tiles of 32, 64 or 128 tokens by TILE_OUT outputs, TILE_K of the contraction at a time; so many tiles
    // wait in shared memory.
    GEMM_MMA_THREADS = 256,
    GEMM_MMA_TILE_OUT = 128,
    GEMM_MMA_TILE_K = 64,
    GEMM_MMA_X_STAGES = 3,
    GEMM_MMA_DENSE_STAGES = 3,
    GEMM_MMA_QUANTIZED_STAGES = 2,
    // simt.cuh: tiles of TILE tokens by TILE outputs.
    GEMM_SIMT_THREADS = 256,
    GEMM_SIMT_TILE = 64,
    GEMM_SIMT_TILE_K = 16,
    GEMM_SIMT_ROWS_TOKENS = 8, // the most that the kernel with one warp for each output takes
    // Up to 16 tokens: the rows of the weight that a warp takes at a time, as operand A.
    GEMM_SKINNY_TOKENS = 16,
    GEMM_SKINNY_ROWS = 16,
    // linear_sum
    GEMM_SUM_THREADS = 256,
};

// gemv4.cuh: how the columns and the tiles of 16 rows of a weight are dealt out.
typedef struct {
    unsigned steps, parts; // the columns are taken in `steps` steps, each of up to `parts` times 256, the share of a warp
    unsigned tiles;        // in a stage
    unsigned each, more;   // tiles of a CTA (with SwiGLU of gate, and as many of up); the first `more` CTAs have one more
    unsigned group;        // tiles whose scales and sums are in shared memory at a time
    unsigned scale_bytes;  // of a row's scales, that a thread fetches at a time: 4 or 16
} GemvCut;

// linear4, linear4_grad: out (+)= x W^T, d_x (+)= d_out W, 4-bit W [rows, cols].
typedef struct {
    Matrix x; // T [n, cols] (grad: d_out [n, rows])
    Weight4Params weight;
    MatrixMut out;  // O [n, rows] (grad: d_x T [n, cols])
    float *partial; // scratch for split sums, or null
    unsigned n;
    unsigned accumulate;
    unsigned splits; // how many CTAs share one output tile along the contraction
    GemvCut cut;     // of up to eight tokens
} Linear4Params;
enum {
    // skinny4.cuh. A warp has 16 rows by UNIT_K of the weight at a time; STAGES of these units wait in shared memory,
    // behind the table of pairs. `_SMALL`: for GPUs with 99 KiB of it.
    LINEAR4_SKINNY_THREADS = 512,
    LINEAR4_SKINNY_STAGES = 3,
    LINEAR4_SKINNY_SMALL_THREADS = 256,
    LINEAR4_SKINNY_SMALL_STAGES = 2,
    LINEAR4_SKINNY_UNIT_K = 256,
    LINEAR4_SKINNY_UNIT_BYTES = GEMM_SKINNY_ROWS * LINEAR4_SKINNY_UNIT_K / 2,
    LINEAR4_SKINNY_TABLE_BYTES = 64 * 1024,
    LINEAR4_SKINNY_STATIC_BYTES = 1024, // static shared memory: the dynamic map
    // gemv4.cuh. SHARED memory: twice the table, since it is put at a multiple of its size, and three stages.
    LINEAR4_GEMV_THREADS = 17 * 32,
    LINEAR4_GEMV_MAX_COLS = 25600,
    LINEAR4_GEMV_SHARED = 2 * LINEAR4_SKINNY_TABLE_BYTES + 3 * 16 * LINEAR4_SKINNY_UNIT_BYTES,
    LINEAR4_GEMV_STATIC_BYTES = 64, // barriers
    LINEAR4_GEMV_WARPS = 16,        // that multiply
    LINEAR4_GEMV_STAGE_TILES = 4,   // at most
    LINEAR4_GEMV_SUM_TILES = 12,    // of one token, whose sums wait at a time; half as many of two
    LINEAR4_GEMV_SCALES_BYTES = 16384,
    LINEAR4_GEMV_GROUPS_BYTES = 512,      // of these, the quantisation groups of a group of tiles
    LINEAR4_GEMV_PLAIN_SCALES_BYTES = 51712,
    LINEAR4_GEMV_SCALE_PAD = 16, // bytes between the scales of two rows
    LINEAR4_GEMV8_SHARED = 227 * 1024,
    LINEAR4_GEMV8_THREADS = 20 * 32,
};

// What the copy engine knows of a matrix in memory and of the tiles it is copied in; the driver's CUtensorMap.
typedef struct {
    unsigned long long words[16];
} __attribute__((aligned(128))) TensorMap;

// linear4_wgmma, linear4_grad_wgmma: linear4 for more tokens and its gradient, on Hopper. An output tile is done by one
// CTA, or, from tile `whole` on, by `splits` of them, each with a part of the contraction.
typedef struct {
    TensorMap codes; // of bytes [rows, cols / 2], in tiles of the kernel's rows by STAGE_K / 2 (grad: STAGE_ROWS by COLS / 2)
    TensorMap x;     // T [n, cols], in tiles of the kernel's tokens by X_K (grad: d_out [n, rows], by STAGE_ROWS)
    Weight4Params weight;
    MatrixMut out;     // O [n, rows] (grad: d_x T [n, cols])
    float *partial;    // [split tiles, splits, rows (grad: columns) * tokens of a tile], or null
    unsigned *tickets; // [split tiles, 2], zero before and after, or null
    unsigned n;
    unsigned accumulate;
    unsigned token_tiles, whole, splits;
    unsigned units;    // whole tiles, and parts of the others
    unsigned patience; // how often a CTA asks whether the other parts of a tile are done before it leaves its share
    const void *dense; // more of the contraction, not quantised: T [rows, dense_k] beside the weight (grad: [dense_k, cols]
                       // below it), a multiple of 64, or null
    unsigned dense_k;
} Linear4WgmmaParams;
enum {
    LINEAR4_WGMMA_STAGE_K = 256, // of the weight, in shared memory at a time
    LINEAR4_WGMMA_X_K = 64,      // of x, likewise
    LINEAR4_WGMMA_MAX_SPLITS = 8,
    LINEAR4_WGMMA_SHARED_BYTES = 227 * 1024, // all that a CTA can have
    LINEAR4_FEW_WHOLE_TOKENS = 64, // linear4_few.cuh: a tile of more tokens has half of STAGE_K at a time
    // linear4_grad_wgmma: so many rows of the weight are in shared memory at a time, and a CTA has so many columns
    LINEAR4_GRAD_WGMMA_STAGE_ROWS = 64,
    LINEAR4_GRAD_WGMMA_COLS = 256,
    LINEAR4_GRAD_WGMMA_THREADS = 3 * 128,
};

// linear, linear_grad: the same with a dense weight T [rows, cols].
typedef struct {
    Matrix x;
    Matrix weight; // T [rows, cols]
    MatrixMut out;
    float *partial;
    unsigned n, rows, cols;
    unsigned accumulate;
    unsigned splits;
    unsigned settled; // `skinny` reads the weight while the kernel before it still runs
} LinearParams;
enum {
    LINEAR_SKINNY_THREADS = 256,
    // CTAs that fit on a multiprocessor, by registers: up to 8 tokens, up to 16.
    LINEAR_SKINNY8_CTAS = 3,
    LINEAR_SKINNY16_CTAS = 2,
};

// screen: what a dense weight is in 8 bits, and how far that is from it.
typedef struct {
    Matrix weight;      // T [rows, cols]
    signed char *codes; // [rows, cols]
    MatrixMut bounds;   // f32 [3, rows]: scale, error, norm
    unsigned rows, cols;
} ScreenParams;

// linear_max: `linear` of up to eight tokens where an output may be the largest of its token, minus infinity elsewhere. A first
// kernel leaves in `out` what each output cannot be above.
typedef struct {
    LinearParams linear;
    const signed char *codes; // [rows, cols]
    Matrix bounds;            // f32 [3, rows]
    float *highest;           // [n, ctas of the first kernel]: the largest of what outputs cannot be below
    unsigned ctas;
    unsigned k;   // how many of the largest outputs are looked for
    float levels; // what x is rounded to: from -levels to levels
} LinearMaxParams;
enum {
    SCREEN_THREADS = 256,
    LINEAR_MAX_CTAS = 2, // of the first kernel on a multiprocessor
    LINEAR_MAX_TOKENS = 8,
    LINEAR_MAX_DP2A_TOKENS = 2, // from three on by tensor cores
    LINEAR_MAX_MMA_SHARED = 8352, // bytes of shared memory beside the rounded tokens
    LINEAR_MAX_MMA_LEVELS = 127 * 256 + 127, // the most that two digits of 8 bits hold
    LINEAR_MAX_STEP = 512, // columns that a warp takes at a time
};

// weight_grad: d_weight += d_out^T x, dense.
typedef struct {
    Matrix x;        // T [n, cols]
    Matrix d_out;    // T [n, rows]
    float *d_weight; // [rows, cols]
    unsigned n, rows, cols;
} WeightGradParams;
enum {
    WEIGHT_GRAD_THREADS = 256,
    WEIGHT_GRAD_MMA_TILE = 128, // rows, and columns
    WEIGHT_GRAD_MMA_TOKENS = 32,
    WEIGHT_GRAD_MMA_STAGES = 4,
    WEIGHT_GRAD_SIMT_TILE = 64,
};

// The dropout of ops::Dropout. Kernels only zero elements; whoever calls folds keep_scale into the scale.
typedef struct {
    unsigned long long seed, stream;
    unsigned threshold; // in the upper half; 0: no dropout
} DropoutParams;

// lora_transpose: out = x^T, with zeros where x has no row.
typedef struct {
    Matrix x;      // T [rows, cols]
    MatrixMut out; // T [cols, out.stride]
    unsigned rows, cols;
} TransposeParams;
// Adapters of one stack, which share a launch; each has two factors.
enum { LORA_PARTS = 4 };
enum { LORA_TRANSPOSE_THREADS = 256, LORA_TRANSPOSE_TILE = 32, LORA_TRANSPOSE_MATRICES = 2 }; // of a part
typedef struct {
    TransposeParams matrices[LORA_PARTS * LORA_TRANSPOSE_MATRICES];
} LoraTransposeParams;

// lora_down: out = scale * drop(x) a^T.
typedef struct {
    Matrix x;        // T [n, cols]
    const void *a;   // T [r, cols]
    MatrixMut out;   // T [n, r]
    MatrixMut out_t; // T [r, out_t.stride]: the same transposed, zeros from n on; or null
    unsigned n, cols, r;
    float scale;
    DropoutParams dropout;
} LoraDownParams;
typedef struct {
    LoraDownParams parts[LORA_PARTS];
    unsigned count;
} LoraDownsParams;
enum {
    // Tokens and warps of a CTA.
    LORA_DOWN_TOKENS = 32,
    LORA_DOWN_WARPS = 8,
    // Where tokens are few; where no two CTAs share a multiprocessor; and CTAs of a cluster.
    LORA_DOWN_FEW_TOKENS = 16,
    LORA_DOWN_SKINNY_WARPS = 16,
    LORA_DOWN_LONE_WARPS = 32,
    LORA_DOWN_CLUSTER = 8,
    LORA_DOWN_CLUSTER_WARPS = 8,
    LORA_DOWN_SIMT_WARPS = 8, // each with one token
    LORA_DOWN_SIMT_COLS = 8,  // and so many columns of r
};

// lora_up: out += drop(scale * xa b^T).
typedef struct {
    Matrix xa;     // T [n, r]
    const void *b; // T [cols, r]
    MatrixMut out; // T [n, cols]
    unsigned n, cols, r;
    float scale;
    DropoutParams dropout; // backward only
} LoraUpParams;
typedef struct {
    LoraUpParams parts[LORA_PARTS];
    unsigned in_turn; // so many add to the same output, one after the other; or 0, and each has its own
} LoraUpsParams;
enum {
    LORA_UP_THREADS = 256,
    LORA_UP_TOKENS = 64, // of a CTA
    LORA_UP_COLS = 256,  // of a CTA
    LORA_UP_TOGETHER = 3, // parts that add to the same output at once, at most
};

// lora_skinny: both, for few tokens; `up.xa` is not read.
typedef struct {
    LoraDownParams down;
    LoraUpParams up;
} LoraSkinnyParams;
enum {
    LORA_SKINNY_CLUSTER = 8, // CTAs
    LORA_SKINNY_WARPS = 8,   // of a CTA
    LORA_SKINNY_TOKENS = 16, // of a cluster
    LORA_SKINNY_MAX_R = 64,
};

// lora_linear: what is put beside the operands of a product, so that it takes adapters along.
typedef struct {
    Matrix x;      // T [rows, used]
    MatrixMut out; // T [rows, cols]: x, then zeros
    unsigned rows, used, cols;
} LoraLinearCopyParams;
// A factor of one adapter of a stack.
typedef struct {
    const void *ptr;    // T: B [rows, r], or A [r, in]
    unsigned row, rows; // of the weight, its outputs
    unsigned col, r;    // of xa, its columns
    float scale;
} LoraLinearFactor;
enum {
    LORA_LINEAR_FACTORS = 4,
    LORA_LINEAR_THREADS = 256,
};
typedef struct {
    LoraLinearFactor factors[LORA_LINEAR_FACTORS];
    unsigned count;
    MatrixMut out;      // T [rows, cols]: columns beside some rows of the weight, or rows below it
    unsigned first_row; // of the weight, beside the first of `out`
    unsigned rows, cols;
} LoraLinearFactorsParams;
// What a product with adapters waits for, each by CTAs of its own, in this order; any of it may be nothing.
typedef struct {
    LoraLinearCopyParams xa;
    LoraLinearFactorsParams factors;
    DequantizeParams decode;      // of rows that begin at 16 bytes, their columns a multiple of 8
    unsigned xa_end, factors_end; // the first CTA after those
} LoraLinearParams;
// norm_linear4, lora_linear: out = rms_norm(x) W^T and what adapters add, and gated = swiglu(out), 4-bit W [rows, cols].
typedef struct {
    Linear4Params linear; // of x as it is before the norm; with gated, out is not written
    const float *norm;    // [cols], or null
    float eps;
    MatrixMut normed; // T [n, cols]: rms_norm(x)
    MatrixMut gated;  // T [n, rows / 2], or null
    MatrixMut xa;     // T [n, _]: x A^T
    const void *a[LORA_LINEAR_FACTORS];
    LoraLinearFactor b[LORA_LINEAR_FACTORS];
    unsigned adapters, columns; // of xa: those of all adapters together
    unsigned *tickets;          // two zeros, before and after, or null without adapters
} NormLinear4Params;
enum {
    NORM_LINEAR4_GEMV_MAX_COLS = 4096,    // all of x in one step
    NORM_LINEAR4_GEMV_MAX_XA = 1024,      // elements of xa
    NORM_LINEAR4_GEMV_STATIC_BYTES = 384 + 2 * NORM_LINEAR4_GEMV_MAX_XA, // barriers, sums of warps, xa
};

// lora_weight_grad: sum over tokens of xa[t, :]^T drop(x)[t, :], in `splits` parts (kernel 1); then
// out += scale * the sum of the parts (kernel 2).
typedef struct {
    Matrix x;       // T [n, cols]
    Matrix xa;      // T [n, r]
    Matrix xa_t;    // T [r, xa_t.stride]: the same transposed, zeros from n on; for the tensor cores
    float *partial; // [splits, r, cols]
    float *out;     // [r, cols], or [cols, r] when transposed
    unsigned n, cols, r;
    unsigned splits, split_len; // tokens of a part: a multiple of LORA_WEIGHT_GRAD_RUN
    unsigned transposed;
    float scale;
    DropoutParams dropout;
} LoraWeightGradParams;
typedef struct {
    LoraWeightGradParams factors[2 * LORA_PARTS];
    unsigned count;
} LoraWeightGradsParams;
enum {
    LORA_WEIGHT_GRAD_WARPS = 8,
    LORA_WEIGHT_GRAD_THREADS = 32 * LORA_WEIGHT_GRAD_WARPS,
    LORA_WEIGHT_GRAD_COLS = 64,     // of a CTA of the tensor cores' kernel; a thread of the other has one
    LORA_WEIGHT_GRAD_RUN = 16,      // tokens of one step
    LORA_WEIGHT_GRAD_TILE_TOKENS = 128, // of a tile in shared memory
    LORA_WEIGHT_GRAD_STAGES = 3,        // such tiles
    LORA_WEIGHT_GRAD_MAX_R = 256,   // every warp with its own 32
    LORA_WEIGHT_GRAD_SIMT_COLS = 8, // columns of r of a CTA
    LORA_WEIGHT_GRAD_SUMS = 8,      // rows of r of a thread that adds parts to a transposed gradient
};

// lora_out_grad: d_xa = scale * d_out b, and d_b as lora_weight_grad has it, in parts, from one read of d_out (kernel 1);
// then their sums (kernel 2).
typedef struct {
    LoraWeightGradParams d_b; // x is d_out; xa_t is not read
    const void *b;            // T [cols, r]
    float *partial;           // [groups, n, columns]: parts of d_xa
    MatrixMut d_xa;           // T [n, r]
    MatrixMut d_xa_t;         // T [r, d_xa_t.stride]: the same transposed, zeros from n on
    MatrixMut beside;         // T [n, r]: d_xa again, as an operand of the product, or null
    unsigned groups;          // of columns of d_out
} LoraOutGradParams;
typedef struct {
    LoraOutGradParams parts[LORA_PARTS];
    unsigned tiles;   // of LORA_WEIGHT_GRAD_COLS columns in a group
    unsigned columns; // r, rounded up to 16 or 32
} LoraOutGradsParams;
enum {
    LORA_OUT_GRAD_TILES = 8,  // in a group at most, for 16 columns of r; half of it for 32
    LORA_OUT_GRAD_STAGES = 4, // tiles in shared memory
};
// The sums: out_grad_sum, or lora_linear, before what its product waits for.
typedef struct {
    LoraOutGradsParams of;
    unsigned blocks; // CTAs of each part's d_xa, and as many of its d_b
} LoraOutGradSumsParams;
typedef struct {
    LoraOutGradSumsParams sums;
    unsigned sums_end; // the first CTA after those
    LoraLinearParams operands;
} LoraLinearSumsParams;

// rms_norm: h = x (+ add); sum = h; out = h / sqrt(mean(h^2) + eps) * weight.
typedef struct {
    Matrix x;            // T [n, d]
    Matrix add;          // T [n, d], or null
    MatrixMut sum;       // T [n, d], or null
    const float *weight; // [d]
    MatrixMut out;       // T [n, d]
    unsigned n, d;
    float eps;
} RmsNormParams;

// rms_norm_grad: d_x (+)= r (g - x r^2 mean(g x)), g = d_out * weight.
typedef struct {
    Matrix x;            // T [n, d]
    const float *weight; // [d]
    Matrix d_out;        // T [n, d]
    MatrixMut d_x;       // T [n, d]
    MatrixMut out;       // T [n, d]: rms_norm's, made again, or null; it may be in the place of d_out
    unsigned n, d;
    unsigned accumulate;
    float eps;
} RmsNormGradParams;
enum {
    RMS_NORM_THREADS = 256,
    RMS_NORM_MANY_THREADS = 128, // where rows are many
    RMS_NORM_GRAD_KEPT = 2,      // packs of 16 bytes of a row that a thread has in registers
};

// qk_norm_rope: norm of each head, then rotation; rows of qkv are [q | k | v]. With a cache,
// cache[seqs[i], positions[i], :] = row i of the keys and of the values.
typedef struct {
    Matrix qkv;                // T [n, (q_heads + 2 kv_heads) dim]
    const float *q_weight;     // [dim]
    const float *k_weight;     // [dim]
    const unsigned *positions; // [n]
    const float *cos;          // [max_positions, dim / 2]
    const float *sin;          // [max_positions, dim / 2]
    MatrixMut q;               // T [n, q_heads dim]
    MatrixMut k;               // T [n, kv_heads dim]
    const unsigned *seqs;      // [n], or null without a cache
    void *k_cache;             // [n_seqs, capacity, kv_heads dim]: of T, or with scales of signed bytes
    void *v_cache;             // the same
    float *k_scales;           // [n_seqs, kv_heads, capacity], or null
    float *v_scales;           // the same
    unsigned n, q_heads, kv_heads, dim, max_positions, n_seqs, capacity;
    float eps;
} QkNormRopeParams;

// qk_norm_rope_grad: rotate back, then the norm's gradient.
typedef struct {
    Matrix qkv;
    const float *q_weight;
    const float *k_weight;
    const unsigned *positions;
    const float *cos;
    const float *sin;
    Matrix d_q;     // T [n, q_heads dim]
    Matrix d_k;     // T [n, kv_heads dim]
    MatrixMut d_qk; // T [n, (q_heads + kv_heads) dim]
    unsigned n, q_heads, kv_heads, dim, max_positions;
    float eps;
} QkNormRopeGradParams;
enum { QK_NORM_ROPE_THREADS = 128, QK_NORM_ROPE_HEADS = 4 }; // heads of one group of lanes

// The kernels of attention and attention_grad. Rows of one pair of matrices stay in a CTA; tiles of the other pair
// pass through its shared memory, so many STAGES at a time.
enum {
    ATTENTION_STAGES = 2,
    ATTENTION_SIMT_WARPS = 4, // each with one row
    ATTENTION_MMA_THREADS = 128,
    ATTENTION_MMA_QUERIES = 128,
    ATTENTION_MMA_KEYS = 64,
    ATTENTION_GRAD_KV_MMA_KEYS = 64,
    ATTENTION_GRAD_KV_MMA_QUERIES = 64,
    ATTENTION_GRAD_Q_MMA_QUERIES = 128,
    ATTENTION_GRAD_Q_MMA_KEYS = 32,
    // On Hopper, where the copy engine copies so many rows of 64 elements at a time.
    ATTENTION_WGMMA_COPY_ROWS = 64,
    ATTENTION_WGMMA_COPY_COLUMNS = 64,
    ATTENTION_WGMMA_THREADS = 384,
    ATTENTION_WGMMA_SHARED_BYTES = 227 << 10, // all that a CTA can have
    ATTENTION_WGMMA_QUERIES = 128,            // of a job
    ATTENTION_GRAD_Q_WGMMA_QUERIES = 128,
    ATTENTION_GRAD_WGMMA_KEYS = 128,
    ATTENTION_GRAD_WGMMA_QUERIES = 64,
    ATTENTION_GRAD_SUMS_THREADS = 128, // of a CTA with so many queries
};

// attention: causal, packed sequences, grouped queries.
typedef struct {
    Matrix q;                   // T [n, q_heads dim]
    Matrix k;                   // T [n, kv_heads dim]
    Matrix v;                   // T [n, kv_heads dim]
    const unsigned *cu_seqlens; // [n_seqs + 1]
    Matrix prefix_k;            // T [n_prefix, kv_heads dim]
    Matrix prefix_v;            // T [n_prefix, kv_heads dim]
    const unsigned *prefixes;   // [n_seqs, 2]: first row and number of rows; or null
    MatrixMut out;              // T [n, q_heads dim]
    float *lse;                 // [q_heads, n]
    unsigned n, n_prefix, n_seqs, max_len, q_heads, kv_heads, dim;
    float scale;
} AttentionParams;

// attention on Hopper: the matrices as the copy engine sees them.
typedef struct {
    TensorMap q, k, v, prefix_k, prefix_v;
    AttentionParams attention;
    unsigned *ticket; // 0 before and after
} AttentionWgmmaParams;

// attention_grad: delta (kernel 1), then d_k and d_v, then d_q.
typedef struct {
    Matrix q;
    Matrix k;
    Matrix v;
    Matrix out;
    Matrix d_out;
    const unsigned *cu_seqlens;
    const float *lse; // [q_heads, n]
    float *delta;     // [q_heads, n]
    MatrixMut d_q;    // T [n, q_heads dim]
    MatrixMut d_k;    // T [n, kv_heads dim]
    MatrixMut d_v;    // T [n, kv_heads dim]
    unsigned n, n_seqs, max_len, q_heads, kv_heads, dim;
    float scale;
} AttentionGradParams;

// attention_grad on Hopper: d_k, d_v and sums for d_q, then d_q.
typedef struct {
    TensorMap q, k, v, d_out;
    AttentionGradParams grad;
    float *sums;      // [q_heads, n + n_seqs, dim]
    unsigned tiles;   // of queries, of the longest sequence
    unsigned *turns;  // [n_seqs, tiles, q_heads]: how many have added to a tile's sums; 0 before and after
    unsigned *ticket; // 0 before and after
} AttentionGradWgmmaParams;

// decode_attention: norm and rotation of one token of each sequence, whose key and value go to the cache, and its
// attention over positions 0 ..= positions[b]; split over the cache.
typedef struct {
    Matrix qkv;                // T [n_seqs, (q_heads + 2 kv_heads) dim]
    const float *q_weight;     // [dim]
    const float *k_weight;     // [dim]
    const unsigned *positions; // [n_seqs]
    const float *cos;          // [max_positions, dim / 2]
    const float *sin;          // [max_positions, dim / 2]
    void *k_cache;             // [n_seqs, capacity, kv_heads dim]: of T, or with scales of signed bytes
    void *v_cache;             // the same
    float *k_scales;           // [n_seqs, kv_heads, capacity], or null
    float *v_scales;           // the same
    MatrixMut out;             // T [n_seqs, q_heads dim]
    float *partial;            // [n_seqs, chunks, kv_heads, splits, HEADS, dim + STATS]: sums, maximum, their weight
    unsigned *tickets;         // [n_seqs, chunks, kv_heads], zeros before and after; chunks: of a group's heads
    unsigned n_seqs, capacity, q_heads, kv_heads, dim, max_positions, splits;
    unsigned packed;  // all but `out` is aligned to 16 bytes
    unsigned settled; // positions, and what the cache has of them, were there before the kernel before this one began
    float eps, scale;
} DecodeAttentionParams;
enum {
    DECODE_ATTENTION_THREADS = 256,
    DECODE_ATTENTION_HEADS = 8,       // query heads of a CTA, at most: a key head's group, or a part of it
    DECODE_ATTENTION_TILE = 16,       // keys that a warp takes at a time
    DECODE_ATTENTION_INT8_TILE = 32,  // the same of a cache in 8 bits
    DECODE_ATTENTION_MAX_SPLITS = 64, // of a sequence
    DECODE_ATTENTION_MERGED = 32,     // splits that are merged at a time: half of these
    DECODE_ATTENTION_STATS = 8,       // what follows the sums of a head: two numbers, and what keeps banks apart
};

// dequantize_rows: out[i, h dim + j] = codes[i, h dim + j] scales[h, i].
typedef struct {
    Matrix codes;  // signed bytes [n, heads dim]
    Matrix scales; // f32 [heads, n]
    MatrixMut out; // T [n, heads dim]
    unsigned n, heads, dim;
} DequantizeRowsParams;
enum { DEQUANTIZE_ROWS_THREADS = 128 };

// swiglu: out = silu(gate) * up.
typedef struct {
    Matrix gate_up; // T [n, 2 f]
    MatrixMut out;  // T [n, f]
    unsigned n, f;
} SwigluParams;

// swiglu_grad.
typedef struct {
    Matrix gate_up;      // T [n, 2 f]
    Matrix d_out;        // T [n, f]
    MatrixMut d_gate_up; // T [n, 2 f]
    MatrixMut out;       // T [n, f]: swiglu's, made again, or null; it may be in the place of d_out
    unsigned n, f;
} SwigluGradParams;

// lora_swiglu_down: swiglu, and lora_down of its output.
typedef struct {
    SwigluParams swiglu;
    LoraDownParams down; // x and out_t are not used
} LoraSwigluDownParams;
enum { LORA_SWIGLU_DOWN_WARPS = 24, LORA_SWIGLU_DOWN_TOKENS = 16 };

// lora_swiglu_grad: swiglu_grad, and kernel 1 of lora_weight_grad where x is what swiglu makes of gate and up.
typedef struct {
    SwigluGradParams swiglu;
    LoraWeightGradParams factor;
    const void *a; // T [r, f]: with dropout, and r up to this, d_out += drop(scale * d_xa a) first
} LoraSwigluGradParams;
enum { LORA_SWIGLU_GRAD_ADDED_R = 64 };

// noise: x[i, j] += bound * (2 u - 1), u from Philox.
typedef struct {
    MatrixMut x; // T [n, d]
    unsigned long long seed, stream;
    unsigned n, d;
    float bound;
} NoiseParams;

// row_squares: out[i] = sum(x[i, :]^2).
typedef struct {
    Matrix x;   // T [n, d]
    float *out; // [n]
    unsigned n, d;
} RowSquaresParams;

// dora_norms: norms[o] = |W[o, :] + scale B[o, :] A|.
typedef struct {
    const float *squares; // [outputs]: of the rows of W
    Matrix products;      // f32 [rank, outputs]: A W^T
    const float *gram;    // [rank, rank]: A A^T
    const void *b;        // T [outputs, rank]
    float *norms;         // [outputs]
    unsigned outputs, rank;
    float scale;
} DoraNormsParams;

// dora: z *= magnitude / norms by columns, or sum += that.
typedef struct {
    MatrixMut z;            // T [n, outputs]
    const float *magnitude; // [outputs]
    const float *norms;     // [outputs]
    MatrixMut sum;          // T [n, outputs], or null
    unsigned n, outputs;
} DoraParams;

// dora_grad.
typedef struct {
    Matrix z;               // T [n, outputs]
    const float *magnitude; // [outputs]
    const float *norms;     // [outputs]
    MatrixMut d_out;        // T [n, outputs]
    float *d_magnitude;     // [outputs], added to
    unsigned n, outputs;
} DoraGradParams;

// dropped: out (+)= x times the factor of what is dropped, or of what is kept.
typedef struct {
    Matrix x;      // T [n, d]
    MatrixMut out; // T [n, d]
    DropoutParams dropout;
    unsigned n, d;
    unsigned accumulate;
    float factors[2];
} DroppedParams;
enum {
    DORA_THREADS = 256,    // row_squares: a CTA for each row; dora_norms: a warp for each output
    DORA_GRAD_COLUMNS = 32, // of a CTA
    DORA_GRAD_ROWS = 16,    // that a CTA takes at a time
};

// gather_rows: out[i, :] = table[rows[i], :]; scatter_rows: out[rows[i], :] = x[i, :].
typedef struct {
    Matrix x;             // T [n_table, d] (scatter: [n, d])
    const unsigned *rows; // [n]
    MatrixMut out;        // T [n, d] (scatter: [n_table, d])
    unsigned n, n_table, d;
} RowsParams;
enum { ROWS_THREADS = 256 };

// cross_entropy: losses, and the gradient in place of the logits.
typedef struct {
    MatrixMut logits;       // T [n, vocab]
    const unsigned *labels; // [n]
    float *losses;          // [n]
    unsigned n, vocab;
    unsigned with_grad;
    unsigned cached; // 16-byte packs of a row that fit in shared memory
    float grad_scale;
} CrossEntropyParams;
enum {
    CROSS_ENTROPY_THREADS = 1024,
    CROSS_ENTROPY_PACK_BYTES = 16,
    CROSS_ENTROPY_STATIC_BYTES = 1024, // of shared memory, for the kernel's own variables: not less than they take
};

// sample: one CTA for each sequence, or a cluster.
typedef struct {
    MatrixMut logits;    // f32 [n_seqs, columns]
    unsigned *history;   // [n_seqs, capacity]
    unsigned *positions; // [n_seqs]
    unsigned *tokens;    // [n_seqs]
    unsigned *seen;      // [n_seqs, vocab / 32], rounded up, scratch; null without repetition penalty
    unsigned n_seqs, vocab, capacity;
    unsigned top_k;
    float temperature, top_p, min_p, repetition_penalty;
    unsigned long long seed;
} SampleParams;
enum {
    SAMPLE_THREADS = 1024,
    SAMPLE_CTAS = 8,            // that share a sequence, where they do
    SAMPLE_SHARED_TOP_K = 64,   // they do up to this top_k
};

// cast: out[i] = x[i].
typedef struct {
    const void *x; // S [len]
    void *out;     // T [len]
    unsigned long long len;
} CastParams;

// sum, norm: fixed-order two-stage reductions.
typedef struct {
    const float *x;  // [len]
    double *partial; // [blocks], scratch
    float *out;      // [1]
    unsigned long long len;
    unsigned blocks;
    unsigned accumulate;
} ReduceParams;
enum { REDUCE_THREADS = 256 };

// What adamw and adamw8bit have in common.
typedef struct {
    float *weights;     // [len]
    const float *grads; // [len]
    void *compute;      // T [len]
    unsigned long long len;
    float decay; // 1 - lr * weight_decay
    float beta1, one_minus_beta1;
    float beta2, one_minus_beta2;
    float step_size, bias2_sqrt; // lr / (1 - beta1^t), sqrt(1 - beta2^t)
    float eps;
    const float *norm, *loss; // [1]
    unsigned *halted;         // [1]
    float max_norm, loss_scale;
} AdamWStepParams;

// adamw.
typedef struct {
    AdamWStepParams step;
    float *m; // [len]
    float *v; // [len]
} AdamWParams;

// adamw8bit.
typedef struct {
    AdamWStepParams step;
    unsigned char *m_codes, *v_codes; // [len]
    float *m_absmax, *v_absmax;       // [len / ADAMW8BIT_BLOCK], rounded up
} AdamW8bitParams;
enum { ADAMW8BIT_BLOCK = 256 };
