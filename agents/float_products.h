// Products of float32 matrices by vectors of AVX-512, for the sizes of a batch in a small network, one or many of them at once.
//
// A block of the result is eight rows of 32 columns, kept in registers while the depth goes by: of each step, a vector pair of the second
// operand times one number of each row of the first. The first is read where it lies, however that is; the second if its rows lie as they
// are multiplied, else its transpose is turned, 32 columns at a time.

#ifndef PLAYMETER_FLOAT_PRODUCTS
#define PLAYMETER_FLOAT_PRODUCTS

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace playmeter {

// out [count, rows, columns] = a [count, rows, depth] b [count, depth, columns]. Strides in numbers: from matrix to matrix, from row to
// row, from column to column. Those of out's columns are 1, and of b's rows or columns.
struct FloatProduct {
    const float *a, *b;
    float* out;
    int64_t count, rows, columns, depth;
    int64_t a_next, a_down, a_right;
    int64_t b_next, b_down, b_right;
    int64_t out_next, out_down;
};

constexpr int64_t FLOAT_DEPTH = 512;  // so much of the depth at once: what is turned of b is 64 KiB

// ROWS rows of VECTORS of 16 columns, the last one's those of `last`: begun anew, or added to. In full they are half of the registers.
template <int ROWS, int VECTORS>
inline void add_rows(
    const float* a, int64_t a_down, int64_t a_right, const float* b, int64_t b_down, int64_t depth, float* out, int64_t out_down,
    __mmask16 last, bool anew) {
    __m512 sums[ROWS][VECTORS];
    const auto mask = [&](int v) -> __mmask16 { return v == VECTORS - 1 ? last : 0xffff; };
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) {
            sums[i][v] = anew ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask(v), out + i * out_down + 16 * v);
        }
    }
    for (int64_t k = 0; k < depth; k++, a += a_right, b += b_down) {
        __m512 row[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) row[v] = _mm512_maskz_loadu_ps(mask(v), b + 16 * v);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) {
            const __m512 of_a = _mm512_set1_ps(a[i * a_down]);
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) sums[i][v] = _mm512_fmadd_ps(of_a, row[v], sums[i][v]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) _mm512_mask_storeu_ps(out + i * out_down + 16 * v, mask(v), sums[i][v]);
    }
}

// Of the first rows of so many, and how many those are.
template <int VECTORS>
inline auto add_of(int64_t rows, int64_t& taken) {
    taken = rows >= 8 ? 8 : rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
    return rows >= 8 ? add_rows<8, VECTORS> : rows >= 4 ? add_rows<4, VECTORS> : rows >= 2 ? add_rows<2, VECTORS> : add_rows<1, VECTORS>;
}

// 32 columns of b, or as many as there are, as rows of 32: of its transpose, whose rows are `stride` apart.
inline void turn(const float* b, int64_t stride, int64_t columns, int64_t depth, float* to) {
    for (int64_t k = 0; k < depth; k += 16) {
        const int64_t deep = std::min<int64_t>(16, depth - k);
        const __mmask16 mask = deep == 16 ? 0xffff : (1u << deep) - 1;
        for (int64_t n = 0; n < std::min<int64_t>(32, columns); n += 16) {
            __m512i rows[16];
            for (int i = 0; i < 16; i++) {
                rows[i] = n + i < columns ? _mm512_maskz_loadu_epi32(mask, b + (n + i) * stride + k) : _mm512_setzero_si512();
            }
            transpose(rows);
            for (int i = 0; i < deep; i++) _mm512_store_si512(to + 32 * (k + i) + n, rows[i]);
        }
    }
}

// 32 columns from `n` on, or as many as there are, of the rows from `from` to `to`.
inline void columns_of(const FloatProduct& p, int64_t matrix, int64_t n, int64_t from, int64_t to, float* turned) {
    const int64_t columns = std::min<int64_t>(32, p.columns - n);
    const __mmask16 last = 0xffff >> (15 - (columns - 1) % 16);
    const float *a = p.a + matrix * p.a_next, *b = p.b + matrix * p.b_next + n * p.b_right;
    float* out = p.out + matrix * p.out_next + n;
    for (int64_t k = 0; k < p.depth; k += FLOAT_DEPTH) {
        const int64_t depth = std::min(FLOAT_DEPTH, p.depth - k);
        const float* rows_of_b = b + k * p.b_down;
        int64_t b_down = p.b_down, taken;
        if (p.b_right != 1) {
            turn(rows_of_b, p.b_right, columns, depth, turned);
            rows_of_b = turned;
            b_down = 32;
        }
        for (int64_t m = from; m < to; m += taken) {
            const auto add = columns > 16 ? add_of<2>(to - m, taken) : add_of<1>(to - m, taken);
            add(a + m * p.a_down + k * p.a_right, p.a_down, p.a_right, rows_of_b, b_down, depth, out + m * p.out_down, p.out_down, last,
                k == 0);
        }
    }
}

inline void product(const FloatProduct& p, int threads) {
    // shared out by columns, of all matrices; by rows where there are too few of those
    const int64_t panels = (p.columns + 31) / 32, parts = p.count * panels < threads ? threads : 1;
#pragma omp parallel num_threads(threads)
    {
        static thread_local Scratch scratch;
        const int64_t thread = omp_get_thread_num(), all = omp_get_num_threads();
        float* turned = p.b_right != 1 ? scratch.get<float>(32 * FLOAT_DEPTH) : nullptr;
        const int64_t units = p.count * panels * parts;
        for (int64_t unit = units * thread / all; unit < units * (thread + 1) / all; unit++) {
            const int64_t part = unit % parts, panel = unit / parts % panels;
            columns_of(p, unit / parts / panels, 32 * panel, p.rows * part / parts, p.rows * (part + 1) / parts, turned);
        }
    }
}

}  // namespace playmeter

#endif
