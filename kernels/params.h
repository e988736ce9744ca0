#pragma once
// One struct for each kernel: its only argument, passed by value. Read by nvcc and by bindgen.
// `T` is the kernel's compute type (bf16, f16 or f32): pointers to it are void here, because one struct
// serves the three instances. A matrix [n, d] with a stride has its row i at element i * stride.
// What each op computes stands in src/ops/<op>.rs.

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
    const void *x;         // T [len]
    unsigned char *codes;  // [len / 2], rounded up
    float *absmax;         // [len / block], rounded up
    unsigned long long len;
    unsigned block_shift;
    unsigned fp4;
} QuantizeParams;

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

// dequantize: out[i] = code[codes[i]] * absmax[i / block].
typedef struct {
    Weight4Params weight;
    void *out; // T [rows * cols]
} DequantizeParams;

// linear4, linear4_grad: out (+)= x W^T, d_x (+)= d_out W, 4-bit W [rows, cols].
typedef struct {
    const void *x; // T [n, cols] (grad: d_out [n, rows])
    Weight4Params weight;
    void *out;      // O [n, rows] (grad: d_x T [n, cols])
    float *partial; // scratch for split sums, or null
    unsigned n;
    unsigned x_stride, out_stride;
    unsigned accumulate;
    unsigned splits; // how many CTAs share one output tile along the contraction
} Linear4Params;

// linear, linear_grad: the same with a dense weight T [rows, cols].
typedef struct {
    const void *x;
    const void *weight; // T [rows, cols]
    void *out;
    float *partial;
    unsigned n, rows, cols;
    unsigned x_stride, out_stride;
    unsigned accumulate;
    unsigned splits;
} LinearParams;

// weight_grad: d_weight += d_out^T x, dense.
typedef struct {
    const void *x;     // T [n, cols]
    const void *d_out; // T [n, rows]
    float *d_weight;   // [rows, cols]
    unsigned n, rows, cols;
    unsigned x_stride, d_out_stride;
} WeightGradParams;

// The dropout of ops::Dropout. Kernels only zero elements; whoever calls folds keep_scale into the scale.
typedef struct {
    unsigned long long seed, stream;
    unsigned threshold; // 0: no dropout
} DropoutParams;

// lora_transpose: out = x^T, with zeros where x has no row.
typedef struct {
    const void *x; // T [rows, cols]
    void *out;     // T [cols, out_stride]
    unsigned rows, cols;
    unsigned x_stride, out_stride;
} TransposeParams;
typedef struct {
    TransposeParams matrices[3];
} LoraTransposeParams;

// lora_down: out = scale * drop(x) a^T.
typedef struct {
    const void *x;  // T [n, cols]
    const void *a;  // T [r, cols]
    void *out;      // T [n, r]
    void *out_t;    // T [r, out_t_stride]: the same transposed, zeros from n on; or null
    unsigned n, cols, r;
    unsigned x_stride, out_stride, out_t_stride;
    float scale;
    DropoutParams dropout;
} LoraDownParams;

// lora_up: out += drop(scale * xa b^T).
typedef struct {
    const void *xa; // T [n, r]
    const void *b;  // T [cols, r]
    void *out;      // T [n, cols]
    unsigned n, cols, r;
    unsigned xa_stride, out_stride;
    float scale;
    DropoutParams dropout; // backward only
} LoraUpParams;

// lora_few: both, for few tokens; `up.xa` is not read.
typedef struct {
    LoraDownParams down;
    LoraUpParams up;
} LoraFewParams;

// lora_weight_grad: sum over tokens of xa[t, :]^T drop(x)[t, :], in `splits` parts (kernel 1); then
// out += scale * the sum of the parts (kernel 2).
typedef struct {
    const void *x;    // T [n, cols]
    const void *xa;   // T [n, r]
    const void *xa_t; // T [r, xa_t_stride]: the same transposed, zeros from n on; for the tensor cores
    float *partial;   // [splits, r, cols]
    float *out;       // [r, cols], or [cols, r] when transposed
    unsigned n, cols, r;
    unsigned x_stride, xa_stride, xa_t_stride;
    unsigned splits, split_len; // tokens of a part: a multiple of 16
    unsigned transposed;
    float scale;
    DropoutParams dropout;
} LoraWeightGradParams;

// rms_norm: h = x (+ add); sum = h; out = h / sqrt(mean(h^2) + eps) * weight.
typedef struct {
    const void *x;       // T [n, d]
    const void *add;     // T [n, d], or null
    void *sum;           // T [n, d], or null
    const float *weight; // [d]
    void *out;           // T [n, d]
    unsigned n, d;
    unsigned x_stride, add_stride, sum_stride, out_stride;
    float eps;
} RmsNormParams;

// rms_norm_grad: d_x (+)= r (g - x r^2 mean(g x)), g = d_out * weight.
typedef struct {
    const void *x;       // T [n, d]
    const float *weight; // [d]
    const void *d_out;   // T [n, d]
    void *d_x;           // T [n, d]
    unsigned n, d;
    unsigned x_stride, d_out_stride, d_x_stride;
    unsigned accumulate;
    float eps;
} RmsNormGradParams;

// qk_norm_rope: norm of each head, then rotation; rows of qkv are [q | k | v].
typedef struct {
    const void *qkv;          // T [n, (q_heads + 2 kv_heads) dim]
    const float *q_weight;    // [dim]
    const float *k_weight;    // [dim]
    const unsigned *positions; // [n]
    const float *cos;         // [max_positions, dim / 2]
    const float *sin;         // [max_positions, dim / 2]
    void *q;                  // T [n, q_heads dim]
    void *k;                  // T [n, kv_heads dim]
    unsigned n, q_heads, kv_heads, dim, max_positions;
    unsigned qkv_stride, q_stride, k_stride;
    float eps;
} QkNormRopeParams;

// qk_norm_rope_grad: rotate back, then the norm's gradient.
typedef struct {
    const void *qkv;
    const float *q_weight;
    const float *k_weight;
    const unsigned *positions;
    const float *cos;
    const float *sin;
    const void *d_q; // T [n, q_heads dim]
    const void *d_k; // T [n, kv_heads dim]
    void *d_qk;      // T [n, (q_heads + kv_heads) dim]
    unsigned n, q_heads, kv_heads, dim, max_positions;
    unsigned qkv_stride, d_q_stride, d_k_stride, d_qk_stride;
    float eps;
} QkNormRopeGradParams;

// attention: causal, packed sequences, grouped queries.
typedef struct {
    const void *q;              // T [n, q_heads dim]
    const void *k;              // T [n, kv_heads dim]
    const void *v;              // T [n, kv_heads dim]
    const unsigned *cu_seqlens; // [n_seqs + 1]
    void *out;                  // T [n, q_heads dim]
    float *lse;                 // [q_heads, n]
    unsigned n, n_seqs, max_len, q_heads, kv_heads, dim;
    unsigned q_stride, k_stride, v_stride, out_stride;
    float scale;
} AttentionParams;

// attention_grad: delta (kernel 1), then d_k and d_v, then d_q.
typedef struct {
    const void *q;
    const void *k;
    const void *v;
    const void *out;
    const void *d_out;
    const unsigned *cu_seqlens;
    const float *lse; // [q_heads, n]
    float *delta;     // [q_heads, n]
    void *d_q;        // T [n, q_heads dim]
    void *d_k;        // T [n, kv_heads dim]
    void *d_v;        // T [n, kv_heads dim]
    unsigned n, n_seqs, max_len, q_heads, kv_heads, dim;
    unsigned q_stride, k_stride, v_stride, out_stride, d_out_stride, d_q_stride, d_k_stride, d_v_stride;
    float scale;
} AttentionGradParams;

// cache_append: cache[seqs[i], positions[i], :] = row i.
typedef struct {
    const void *k; // T [n, width]
    const void *v; // T [n, width]
    const unsigned *seqs;
    const unsigned *positions;
    void *k_cache; // T [n_seqs, capacity, width]
    void *v_cache; // T [n_seqs, capacity, width]
    unsigned n, width, n_seqs, capacity;
    unsigned k_stride, v_stride;
} CacheAppendParams;

// decode_attention: one query row for each sequence over positions 0 ..= positions[b]; split over the cache.
typedef struct {
    const void *q;             // T [n_seqs, q_heads dim]
    const void *k_cache;       // T [n_seqs, capacity, kv_heads dim]
    const void *v_cache;       // T [n_seqs, capacity, kv_heads dim]
    const unsigned *positions; // [n_seqs]
    void *out;                 // T [n_seqs, q_heads dim]
    float *partial;            // [n_seqs, q_heads, splits, dim + 2]: sums, maximum, sum of exponentials
    unsigned *tickets;         // [n_seqs, kv_heads * chunks], zeros before and after; chunks of a group's heads
    unsigned n_seqs, capacity, q_heads, kv_heads, dim, splits;
    unsigned q_stride, out_stride;
    float scale;
} DecodeAttentionParams;

// swiglu: out = silu(gate) * up.
typedef struct {
    const void *gate_up; // T [n, 2 f]
    void *out;           // T [n, f]
    unsigned n, f;
    unsigned gate_up_stride, out_stride;
} SwigluParams;

// swiglu_grad.
typedef struct {
    const void *gate_up; // T [n, 2 f]
    const void *d_out;   // T [n, f]
    void *d_gate_up;     // T [n, 2 f]
    unsigned n, f;
    unsigned gate_up_stride, d_out_stride, d_gate_up_stride;
} SwigluGradParams;

// gather_rows: out[i, :] = table[rows[i], :]; scatter_rows: out[rows[i], :] = x[i, :].
typedef struct {
    const void *x;        // T [n_table, d] (scatter: [n, d])
    const unsigned *rows; // [n]
    void *out;            // T [n, d] (scatter: [n_table, d])
    unsigned n, n_table, d;
    unsigned x_stride, out_stride;
} RowsParams;

// cross_entropy: losses, and the gradient in place of the logits.
typedef struct {
    void *logits;           // T [n, vocab]
    const unsigned *labels; // [n]
    float *losses;          // [n]
    unsigned n, vocab;
    unsigned stride;
    unsigned with_grad;
    unsigned cached; // 16-byte packs of a row that fit in shared memory
    float grad_scale;
} CrossEntropyParams;

// sample: one CTA for each sequence.
typedef struct {
    float *logits;       // [n_seqs, columns]
    unsigned *history;   // [n_seqs, capacity]
    unsigned *positions; // [n_seqs]
    unsigned *tokens;    // [n_seqs]
    unsigned *seen;      // [n_seqs, vocab / 32], rounded up, scratch; null without repetition penalty
    unsigned n_seqs, vocab, stride, capacity;
    unsigned top_k;
    float temperature, top_p, min_p, repetition_penalty;
    unsigned long long seed;
} SampleParams;

// cast: out[i] = x[i].
typedef struct {
    const void *x; // S [len]
    void *out;     // T [len]
    unsigned long long len;
} CastParams;

// sum, norm: fixed-order two-stage reductions.
typedef struct {
    const float *x; // [len]
    double *partial; // [blocks], scratch
    float *out;     // [1]
    unsigned long long len;
    unsigned blocks;
    unsigned accumulate;
} ReduceParams;

// adamw.
typedef struct {
    float *weights;     // [len]
    const float *grads; // [len]
    float *m;           // [len]
    float *v;           // [len]
    void *compute;      // T [len]
    unsigned long long len;
    float decay;           // 1 - lr * weight_decay
    float one_minus_beta1;
    float beta2, one_minus_beta2;
    float step_size, bias2_sqrt; // lr / (1 - beta1^t), sqrt(1 - beta2^t)
    float eps;
    float grad_scale;
} AdamWParams;
