/* The C interface between the CUDA kernels (this folder) and the engine's device side (native/src/cuda/).
 *
 * Plain data only; native/src/cuda/abi.rs mirrors every struct and compares sizes by lmx_abi_sizes. Pointers are device
 * pointers unless a name says `host`. Matrices are row-major and contiguous. Every function queues its work on `stream`
 * and returns at once: 0, or a cudaError_t that lmx_error_text explains.
 *
 * CUDA graphs: a step's facts reach kernels only through lmx_step, whose pointers are the same in every captured step of a
 * bucket and whose contents are copied before the run. Launch shapes depend on the matrices' rows (the batch bucket) and on nothing
 * else of the step, and kernels leave rows at and beyond the counted ones alone. So a captured run serves every step of
 * its bucket, whatever adapters its rows use. Functions named *_prefill are not captured.
 *
 * Numbers: what one row gets depends on no other row's values. Products are summed in float32; no atomic additions.
 */
#ifndef LORAMUX_CUDA_H
#define LORAMUX_CUDA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t lmx_status;
typedef void *lmx_stream; /* cudaStream_t; NULL is the default stream */
typedef void *lmx_event;  /* cudaEvent_t */

/* LMX_I8: of the factors of lmx_site_delta alone. */
enum { LMX_F32 = 0, LMX_F16 = 1, LMX_BF16 = 2, LMX_I8 = 3 };

/* ---- adapters ------------------------------------------------------------------------------------------------------
 * An adapter is one piece of device memory: these tables, then the numbers that they point to. Every array begins at a
 * multiple of 16 bytes. */

/* One module's half of the expand: y[:, out_offset + o] += Σ_r b[o, r] · h[r]. */
typedef struct {
  const void *b;       /* adapter dtype [out_features, rank] */
  const float *b_scale; /* [out_features], what row o of b is multiplied by, where b is LMX_I8; else NULL */
  const float *gain;   /* [out_features], DoRA's g, or NULL: scales base and LoRA part together */
  const float *offset; /* [out_features], biases, or NULL: added after the gain */
  int32_t rank_offset; /* first row of the stacked A */
  int32_t rank;
  int32_t out_offset; /* first output column within the site */
  int32_t out_features;
} lmx_part;

/* What one adapter adds at one base matmul; part_count 0 = nothing. */
typedef struct {
  const void *a;         /* adapter dtype [rank, in_features]: the A of all modules stacked */
  const float *scale;    /* [rank], multiplies h; that of rows of an LMX_I8 a is in it */
  const lmx_part *parts; /* [part_count], their columns do not overlap */
  int32_t rank;          /* of all parts together; 0 where the adapter only has gains or offsets here */
  int32_t part_count;
  int32_t dtype; /* of a and b */
  int32_t reserved;
} lmx_site_delta;

/* Rows in the place of the base's. count 0 = none. */
typedef struct {
  const void *rows;        /* dtype [count, width] */
  const uint32_t *tokens;  /* [count] ascending, the row's token; NULL: row t is token t's */
  int32_t count;
  int32_t dtype;
} lmx_replaced_rows;

/* g ⊙ (E[id] + scale · B · A[:, id]); rank 0 = none. */
typedef struct {
  const void *a;     /* dtype [vocab, rank]: A transposed */
  const void *b;     /* dtype [hidden, rank] */
  const float *gain; /* [hidden] or NULL */
  float scale;
  int32_t rank;
  int32_t vocab;
  int32_t dtype;
} lmx_embedding_lora;

typedef struct {
  const lmx_site_delta *sites; /* [sites of the model] */
  const float *const *norms;   /* [norms of the model]; f32 [hidden] in the place of the base's weight, or NULL each */
  lmx_embedding_lora embedding;
  lmx_replaced_rows embedding_rows;
  lmx_replaced_rows head_rows;
  int32_t most_rank; /* highest lmx_site_delta.rank */
  int32_t reserved;
} lmx_adapter;

/* ---- a step's facts ------------------------------------------------------------------------------------------------ */

/* One adapter of a segment, and how strongly it is added. */
typedef struct {
  const lmx_adapter *adapter;
  float weight;
  int32_t reserved;
} lmx_term;

/* Neighbouring rows with the same terms. */
typedef struct {
  int32_t first_row;
  int32_t rows;
  int32_t first_term;
  int32_t terms; /* ≥ 1 */
} lmx_tile;

/* Neighbouring query rows of one sequence. */
typedef struct {
  int32_t first_row;
  int32_t rows;
  int32_t sequence;
  int32_t reserved;
} lmx_query_tile;

typedef struct {
  int32_t rows;         /* of the step */
  int32_t logits_rows;  /* of those, how many reach the head */
  int32_t sequences;
  int32_t tiles;        /* of `tiles`: at most LMX_TILE_ROWS rows each */
  int32_t long_tiles;   /* of `long_tiles`: at most LMX_LONG_TILE_ROWS rows each; their rows are in no tile of `tiles` */
  int32_t head_tiles;   /* of `head_tiles` */
  int32_t query_tiles;  /* of `query_tiles`: rows of sequences with more than one row in the step */
  int32_t single_rows;  /* of `single_rows`: rows that are their sequence's only one */
  int32_t max_blocks;   /* columns of `block_tables` */
} lmx_counts;

enum { LMX_TILE_ROWS = 8, LMX_LONG_TILE_ROWS = 64, LMX_QUERY_TILE_ROWS = 64 };

/* Row r of a tile's matrix takes terms[first_term .. first_term + terms]. Base rows are in no tile. */
typedef struct {
  const lmx_counts *counts;        /* [1] */
  const int64_t *token_ids;        /* [rows], the graph's input as lmx_feed_tokens wrote it */
  const int32_t *positions;        /* [rows], absolute */
  const int32_t *slots;            /* [rows], KV slot to write (block · block_size + offset) or −1 */
  const int32_t *row_sequence;     /* [rows] */
  const int32_t *block_tables;     /* [sequences, counts->max_blocks] */
  const lmx_term *terms;
  const lmx_tile *tiles;           /* all rows of segments shorter than LMX_LONG_TILE_ROWS / 2 */
  const lmx_tile *long_tiles;      /* all others */
  const lmx_tile *head_tiles;      /* over the rows that reach the head */
  const lmx_query_tile *query_tiles;
  const int32_t *single_rows;
  const lmx_tile *row_terms;       /* [rows], one-row tiles; terms 0 for base rows */
  const lmx_tile *head_row_terms;  /* [logits_rows], likewise */
} lmx_step;

/* ---- device, memory, order ----------------------------------------------------------------------------------------- */

typedef struct {
  char name[256];
  int64_t total_bytes;
  int64_t free_bytes;
  int64_t l2_bytes;
  int32_t capability; /* 90 for sm_90 */
  int32_t multiprocessors;
  int32_t driver;  /* 13000 for CUDA 13.0 */
  int32_t runtime;
} lmx_device_facts;

/* Sizes of the structs of this file, in their order, ended by 0. */
const size_t *lmx_abi_sizes(void);
const char *lmx_error_text(lmx_status status);
/* 1 where kernels run on the CPU by the emulator (native/cuda/emulator), which tests use; 0 on a GPU. */
int32_t lmx_emulated(void);
lmx_status lmx_device_count(int32_t *host_count);
/* Makes device `index` the calling thread's, which from then on may allocate, free and ask for events while another thread
 * captures a graph (cudaThreadExchangeStreamCaptureMode, thread-local). */
lmx_status lmx_device_use(int32_t index);
lmx_status lmx_device_facts_of(int32_t index, lmx_device_facts *host_facts);
lmx_status lmx_alloc(void **out, size_t bytes);
lmx_status lmx_free(void *data);
/* Pinned host memory. */
lmx_status lmx_host_alloc(void **out, size_t bytes);
lmx_status lmx_host_free(void *data);
/* priority < 0 goes first. Such a stream and the default one do not wait for each other. */
lmx_status lmx_stream_create(lmx_stream *out, int32_t priority);
lmx_status lmx_stream_destroy(lmx_stream stream);
lmx_status lmx_stream_wait(lmx_stream stream); /* the host waits */
lmx_status lmx_copy_in(void *to, const void *host_from, size_t bytes, lmx_stream stream);
lmx_status lmx_copy_out(void *host_to, const void *from, size_t bytes, lmx_stream stream);
lmx_status lmx_copy(void *to, const void *from, size_t bytes, lmx_stream stream); /* both on the device */
lmx_status lmx_zero(void *to, size_t bytes, lmx_stream stream);
lmx_status lmx_event_create(lmx_event *out);
lmx_status lmx_event_destroy(lmx_event event);
lmx_status lmx_event_record(lmx_event event, lmx_stream stream);
lmx_status lmx_event_done(lmx_event event, int32_t *host_done);
lmx_status lmx_event_wait(lmx_event event); /* the host waits; an event never recorded is done */
lmx_status lmx_stream_after(lmx_stream stream, lmx_event event);

/* ---- kernels: adapters ---------------------------------------------------------------------------------------------
 * `dtype` is the activations'. `rows` is what the matrices hold (the bucket), at least the step's. */

typedef struct {
  const void *x; /* [rows, in_features] */
  void *y;       /* [rows, out_features], in place */
  float *h;      /* workspace, lmx_sgmv_workspace floats */
  int32_t dtype;
  int32_t rows;
  int32_t in_features;
  int32_t out_features;
  int32_t site;
  int32_t at_head;    /* 1: rows are the head's, tiles are step.head_tiles */
  int32_t h_stride;   /* most_rank · terms of the segment that needs most: floats of h for one row of one split */
  int32_t has_long;   /* 1: this step (never a captured one) has long tiles */
} lmx_sgmv;

/* Floats of h that one call needs. */
size_t lmx_sgmv_workspace(int32_t rows, int32_t in_features, int32_t h_stride);
/* y[i] = g ⊙ (y[i] + Σ_k w_k · scale_k ⊙ B_k (A_k x[i])) + Σ_k w_k · o_k over the terms of row i. g only where a term
 * stands alone. Punica's SGMV (arXiv 2310.18547): one shrink and one expand launch for a fused site (q|k|v, gate|up). */
lmx_status lmx_sgmv_apply(const lmx_step *host_step, const lmx_sgmv *host_call, lmx_stream stream);

/* Row i of `y` [rows, hidden] (the base's embedding of its token) adapted as its terms say; in place. */
lmx_status lmx_segmented_embedding(const lmx_step *host_step, void *y, int32_t dtype, int32_t rows, int32_t hidden, lmx_stream stream);
/* y [rows, hidden] = RMS norm of x with the adapter's weight, where row i's adapter brings one for `norm`; other rows stay. */
lmx_status lmx_segmented_norm(const lmx_step *host_step, void *y, const void *x, int32_t norm, float epsilon, int32_t dtype, int32_t rows,
                              int32_t hidden, lmx_stream stream);
/* logits [logits_rows, vocab]: columns whose head row the adapter replaces become x · rowᵀ; in place. x [logits_rows, hidden]. */
lmx_status lmx_segmented_head(const lmx_step *host_step, void *logits, const void *x, int32_t dtype, int32_t rows, int32_t vocab,
                              int32_t hidden, lmx_stream stream);
/* y [rows, width] = silu(gate) · up of x [rows, 2 · width] = gate | up. */
lmx_status lmx_gated_silu(void *y, const void *x, int32_t dtype, int32_t rows, int32_t width, lmx_stream stream);

/* ---- kernels: attention -------------------------------------------------------------------------------------------- */

typedef struct {
  void *keys;   /* dtype [kv_heads, LMX_BLOCK, dim] of one layer, of block 0; those of block b lie b · block_stride elements behind */
  void *values; /* likewise */
  const float *cos; /* [positions, dim / 2], the model's attention scale folded in */
  const float *sin;
  const void *qkv;  /* dtype [rows, (heads + 2 · kv_heads) · dim] */
  void *out;        /* dtype [rows, heads · dim] */
  void *workspace;  /* lmx_attention_workspace bytes; partial results */
  int64_t block_stride; /* a multiple of 8, at least kv_heads · LMX_BLOCK · dim */
  float scale;
  int32_t dtype;
  int32_t rows;
  int32_t heads;
  int32_t kv_heads;
  int32_t dim;    /* multiple of 8, at most 256 */
  int32_t window; /* positions that a row sees, itself included; −1 = all */
  int32_t max_context; /* no row's position is at or above it */
  int32_t single_rows; /* at least counts->single_rows; of a captured run: rows */
  int32_t query_tiles; /* counts->query_tiles; of a captured run: 0, it has none */
} lmx_attention;

/* Positions of one KV block. */
enum { LMX_BLOCK = 16 };

/* For steps of at most this many single rows; `rows` alone needs none. */
size_t lmx_attention_workspace(int32_t single_rows, int32_t heads, int32_t dim, int32_t max_context);
/* Rotates k (pairs r, r + dim / 2) and appends K and V to the rows' slots, then every row attends: single rows by split-K
 * flash decoding over their context, query tiles by the tensor cores. A row without a slot finds its key and value in its
 * page already. */
lmx_status lmx_attend(const lmx_step *host_step, const lmx_attention *host_call, lmx_stream stream);

/* ---- kernels: tokens in, tokens out -------------------------------------------------------------------------------- */

/* ids [rows] (the graph's input, and step.token_ids): tokens [rows], or for −(s + 1) what sequence slot s sampled last. A
 * slot that holds no id below vocab (its row had no token) feeds 0: the host gives up what is computed from it. */
lmx_status lmx_feed_tokens(int64_t *ids, const int32_t *tokens, const uint32_t *last_sampled, int32_t rows, int32_t vocab,
                           lmx_stream stream);

enum { LMX_NO_TOKEN = -1 };

/* How one logits row is sampled; the order of things is native/src/sampler/mod.rs's. */
typedef struct {
  uint64_t seed;
  uint32_t choice;
  uint32_t position;
  float temperature;
  float top_p;
  float min_p;
  float typical_p;
  int32_t top_k;  /* 0 = off */
  int32_t greedy;
  int32_t kind;   /* 0 sampled, 1 scored (score_token), 2 neither: no token; so are padding rows */
  uint32_t score_token;
  int32_t slot;     /* sequence slot that remembers the token, or −1 */
  int32_t follows;  /* id that the row before (scored rows aside) must have sampled for this one to be, or −1 */
  int32_t logprobs; /* 0 none, 1 of the processed logits, 2 the model's own */
  int32_t top;      /* how many of the likeliest are reported, at most LMX_MOST_TOP */
  int32_t mask;     /* row of `masks`, or −1 */
  int32_t first_bias, biases;       /* of bias_ids and bias_values */
  int32_t first_banned, banned;     /* of banned_ids */
  int32_t first_counted, counted;   /* of counted: the tokens that penalties know, distinct, with what each is worth */
} lmx_row_sampling;

/* A token that penalties know; the host has folded scopes and counts. */
typedef struct {
  uint32_t id;
  float repetition; /* positive logits are divided by it, negative ones multiplied; 1 = off */
  double subtract;  /* presence + frequency · share */
} lmx_counted_token;

enum { LMX_MOST_TOP = 256 };

typedef struct {
  const void *logits; /* dtype [rows, vocab] */
  float *processed;   /* workspace f32 [rows, vocab] */
  const lmx_row_sampling *rows_sampling; /* [rows] */
  const uint32_t *bias_ids;
  const float *bias_values;
  const uint32_t *banned_ids;
  const lmx_counted_token *counted;
  const uint32_t *masks;  /* [·, ceil(vocab / 32)]: ids whose bit is 0 are never chosen */
  uint32_t *last_sampled; /* [sequence slots] */
  uint32_t *tokens;       /* out [rows]; LMX_NO_TOKEN where no logit was above −∞ or the row stood on a wrong guess */
  float *logprobs;        /* out [rows]; NaN where not asked for */
  uint32_t *top_ids;      /* out [rows, LMX_MOST_TOP], likeliest first, the lower id first among equals */
  float *top_logprobs;
  int32_t *top_counts;    /* out [rows] */
  int32_t dtype;
  int32_t rows;
  int32_t vocab;
  int32_t token_count; /* ids at or above are never chosen */
} lmx_sampling;

lmx_status lmx_sample(const lmx_sampling *host_call, lmx_stream stream);

#ifdef __cplusplus
}
#endif
#endif
