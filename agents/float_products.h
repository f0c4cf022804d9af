// Products of float32 matrices by vectors, for the sizes of a batch in a small network, one or many of them at once.
//
// A block of the result is eight rows of 32 columns with AVX-512, six of 16 with AVX2, kept in registers while the depth goes by: of each
// step, a vector pair of the second operand times one number of each row of the first. The first is read where it lies, however that is;
// the second if its rows lie as they are multiplied, else its transpose is turned, as many columns at a time.

#ifndef PLAYMETER_FLOAT_PRODUCTS
#define PLAYMETER_FLOAT_PRODUCTS

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

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

constexpr int64_t COLUMNS = 2 * LANES;
constexpr int64_t FLOAT_DEPTH = 512;  // so much of the depth at once: what is turned of b is 64 KiB at most

// COUNT rows of VECTORS vectors of columns, of the last one those of `last` if it is not WHOLE: begun anew, or added to.
template <int COUNT, int VECTORS, bool WHOLE>
inline void add_rows(
    const float* a, int64_t a_down, int64_t a_right, const float* b, int64_t b_down, int64_t depth, float* out, int64_t out_down,
    First last, bool anew) {
    Floats sums[COUNT][VECTORS];
    const auto vector = [&](const float* row, int v) {
        return WHOLE || v < VECTORS - 1 ? load(row + LANES * v) : load(row + LANES * v, last);
    };
#pragma GCC unroll 8
    for (int i = 0; i < COUNT; i++) {
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) sums[i][v] = anew ? Floats{} : vector(out + i * out_down, v);
    }
    for (int64_t k = 0; k < depth; k++, a += a_right, b += b_down) {
        Floats row[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) row[v] = vector(b, v);
#pragma GCC unroll 8
        for (int i = 0; i < COUNT; i++) {
            const float of_a = a[i * a_down];
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) sums[i][v] = multiply_add(of_a, row[v], sums[i][v]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < COUNT; i++) {
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) {
            float* to = out + i * out_down + LANES * v;
            if (WHOLE || v < VECTORS - 1) {
                store(to, sums[i][v]);
            } else {
                store(to, sums[i][v], last);
            }
        }
    }
}

// So many rows, block by block.
template <int VECTORS, bool WHOLE>
inline void add_all(
    int64_t rows, const float* a, int64_t a_down, int64_t a_right, const float* b, int64_t b_down, int64_t depth, float* out,
    int64_t out_down, First last, bool anew) {
    int64_t m = 0;
    const auto blocks_of = [&](auto count) {
        for (; m + count <= rows; m += count) {
            add_rows<count, VECTORS, WHOLE>(a + m * a_down, a_down, a_right, b, b_down, depth, out + m * out_down, out_down, last, anew);
        }
    };
    blocks_of(std::integral_constant<int, ROWS>());
    blocks_of(std::integral_constant<int, 4>());
    blocks_of(std::integral_constant<int, 2>());
    blocks_of(std::integral_constant<int, 1>());
}

// COLUMNS columns of b, or as many as there are, as rows: of its transpose, whose rows are `stride` apart.
inline void turn(const float* b, int64_t stride, int64_t columns, int64_t depth, float* to) {
    for (int64_t k = 0; k < depth; k += LANES) {
        const int64_t deep = std::min<int64_t>(LANES, depth - k);
        const First lanes = first_lanes(deep);
        for (int64_t n = 0; n < std::min(COLUMNS, columns); n += LANES) {
            Floats rows[LANES];
            for (int i = 0; i < LANES; i++) rows[i] = n + i < columns ? load(b + (n + i) * stride + k, lanes) : Floats{};
            transpose(rows);
            for (int i = 0; i < deep; i++) store(to + COLUMNS * (k + i) + n, rows[i]);
        }
    }
}

// COLUMNS columns from `n` on, or as many as there are, of the rows from `from` to `to`; added to what is there if there is `more`.
inline void columns_of(const FloatProduct& p, int64_t matrix, int64_t n, int64_t from, int64_t to, float* turned, bool more = false) {
    const int64_t columns = std::min(COLUMNS, p.columns - n);
    const First last = first_lanes((columns - 1) % LANES + 1);
    const float *a = p.a + matrix * p.a_next, *b = p.b + matrix * p.b_next + n * p.b_right;
    float* out = p.out + matrix * p.out_next + n;
    for (int64_t k = 0; k < p.depth; k += FLOAT_DEPTH) {
        const int64_t depth = std::min(FLOAT_DEPTH, p.depth - k);
        const float* rows_of_b = b + k * p.b_down;
        int64_t b_down = p.b_down;
        if (p.b_right != 1) {
            turn(rows_of_b, p.b_right, columns, depth, turned);
            rows_of_b = turned;
            b_down = COLUMNS;
        }
        const auto add = columns == COLUMNS ? add_all<2, true> : columns > LANES ? add_all<2, false> : add_all<1, false>;
        add(to - from, a + from * p.a_down + k * p.a_right, p.a_down, p.a_right, rows_of_b, b_down, depth, out + from * p.out_down,
            p.out_down, last, k == 0 && !more);
    }
}

inline void product(const FloatProduct& p, int threads) {
    // shared out by columns, of all matrices; by rows where there are too few of those
    const int64_t panels = (p.columns + COLUMNS - 1) / COLUMNS, parts = p.count * panels < threads ? threads : 1;
#pragma omp parallel num_threads(threads)
    {
        static thread_local Scratch scratch;
        const int64_t thread = omp_get_thread_num(), all = omp_get_num_threads();
        float* turned = p.b_right != 1 ? scratch.get<float>(COLUMNS * FLOAT_DEPTH) : nullptr;
        const int64_t units = p.count * panels * parts;
        for (int64_t unit = units * thread / all; unit < units * (thread + 1) / all; unit++) {
            const int64_t part = unit % parts, panel = unit / parts % panels;
            columns_of(p, unit / parts / panels, COLUMNS * panel, p.rows * part / parts, p.rows * (part + 1) / parts, turned);
        }
    }
}

}  // namespace playmeter

#endif
