/* attention_tile.cuh - which rows and keys a block of attention.cu works on. */
#ifndef KS_ATTENTION_TILE_CUH
#define KS_ATTENTION_TILE_CUH

#include "attention.cuh"

/* Keys of one state of the online softmax, of one block in the second form. */
enum { CHUNK = 256 };

/* Tokens [first, first + n) of the batch, of sequences [seq, ..): heads [head,
 * head + heads) of kv head kv. All rows' keys lie in [low, high]. */
typedef struct attn_tile {
    int32_t seq, first, n;
    int32_t kv, head, heads;
    int32_t low, high;
} attn_tile;

/* Token of the batch and head of the model of row r of the tile; token -1: no
 * such row. */
static __device__ __forceinline__ int2 row_place(const attn_tile *tile, int r) {
    int32_t token = r / tile->heads;
    return make_int2(token < tile->n ? tile->first + token : -1,
                     tile->head + r % tile->heads);
}

/* Position of a token of sequence *s or one behind it; *s: whose it is. */
static __device__ __forceinline__ int32_t position_of(const attn_args *a,
                                                      int32_t *s,
                                                      int32_t token) {
    while (a->offsets[*s + 1] <= token) ++*s;
    return ks__past(a->past, *s) + token - a->offsets[*s];
}

/* The keys [x, y] that a token of sequence s, or one behind it, sees, but for
 * those that are hidden. */
static __device__ __forceinline__ int2 keys_seen(const attn_args *a, int32_t s,
                                                 int32_t token) {
    int32_t position = position_of(a, &s, token);
    int32_t low = a->window > 0 ? position - a->window + 1 : 0;
    return make_int2(max(low, 0), position);
}

/* The keys [x, y) that are hidden from it; a->hidden is there. */
static __device__ __forceinline__ int2 keys_hidden(const attn_args *a,
                                                   int32_t s, int32_t token) {
    int32_t position = position_of(a, &s, token);
    int32_t begin = max(a->hidden[s * 2], 0), end = a->hidden[s * 2 + 1];
    return position >= end ? make_int2(begin, max(end, 0)) : make_int2(0, 0);
}

/* hidden [1 + ROWS]: keys [x, y) that are hidden from all rows of the tile, and
 * from each; a row that does not exist sees nothing. ROWS <= threads. */
template <int ROWS>
static __device__ __forceinline__ void
place_hidden(int2 *hidden, const attn_args *a, const attn_tile *tile) {
    int r = (int)threadIdx.x;
    if (r < ROWS) {
        int32_t token = row_place(tile, r).x;
        hidden[1 + r] = make_int2(0, INT32_MAX);
        if (token >= 0) hidden[1 + r] = keys_hidden(a, tile->seq, token);
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        int2 all = make_int2(0, INT32_MAX);
        for (; r < ROWS; r += 32) {
            all.x = max(all.x, hidden[1 + r].x);
            all.y = min(all.y, hidden[1 + r].y);
        }
        for (int lane = 16; lane > 0; lane /= 2) {
            all.x = max(all.x, __shfl_xor_sync(0xffffffffu, all.x, lane));
            all.y = min(all.y, __shfl_xor_sync(0xffffffffu, all.y, lane));
        }
        if (threadIdx.x == 0) hidden[0] = all;
    }
    __syncthreads();
}

/* The block of KEYS at base, or where that is hidden from all rows, the one in
 * which this ends. */
template <int KEYS, bool HIDE>
static __device__ __forceinline__ int32_t open_block(const int2 *hidden,
                                                     int32_t base) {
    if (!HIDE) return base;
    bool closed = base >= hidden->x && base + KEYS <= hidden->y;
    return closed ? hidden->y / KEYS * KEYS : base;
}

template <int KEYS, bool HIDE>
static __device__ __forceinline__ int32_t first_block(const int2 *hidden,
                                                      const attn_tile *tile) {
    return open_block<KEYS, HIDE>(hidden, tile->low / KEYS * KEYS);
}

static __device__ __forceinline__ int32_t length_of(const attn_args *a,
                                                    int32_t s) {
    return a->offsets[s + 1] - a->offsets[s];
}

/* Which heads block y works on. */
static __device__ __forceinline__ void place_heads(attn_tile *tile,
                                                   const attn_args *a, int y) {
    int32_t parts = opaque(a->parts), heads = opaque(a->heads);
    int32_t from = y % parts * heads;
    tile->kv = y / parts;
    tile->head = tile->kv * a->group + from;
    tile->heads = min(heads, a->group - from);
}

/* Tiles are numbered so that sequence s starts at offsets[s] / step + s: no
 * table needed, at most one number a sequence goes unused. */
static __device__ __forceinline__ bool
find_tile(attn_tile *tile, const attn_args *a, int32_t number) {
    int32_t step = opaque(a->step);
    int32_t s = search_numbered(a->offsets, a->n_seq, step, 1, number);
    int32_t token = (number - a->offsets[s] / step - s) * step;
    if (token >= length_of(a, s)) return false;
    tile->seq = s;
    tile->first = a->offsets[s] + token;
    tile->n = min(a->step, length_of(a, s) - token);
    tile->low = keys_seen(a, s, tile->first).x;
    tile->high = keys_seen(a, s, tile->first).y + tile->n - 1;
    return true;
}

/* Does sequence s read the same stored keys of the chunk as the one before? */
static __device__ __forceinline__ bool joins(const attn_args *a, int32_t s,
                                             int32_t chunk) {
    const int n = CHUNK / KS_PAGE;
    int32_t end = (chunk + 1) * CHUNK;
    if (ks__past(a->past, s) < end || ks__past(a->past, s - 1) < end)
        return false;
    const int32_t *pages = a->pages + (int64_t)s * a->max_pages + chunk * n;
    bool same = true;
#pragma unroll
    for (int i = 0; i < n; i++) same &= pages[i] == pages[i - a->max_pages];
    return same;
}

/* The tile of all tokens of sequence s and of those behind it that join it in
 * this chunk, `step` sequences at most: groups begin at multiples of step and
 * where the pages change, which needs no table. n may exceed step. */
static __device__ __forceinline__ bool find_group(attn_tile *tile,
                                                  const attn_args *a, int32_t s,
                                                  int32_t chunk, int *joined) {
    if (s % a->step && joins(a, s, chunk)) return false;
    int32_t most = min(a->step - s % a->step, a->n_seq - s);
    for (int i = (int)threadIdx.x; i < most; i += (int)blockDim.x)
        joined[i] = i == 0 || joins(a, s + i, chunk);
    __syncthreads();
    int32_t n = 0, begin = chunk * CHUNK, least = ks__past(a->past, s);
    int32_t high = least + length_of(a, s) - 1;
    for (; n < most && joined[n]; n++)
        least = min(least, ks__past(a->past, s + n));
    tile->seq = s;
    tile->first = a->offsets[s];
    tile->n = a->offsets[s + n] - tile->first;
    tile->low = a->window > 0 ? max(begin, least - a->window + 1) : begin;
    tile->high = min(high, begin + CHUNK - 1);
    return tile->low <= tile->high;
}

#endif
