// Products of bfloat16 matrices, for the sizes of a batch of 32 in a small network: by AMX where PLAYMETER_AMX is defined, else by the
// vectors of AVX512-BF16.
//
// What a product needs is in the caches and takes microseconds to compute; a library's call finds its own code and tables gone from
// them, and copies operands of an order that it does not like. Here the whole call is two loops in the program that reads the result.
//
// AMX multiplies tiles: 16 rows of 32 numbers by 32 rows of 16, the latter as 16 rows of 16 pairs (the numbers of rows 2i and 2i + 1
// of one column side by side). A block of the result is two by two tiles, 32 x 32 float32. An operand that lies in memory as its tiles
// want it is read in place; any other is rearranged, 32 columns at a time, by two operations on 16 vectors of 16 pairs: `pairs` of two
// rows, and `transpose`. Vectors multiply one pair of a row by 16 pairs, and read the same tiles.

#ifndef PLAYMETER_PRODUCTS
#define PLAYMETER_PRODUCTS

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace playmeter {

using bf16 = uint16_t;

constexpr int64_t TILE = 16 * 32;            // numbers of an operand's tile
constexpr int64_t BLOCK = 32 * 32;           // of a block of the result, and of two tiles of an operand
constexpr int64_t PANEL_STEPS = 128;         // so many steps of 32 of the second operand are rearranged at once: 256 KiB
constexpr int64_t SLICE_STEPS = 16;          // the same where threads share out the depth

#ifdef PLAYMETER_AMX
constexpr bool EVENLY = true;  // whether rows of an operand in place have to lie evenly apart

// Eight tiles of 16 rows. In memory before main: the instruction that reads it tells the compiler of its first eight bytes only.
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
inline constexpr TileConfig TILE_CONFIG{};
#else
constexpr bool EVENLY = false;
#endif

// The first `count` of 32 numbers.
inline __mmask32 first(int64_t count) {
    return count >= 32 ? 0xffffffffu : count <= 0 ? 0u : (1u << count) - 1;
}

// The numbers of successive pixels, or of those alone that have a whole patch.
struct Walk {
    int64_t pixel, x = 0, y = 0;
    int64_t across = INT64_MAX, high = INT64_MAX;  // pixels with a whole patch in a row of an image, and such rows
    int64_t right = 0, down = 0;                   // pixels to skip behind them, and behind the last such row

    int64_t next() {
        const int64_t here = pixel++;
        if (++x == across) {
            x = 0;
            pixel += right;
            if (++y == high) {
                y = 0;
                pixel += down;
            }
        }
        return here;
    }
};

// How a convolution of stride 1 over images [height, width, channels] is a product of their pixels end to end: of those with a whole
// patch with the weights of each tap, moved by the tap's place.
struct Taps {
    int64_t count = 1, wide = 1;  // taps, and those side by side
    int64_t channels = 0;         // a multiple of 32: numbers of the depth, or columns, that belong to a tap
    int64_t height = 1, width = 1;
    enum Where { NOWHERE, OF_INPUT, OF_OUTPUT, OF_WEIGHTS } where = NOWHERE;  // what is computed: see `Product`

    int64_t high() const { return height - count / wide + 1; }
    int64_t across() const { return width - wide + 1; }

    // Numbers from a pixel to that of a tap of its patch.
    int64_t at(int64_t tap) const { return (tap / wide * width + tap % wide) * channels; }

    // So many pixels with a whole patch are before one.
    int64_t patches_before(int64_t pixel) const {
        const int64_t row = pixel / width, image = row / height, y = std::min(row % height, high());
        return (image * high() + y) * across() + (y < high() ? std::min(pixel % width, across()) : 0);
    }

    // Over the pixels with a whole patch, from the one on that so many are before.
    Walk patches(int64_t first) const {
        const int64_t y = first / across(), image = y / high();
        const int64_t pixel = (image * height + y % high()) * width + first % across();
        return {pixel, first % across(), y % high(), across(), high(), width - across(), (height - high()) * width};
    }
};

// 32 rows of 32 numbers as pairs of rows: of the first 16 columns, and of the others. `row` walks over where they lie, in strides.
// Beyond `rows` and `columns` there are zeros.
inline void pairs(
    const bf16* from, int64_t stride, Walk row, int64_t rows, int64_t columns, __m512i left[16], __m512i right[16]) {
    alignas(64) static const uint16_t LEFT[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                  8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i to_left = _mm512_load_si512(LEFT), to_right = _mm512_add_epi16(to_left, _mm512_set1_epi16(16));
    const __mmask32 mask = first(columns);
    for (int i = 0; i < 16; i++) {
        const __m512i zero = _mm512_setzero_si512();
        const __m512i even = 2 * i < rows ? _mm512_maskz_loadu_epi16(mask, from + row.next() * stride) : zero;
        const __m512i odd = 2 * i + 1 < rows ? _mm512_maskz_loadu_epi16(mask, from + row.next() * stride) : zero;
        left[i] = _mm512_permutex2var_epi16(even, to_left, odd);
        right[i] = _mm512_permutex2var_epi16(even, to_right, odd);
    }
}

// 16 rows of 32 numbers, as for `pairs`.
inline void load(const bf16* from, int64_t stride, Walk row, int64_t rows, int64_t columns, __m512i to[16]) {
    for (int i = 0; i < 16; i++) {
        to[i] = i < rows ? _mm512_maskz_loadu_epi16(first(columns), from + row.next() * stride) : _mm512_setzero_si512();
    }
}

inline void store(const __m512i from[16], bf16* tile) {
    for (int i = 0; i < 16; i++) _mm512_store_si512(tile + 32 * i, from[i]);
}

inline __m512 widened(__mmask16 mask, const bf16* from) {
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16);
}

// out [rows, columns] = a [rows, depth] b [depth, columns] + bias, whose numbers are those of out's rows in memory.
// An operand that is `turned` lies in memory as its transpose. Strides are those of rows in memory, in numbers.
//
// With taps: OF_OUTPUT, a is pixels and b turned, weights [columns, taps, channels], and a row of out for every whole patch. OF_WEIGHTS,
// a is turned, gradients of such rows, and b pixels, out [rows, taps, channels]. OF_INPUT, a is gradients of rows for all pixels, zero
// where a patch is not whole, that many zeros before them as the last tap lies behind the first, and b weights [channels, taps, columns].
struct Product {
    const bf16 *a, *b, *bias;
    bf16* out;
    int64_t rows, columns, depth;
    int64_t a_stride, b_stride, out_stride;
    bool a_turned, b_turned, out_turned;
    Taps taps;

    // Whether rows of out are those of whole patches, and rows are computed for all pixels.
    bool some_ignored() const { return EVENLY && taps.where == Taps::OF_OUTPUT; }

    int64_t computed() const { return some_ignored() ? taps.patches(rows - 1).pixel + 1 : rows; }

    int64_t steps() const { return (depth + 31) / 32; }
    int64_t row_blocks() const { return (computed() + 31) / 32; }
    int64_t column_blocks() const { return (columns + 31) / 32; }

    // Whether a's tiles are read where they lie.
    bool in_place() const { return !a_turned && computed() >= 32; }

    // In place, a last block that is not whole is one of 32 rows that begins earlier: some are computed twice, and written with the
    // same bits, by two threads perhaps.
    int64_t first_row(int64_t m) const { return in_place() ? std::min(32 * m, computed() - 32) : 32 * m; }

    // Where the rows of a lie that are computed, and those of b, in units of their strides.
    Walk rows_of_a(int64_t row) const {
        return taps.where == Taps::OF_OUTPUT && !some_ignored() ? taps.patches(row) : Walk{row};
    }
    Walk rows_of_b(int64_t row) const { return taps.where == Taps::OF_WEIGHTS ? taps.patches(row) : Walk{row}; }

    // Numbers of a step of a row of a, which does not lie turned, from that row's begin on.
    int64_t along_a(int64_t step) const {
        if (taps.where != Taps::OF_OUTPUT && taps.where != Taps::OF_INPUT) return 32 * step;
        const int64_t steps = taps.channels / 32;
        return taps.at(step / steps) + 32 * (step % steps);
    }

    // The numbers of a column of b, which does not lie turned, from its first row on; with taps OF_INPUT, of those rows that are a step's.
    const bf16* b_at(int64_t step, int64_t column) const {
        if (taps.where == Taps::OF_WEIGHTS) return b + taps.at(column / taps.channels) + column % taps.channels;
        if (taps.where != Taps::OF_INPUT) return b + column;
        // the gradient comes to a pixel from behind: the last tap first
        return b + (taps.count - 1 - step / (taps.channels / 32)) * columns + column;
    }

    // Two tiles of a: a block of rows, a step.
    void tiles_of_a(int64_t m, int64_t step, bf16* to) const {
        const int64_t row = first_row(m), deep = depth - 32 * step;
        __m512i left[16], right[16];
        if (a_turned) {
            pairs(a + row, a_stride, {32 * step}, deep, rows - row, left, right);
            transpose(left);
            transpose(right);
        } else {
            const bf16* from = a + along_a(step);
            load(from, a_stride, rows_of_a(row), computed() - row, deep, left);
            load(from, a_stride, rows_of_a(row + 16), computed() - row - 16, deep, right);
        }
        store(left, to);
        store(right, to + TILE);
    }

    // Two tiles of b: a step, a block of columns.
    void tiles_of_b(int64_t step, int64_t n, bf16* to) const {
        const int64_t deep = depth - 32 * step, wide = columns - 32 * n;
        __m512i left[16], right[16];
        if (b_turned) {
            const bf16* from = b + 32 * step;
            load(from, b_stride, {32 * n}, wide, deep, left);
            load(from, b_stride, {32 * n + 16}, wide - 16, deep, right);
            transpose(left);
            transpose(right);
        } else {
            const int64_t row = taps.where == Taps::OF_INPUT ? 32 * step % taps.channels : 32 * step;
            pairs(b_at(step, 32 * n), b_stride, rows_of_b(row), deep, wide, left, right);
        }
        store(left, to);
        store(right, to + TILE);
    }

    // Steps of a block's sum, added to what `sum` holds or begun anew. `arranged`: a's two tiles of each of these steps; without it
    // they are read in place, but those of a last step that is not whole, which are at `last`.
#ifdef PLAYMETER_AMX
    void add(int64_t m, int64_t from, int64_t to, const bf16* arranged, const bf16* last, const bf16* of_b, bool anew, float* sum) const {
        asm volatile("" ::: "memory");  // tiles are loaded from memory without the compiler's knowledge
        if (anew) {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
        } else {
            _tile_loadd(0, sum, 128);
            _tile_loadd(1, sum + 16, 128);
            _tile_loadd(2, sum + 512, 128);
            _tile_loadd(3, sum + 528, 128);
        }
        const int64_t row = first_row(m);
        for (int64_t step = from; step < to; step++, of_b += BLOCK) {
            const bf16* tiles = arranged ? arranged + (step - from) * BLOCK : 32 * step + 32 > depth ? last : nullptr;
            const bf16* upper = tiles ? tiles : a + row * a_stride + along_a(step);
            const int64_t stride = tiles ? 32 : a_stride;
            _tile_loadd(4, upper, 2 * stride);
            _tile_loadd(5, upper + 16 * stride, 2 * stride);
            _tile_loadd(6, of_b, 64);
            _tile_loadd(7, of_b + TILE, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, sum, 128);
        _tile_stored(1, sum + 16, 128);
        _tile_stored(2, sum + 512, 128);
        _tile_stored(3, sum + 528, 128);
    }
#else
    void add(int64_t m, int64_t from, int64_t to, const bf16* arranged, const bf16* last, const bf16* of_b, bool anew, float* sum) const {
        constexpr int ROWS = 8;  // at a time: their sums are half of the registers, enough for one not to wait for itself
        Walk row = rows_of_a(first_row(m));
        for (int64_t down = 0; down < 32; down += ROWS, sum += 32 * ROWS) {
            __m512 left[ROWS], right[ROWS];
            const bf16* in_memory[ROWS];
            for (int i = 0; i < ROWS; i++) {
                left[i] = anew ? _mm512_setzero_ps() : _mm512_load_ps(sum + 32 * i);
                right[i] = anew ? _mm512_setzero_ps() : _mm512_load_ps(sum + 32 * i + 16);
                in_memory[i] = a + row.next() * a_stride;
            }
            const bf16* tiles_of_b = of_b;
            for (int64_t step = from; step < to; step++, tiles_of_b += BLOCK) {
                const bf16* tiles = arranged ? arranged + (step - from) * BLOCK : 32 * step + 32 > depth ? last : nullptr;
                const bf16* rows_of_a[ROWS];
                for (int i = 0; i < ROWS; i++) rows_of_a[i] = tiles ? tiles + 32 * (down + i) : in_memory[i] + along_a(step);
#pragma GCC unroll 2
                for (int k = 0; k < 32; k += 2) {
                    const __m512bh b_left = (__m512bh)_mm512_load_si512(tiles_of_b + 16 * k);
                    const __m512bh b_right = (__m512bh)_mm512_load_si512(tiles_of_b + TILE + 16 * k);
#pragma GCC unroll 8
                    for (int i = 0; i < ROWS; i++) {
                        int32_t pair;
                        std::memcpy(&pair, rows_of_a[i] + k, sizeof pair);
                        const __m512bh of_a = (__m512bh)_mm512_set1_epi32(pair);
                        left[i] = _mm512_dpbf16_ps(left[i], of_a, b_left);
                        right[i] = _mm512_dpbf16_ps(right[i], of_a, b_right);
                    }
                }
            }
            for (int i = 0; i < ROWS; i++) {
                _mm512_store_ps(sum + 32 * i, left[i]);
                _mm512_store_ps(sum + 32 * i + 16, right[i]);
            }
        }
    }
#endif

    // A block's sum, with the bias, rounded.
    void write(int64_t m, int64_t n, const float* sum) const {
        alignas(64) float turned[BLOCK];
        int64_t down = first_row(m), right = 32 * n, high = computed(), wide = columns;
        if (out_turned) {
            for (int i = 0; i < 4; i++) {
                __m512i quarter[16];
                for (int k = 0; k < 16; k++) quarter[k] = _mm512_load_si512(sum + (i / 2 * 16 + k) * 32 + i % 2 * 16);
                transpose(quarter);
                for (int k = 0; k < 16; k++) _mm512_store_si512(turned + (i % 2 * 16 + k) * 32 + i / 2 * 16, quarter[k]);
            }
            sum = turned;
            std::swap(down, right);
            std::swap(high, wide);
        }
        const __mmask32 mask = first(wide - right);
        __m512 left = _mm512_setzero_ps(), beside = left;
        if (bias) {
            left = widened(mask, bias + right);
            beside = widened(mask >> 16, bias + right + 16);
        }
        int64_t row = some_ignored() ? taps.patches_before(down) : down;
        Walk kept = some_ignored() ? taps.patches(row) : Walk{row};
        for (int64_t k = down; k < std::min(down + 32, high); k++, sum += 32) {
            if (k != kept.pixel) continue;
            kept.next();
            bf16* to = out + row++ * out_stride + right;
            const __m512 low = _mm512_add_ps(_mm512_load_ps(sum), left), up = _mm512_add_ps(_mm512_load_ps(sum + 16), beside);
            _mm512_mask_storeu_epi16(to, mask, (__m512i)_mm512_cvtne2ps_pbh(up, low));
        }
    }
};

// Every thread computes some rows of blocks, or some columns of them.
inline void share_out_blocks(const Product& p, int64_t thread, int64_t threads, Scratch scratch[3]) {
    const int64_t steps = p.steps();
    // Each thread rearranges all that its share has of the other operand. By rows the result is written as it lies in memory.
    const bool by_rows = p.row_blocks() > p.column_blocks() || (p.row_blocks() >= threads && p.computed() >= 8 * p.depth);
    int64_t m_from = 0, m_to = p.row_blocks(), n_from = 0, n_to = p.column_blocks();
    int64_t &from = by_rows ? m_from : n_from, &to = by_rows ? m_to : n_to;
    from = to * thread / threads;
    to = to * (thread + 1) / threads;
    const bool uneven = p.depth % 32 != 0;
    const int64_t kept = p.in_place() ? uneven : steps;  // of a's steps, rearranged
    bf16* of_a = scratch[0].get<bf16>((m_to - m_from) * kept * BLOCK);
    for (int64_t m = m_from; m < m_to; m++) {
        for (int64_t k = 0; k < kept; k++) p.tiles_of_a(m, steps - kept + k, of_a + ((m - m_from) * kept + k) * BLOCK);
    }
    const int64_t panel = std::min(steps, PANEL_STEPS);
    const int64_t panels = by_rows ? n_to - n_from : 1;  // by columns, one after the other is rearranged, read by all rows, forgotten
    bf16* of_b = scratch[1].get<bf16>(panels * panel * BLOCK);
    float* sums = scratch[2].get<float>((m_to - m_from) * panels * BLOCK);
    for (int64_t left = n_from; left < n_to; left += panels) {
        for (int64_t step = 0; step < steps; step += panel) {
            const int64_t end = std::min(step + panel, steps);
            for (int64_t n = 0; n < panels; n++) {
                for (int64_t k = step; k < end; k++) p.tiles_of_b(k, left + n, of_b + (n * panel + k - step) * BLOCK);
            }
            for (int64_t m = m_from; m < m_to; m++) {
                const bf16* own = of_a + (m - m_from) * kept * BLOCK;
                for (int64_t n = 0; n < panels; n++) {
                    float* sum = end == steps && step == 0 ? sums : sums + ((m - m_from) * panels + n) * BLOCK;
                    p.add(m, step, end, p.in_place() ? nullptr : own + step * BLOCK, own, of_b + n * panel * BLOCK, step == 0, sum);
                    if (end == steps) p.write(m, left + n, sum);
                }
            }
        }
    }
}

// Every thread sums over some of the depth, for all blocks; then the sums of the threads are added.
inline void share_out_depth(const Product& p, int64_t thread, int64_t threads, Scratch scratch[3], std::vector<float*>& sums) {
    const int64_t from = p.steps() * thread / threads, to = p.steps() * (thread + 1) / threads;
    const int64_t rows = p.row_blocks(), columns = p.column_blocks();
    bf16* of_a = scratch[0].get<bf16>(rows * SLICE_STEPS * BLOCK);
    bf16* of_b = scratch[1].get<bf16>(SLICE_STEPS * BLOCK);
    float* own = sums[thread] = scratch[2].get<float>(rows * columns * BLOCK);
    for (int64_t step = from; step < to; step += SLICE_STEPS) {
        const int64_t end = std::min(step + SLICE_STEPS, to);
        for (int64_t m = 0; m < rows; m++) {
            for (int64_t k = step; k < end; k++) p.tiles_of_a(m, k, of_a + (m * SLICE_STEPS + k - step) * BLOCK);
        }
        for (int64_t n = 0; n < columns; n++) {
            for (int64_t k = step; k < end; k++) p.tiles_of_b(k, n, of_b + (k - step) * BLOCK);
            for (int64_t m = 0; m < rows; m++) {
                p.add(m, step, end, of_a + m * SLICE_STEPS * BLOCK, nullptr, of_b, step == from, own + (m * columns + n) * BLOCK);
            }
        }
    }
#pragma omp barrier
    for (int64_t block = rows * columns * thread / threads; block < rows * columns * (thread + 1) / threads; block++) {
        float* sum = sums[0] + block * BLOCK;
        for (int64_t other = 1; other < threads; other++) {
            const float* more = sums[other] + block * BLOCK;
            for (int64_t i = 0; i < BLOCK; i++) sum[i] += more[i];
        }
        p.write(block / columns, block % columns, sum);
    }
}

inline void product(const Product& p, int threads) {
    // of a result of few blocks, whose operands are both long: rearranging them is what takes the time
    const bool by_depth = p.a_turned && p.steps() >= SLICE_STEPS * threads && p.steps() > p.row_blocks() * p.column_blocks();
    std::vector<float*> sums(threads);
#pragma omp parallel num_threads(threads)
    {
        static thread_local Scratch scratch[3];
#ifdef PLAYMETER_AMX
        _tile_loadconfig(&TILE_CONFIG);
#endif
        const int64_t thread = omp_get_thread_num(), all = omp_get_num_threads();
        if (by_depth) {
            share_out_depth(p, thread, all, scratch, sums);
        } else {
            share_out_blocks(p, thread, all, scratch);
        }
#ifdef PLAYMETER_AMX
        _tile_release();
#endif
    }
}

}  // namespace playmeter

#endif
