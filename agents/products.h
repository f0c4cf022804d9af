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
constexpr int64_t SLICE_STEPS = 16;          // of the first operand, where threads share out the depth

#ifdef PLAYMETER_AMX
// Eight tiles of 16 rows. In memory before main: the instruction that reads it tells the compiler of its first eight bytes only.
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
inline constexpr TileConfig TILE_CONFIG{};
#endif

// The first `count` of 32 numbers.
inline __mmask32 first(int64_t count) {
    return count >= 32 ? 0xffffffffu : count <= 0 ? 0u : (1u << count) - 1;
}

// 32 rows of 32 numbers as pairs of rows: of the first 16 columns, and of the others. Beyond `rows` and `columns` there are zeros.
inline void pairs(const bf16* from, int64_t stride, int64_t rows, int64_t columns, __m512i left[16], __m512i right[16]) {
    alignas(64) static const uint16_t LEFT[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                  8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i to_left = _mm512_load_si512(LEFT), to_right = _mm512_add_epi16(to_left, _mm512_set1_epi16(16));
    const __mmask32 mask = first(columns);
    for (int i = 0; i < 16; i++) {
        const __m512i zero = _mm512_setzero_si512();
        const __m512i even = 2 * i < rows ? _mm512_maskz_loadu_epi16(mask, from + 2 * i * stride) : zero;
        const __m512i odd = 2 * i + 1 < rows ? _mm512_maskz_loadu_epi16(mask, from + (2 * i + 1) * stride) : zero;
        left[i] = _mm512_permutex2var_epi16(even, to_left, odd);
        right[i] = _mm512_permutex2var_epi16(even, to_right, odd);
    }
}

// 16 rows of 32 numbers, as for `pairs`.
inline void load(const bf16* from, int64_t stride, int64_t rows, int64_t columns, __m512i to[16]) {
    for (int i = 0; i < 16; i++) {
        to[i] = i < rows ? _mm512_maskz_loadu_epi16(first(columns), from + i * stride) : _mm512_setzero_si512();
    }
}

inline void store(const __m512i from[16], bf16* tile) {
    for (int i = 0; i < 16; i++) _mm512_store_si512(tile + 32 * i, from[i]);
}

inline __m512 widened(__mmask16 mask, const bf16* from) {
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16);
}

// A step of the sum of a block: 32 rows of 32 numbers of a, `stride` apart, by two tiles of b.
struct Step {
    const bf16* a;
    int64_t stride;
    const bf16* b;
};

// Steps added to the sum of a block, or to one begun anew: to the first `rows` of its rows at least.
#ifdef PLAYMETER_AMX
inline void add(const Step* step, int64_t steps, int64_t rows, bool anew, float* sum) {
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
    for (const Step* end = step + steps; step < end; step++) {
        _tile_loadd(4, step->a, 2 * step->stride);
        _tile_loadd(5, step->a + 16 * step->stride, 2 * step->stride);
        _tile_loadd(6, step->b, 64);
        _tile_loadd(7, step->b + TILE, 64);
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
inline void add(const Step* step, int64_t steps, int64_t rows, bool anew, float* sum) {
    constexpr int ROWS = 8;  // at a time: their sums are half of the registers, enough for one not to wait for itself
    for (int64_t down = 0; down < rows; down += ROWS, sum += 32 * ROWS) {
        __m512 left[ROWS], right[ROWS];
        for (int i = 0; i < ROWS; i++) {
            left[i] = anew ? _mm512_setzero_ps() : _mm512_load_ps(sum + 32 * i);
            right[i] = anew ? _mm512_setzero_ps() : _mm512_load_ps(sum + 32 * i + 16);
        }
        for (const Step* each = step; each < step + steps; each++) {
            const bf16* a[ROWS];
            for (int i = 0; i < ROWS; i++) a[i] = each->a + (down + i) * each->stride;
#pragma GCC unroll 2
            for (int k = 0; k < 32; k += 2) {
                const __m512bh b_left = (__m512bh)_mm512_load_si512(each->b + 16 * k);
                const __m512bh b_right = (__m512bh)_mm512_load_si512(each->b + TILE + 16 * k);
#pragma GCC unroll 8
                for (int i = 0; i < ROWS; i++) {
                    int32_t pair;
                    std::memcpy(&pair, a[i] + k, sizeof pair);
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

// How a convolution of stride 1 over images [height, width, .] is products: at every place of the output one of the images, whose pixels
// at a place are a matrix with rows an image apart, for each tap, with its weights.
struct Taps {
    int64_t count = 1, wide = 1;    // taps, and those side by side
    int64_t channels = 0;           // a multiple of 32: of a pixel of the input; OF_INPUT, of the output
    int64_t height = 1, width = 1;  // of the images of the input
    enum Where { NOWHERE, OF_INPUT, OF_OUTPUT, OF_WEIGHTS } where = NOWHERE;  // what is computed: see `Product`

    int64_t high() const { return height - count / wide + 1; }
    int64_t across() const { return width - wide + 1; }
    int64_t places() const { return high() * across(); }
    // Between the place of the input under a tap and that under the first.
    int64_t behind(int64_t tap) const { return tap / wide * width + tap % wide; }
    // The place of the input under the first tap of a place of the output.
    int64_t under(int64_t place) const { return place / across() * width + place % across(); }
};

// out [rows, columns] = a [rows, depth] b [depth, columns] + bias, whose numbers are those of out's rows in memory.
// An operand that is `turned` lies in memory as its transpose. Strides are those of rows in memory, in numbers.
//
// With taps the rows in memory of an input or output are whole images, as many as `rows` or, OF_WEIGHTS, `images`:
//   OF_OUTPUT   out [images, places, columns] of a, the input, and b turned, weights [columns, taps, channels].
//   OF_INPUT    out [images, height width, columns] of a, gradients of an output, and b, weights [channels, taps, columns].
//   OF_WEIGHTS  out [rows, taps, channels] of a turned, gradients of an output [images, places, rows], and b, the input.
struct Product {
    const bf16 *a, *b, *bias;
    bf16* out;
    int64_t rows, columns, depth;
    int64_t a_stride, b_stride, out_stride;
    bool a_turned, b_turned, out_turned;
    Taps taps;

    int64_t images() const { return taps.where == Taps::OF_WEIGHTS ? depth / taps.places() : 0; }
    // Steps of the depth at one place of the output.
    int64_t steps_a_place() const { return taps.where == Taps::OF_WEIGHTS ? (images() + 31) / 32 : 1; }
    int64_t steps() const { return taps.where == Taps::OF_WEIGHTS ? taps.places() * steps_a_place() : (depth + 31) / 32; }

    // Blocks of rows: first those of the first place.
    int64_t places() const {
        return taps.where == Taps::OF_OUTPUT ? taps.places() : taps.where == Taps::OF_INPUT ? taps.height * taps.width : 1;
    }
    int64_t blocks_a_place() const { return (rows + 31) / 32; }
    int64_t row_blocks() const { return places() * blocks_a_place(); }
    int64_t column_blocks() const { return (columns + 31) / 32; }

    // Whether a's tiles are read where they lie.
    bool in_place() const { return !a_turned && rows >= 32; }

    // In place, a last block that is not whole is one of 32 rows that begins earlier: some are computed twice, and written with the
    // same bits, by two threads perhaps.
    int64_t first_row(int64_t m) const {
        const int64_t row = 32 * (m % blocks_a_place());
        return in_place() ? std::min(row, rows - 32) : row;
    }
    int64_t rows_of(int64_t m) const { return std::min<int64_t>(32, rows - first_row(m)); }

    // For each step that something is added in: its number, and where its numbers are in a row of a that is not turned. How many.
    int64_t steps_of(int64_t m, int64_t from, int64_t to, int64_t number[], int64_t at[]) const {
        int64_t count = 0;
        if (taps.where != Taps::OF_OUTPUT && taps.where != Taps::OF_INPUT) {
            for (int64_t step = from; step < to; step++, count++) {
                number[count] = step;
                at[count] = 32 * step;
            }
            return count;
        }
        const bool of_output = taps.where == Taps::OF_OUTPUT;
        const int64_t across = of_output ? taps.across() : taps.width, place = m / blocks_a_place();
        const int64_t y = place / across, x = place % across, steps_a_tap = taps.channels / 32;
        int64_t down = from / steps_a_tap / taps.wide, right = from / steps_a_tap % taps.wide, of_tap = from % steps_a_tap;
        for (int64_t step = from; step < to; step++) {
            const int64_t up = y - down, left = x - right;  // of the output that the tap would have this input under it for
            if (of_output || (up >= 0 && up < taps.high() && left >= 0 && left < taps.across())) {
                const int64_t pixel = of_output ? (y + down) * taps.width + x + right : up * taps.across() + left;
                number[count] = step;
                at[count++] = pixel * taps.channels + 32 * of_tap;
            }
            if (++of_tap < steps_a_tap) continue;
            of_tap = 0;
            if (++right < taps.wide) continue;
            right = 0;
            down++;
        }
        return count;
    }

    // Two tiles of a: a block of rows, a step; `at` of `steps_of`, where it does not lie turned.
    void tiles_of_a(int64_t m, int64_t step, int64_t at, bf16* to) const {
        const int64_t row = first_row(m);
        __m512i left[16], right[16];
        if (a_turned) {
            int64_t place = 0, deep = 32 * step, all = depth;
            if (taps.where == Taps::OF_WEIGHTS) {
                place = step / steps_a_place();
                deep = 32 * (step % steps_a_place());
                all = images();
            }
            pairs(a + place * rows + deep * a_stride + row, a_stride, all - deep, rows - row, left, right);
            transpose(left);
            transpose(right);
        } else {
            const int64_t deep = taps.where == Taps::NOWHERE ? depth - at : 32;
            const bf16* from = a + row * a_stride + at;
            load(from, a_stride, rows - row, deep, left);
            load(from + 16 * a_stride, a_stride, rows - row - 16, deep, right);
        }
        store(left, to);
        store(right, to + TILE);
    }

    // Two tiles of b: a step, a block of columns. OF_WEIGHTS, a step at a place of the input, and a block of its channels.
    void tiles_of_b(int64_t step, int64_t n, bf16* to) const {
        __m512i left[16], right[16];
        if (b_turned) {
            const bf16* from = b + 32 * n * b_stride + 32 * step;
            const int64_t deep = depth - 32 * step, wide = columns - 32 * n;
            load(from, b_stride, wide, deep, left);
            load(from + 16 * b_stride, b_stride, wide - 16, deep, right);
            transpose(left);
            transpose(right);
        } else if (taps.where == Taps::OF_WEIGHTS) {
            const int64_t place = step / steps_a_place(), image = 32 * (step % steps_a_place());
            pairs(b + place * taps.channels + 32 * n + image * b_stride, b_stride, images() - image, 32, left, right);
        } else if (taps.where == Taps::OF_INPUT) {
            const int64_t tap = 32 * step / taps.channels, channel = 32 * step % taps.channels;
            pairs(b + channel * b_stride + tap * columns + 32 * n, b_stride, 32, columns - 32 * n, left, right);
        } else {
            pairs(b + 32 * step * b_stride + 32 * n, b_stride, depth - 32 * step, columns - 32 * n, left, right);
        }
        store(left, to);
        store(right, to + TILE);
    }

    // A block's sum, with the bias, rounded.
    void write(int64_t m, int64_t n, const float* sum) const {
        alignas(64) float turned[BLOCK];
        int64_t down = first_row(m), right = 32 * n, high = rows, wide = columns;
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
        bf16* to = out + m / blocks_a_place() * columns + down * out_stride + right;
        for (int64_t k = 0; k < std::min<int64_t>(32, high - down); k++, sum += 32, to += out_stride) {
            const __m512 low = _mm512_add_ps(_mm512_load_ps(sum), left), up = _mm512_add_ps(_mm512_load_ps(sum + 16), beside);
            _mm512_mask_storeu_epi16(to, mask, (__m512i)_mm512_cvtne2ps_pbh(up, low));
        }
    }
};

// Every thread computes some rows of blocks, or some columns of them.
inline void share_out_blocks(const Product& p, int64_t thread, int64_t threads, Scratch scratch[3]) {
    const int64_t steps = p.steps();
    // Each thread rearranges all that its share has of the other operand. By rows the result is written as it lies in memory.
    const bool by_rows = p.row_blocks() > p.column_blocks() || (p.row_blocks() >= threads && p.rows >= 8 * p.depth);
    int64_t m_from = 0, m_to = p.row_blocks(), n_from = 0, n_to = p.column_blocks();
    int64_t &from = by_rows ? m_from : n_from, &to = by_rows ? m_to : n_to;
    from = to * thread / threads;
    to = to * (thread + 1) / threads;
    const bool in_place = p.in_place();
    const int64_t kept = in_place ? 0 : steps;  // of a's steps, rearranged
    const bool uneven = in_place && p.taps.where == Taps::NOWHERE && p.depth % 32 != 0;  // the last of them too
    bf16* of_a = scratch[0].get<bf16>((m_to - m_from) * (kept + uneven) * BLOCK);
    const int64_t panel = std::min(steps, PANEL_STEPS);
    int64_t number[PANEL_STEPS], at[PANEL_STEPS];
    Step list[PANEL_STEPS];
    for (int64_t m = m_from; m < m_to; m++) {
        bf16* own = of_a + (m - m_from) * (kept + uneven) * BLOCK;
        if (uneven) p.tiles_of_a(m, steps - 1, 32 * (steps - 1), own);
        for (int64_t step = 0; step < kept; step += panel) {
            const int64_t count = p.steps_of(m, step, std::min(step + panel, steps), number, at);
            for (int64_t k = 0; k < count; k++) p.tiles_of_a(m, number[k], at[k], own + number[k] * BLOCK);
        }
    }
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
                const bf16* own = of_a + (m - m_from) * (kept + uneven) * BLOCK;
                const bf16* row = p.a + p.first_row(m) * p.a_stride;
                const int64_t count = p.steps_of(m, step, end, number, at);
                for (int64_t k = 0; k < count; k++) {
                    list[k] = in_place ? Step{row + at[k], p.a_stride, of_b + (number[k] - step) * BLOCK}
                                       : Step{own + number[k] * BLOCK, 32, of_b + (number[k] - step) * BLOCK};
                }
                if (uneven && end == steps) list[count - 1] = {own, 32, list[count - 1].b};
                for (int64_t n = 0; n < panels; n++) {
                    float* sum = end == steps && step == 0 ? sums : sums + ((m - m_from) * panels + n) * BLOCK;
                    add(list, count, p.rows_of(m), step == 0, sum);
                    if (end == steps) p.write(m, left + n, sum);
                    for (int64_t k = 0; k < count; k++) list[k].b += panel * BLOCK;
                }
            }
        }
    }
}

// Every thread sums over some of the depth, for all blocks; then the sums of the threads are added. With taps a slice is some places of
// the output, and what is rearranged of b, the places of the input below them, is multiplied for all taps that are over it there.
inline void share_out_depth(const Product& p, int64_t thread, int64_t threads, Scratch scratch[3], std::vector<float*>& sums) {
    const int64_t from = p.steps() * thread / threads, to = p.steps() * (thread + 1) / threads;
    const int64_t rows = p.row_blocks(), columns = p.column_blocks(), steps_a_place = p.steps_a_place();
    const int64_t taps = p.taps.count, panels = columns / taps;
    const auto under = [&](int64_t step) { return p.taps.under(step / steps_a_place) * steps_a_place + step % steps_a_place; };
    const auto after = [&](int64_t step) { return under(step - 1) + p.taps.behind(taps - 1) * steps_a_place + 1; };
    int64_t most = 0;
    for (int64_t step = from; step < to; step += SLICE_STEPS) {
        most = std::max(most, after(std::min(step + SLICE_STEPS, to)) - under(step));
    }
    bf16* of_a = scratch[0].get<bf16>(rows * SLICE_STEPS * BLOCK);
    bf16* of_b = scratch[1].get<bf16>(most * BLOCK);
    float* own = sums[thread] = scratch[2].get<float>(rows * columns * BLOCK);
    if (from == to) std::fill_n(own, rows * columns * BLOCK, 0.0f);
    Step list[SLICE_STEPS];
    for (int64_t step = from; step < to; step += SLICE_STEPS) {
        const int64_t end = std::min(step + SLICE_STEPS, to), begin = under(step);
        for (int64_t m = 0; m < rows; m++) {
            for (int64_t k = step; k < end; k++) p.tiles_of_a(m, k, 0, of_a + (m * SLICE_STEPS + k - step) * BLOCK);
        }
        for (int64_t n = 0; n < panels; n++) {
            for (int64_t k = begin; k < after(end); k++) p.tiles_of_b(k, n, of_b + (k - begin) * BLOCK);
            for (int64_t m = 0; m < rows; m++) {
                const bf16* tiles = of_a + m * SLICE_STEPS * BLOCK;
                for (int64_t k = step; k < end; k++) list[k - step] = {tiles + (k - step) * BLOCK, 32, of_b + (under(k) - begin) * BLOCK};
                for (int64_t tap = 0; tap < taps; tap++) {
                    add(list, end - step, p.rows_of(m), step == from, own + (m * columns + tap * panels + n) * BLOCK);
                    const int64_t next = p.taps.behind(tap + 1) - p.taps.behind(tap);
                    for (int64_t k = 0; k < end - step; k++) list[k].b += next * steps_a_place * BLOCK;
                }
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
    const bool long_operands = p.a_turned && p.steps() >= SLICE_STEPS * threads && p.steps() > p.row_blocks() * p.column_blocks();
    const bool by_depth = long_operands || p.taps.where == Taps::OF_WEIGHTS;
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
