// Convolutions of stride 1 with 2 x 2 or 3 x 3 taps over images [height, width, channels] of float32, by Winograd's products
// (Lavin and Gray 2016, section 4), with vectors as wide as this CPU's.
//
// What comes of a tile of 4 x 4 pixels, 3 x 3 places or 2 x 2, takes 16 multiplications where tap by tap there are 36: the pixels and the
// weights are first combined to 16 numbers each, and their products then to places. With all tiles, channels and outputs those are 16
// products of matrices. A gradient is made by the same three steps turned round.

#ifndef PLAYMETER_WINOGRAD
#define PLAYMETER_WINOGRAD

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace playmeter {

constexpr int SIDE = 4, POINTS = SIDE * SIDE;  // of a tile

// Numbers along one side, each of them combined from those along another.
struct Combination {
    int rows, columns;
    float at[SIDE][SIDE];

    constexpr Combination turned() const {
        Combination other{columns, rows, {}};
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < columns; j++) other.at[j][i] = at[i][j];
        }
        return other;
    }
};

// In one dimension places = TO_PLACES (OF_PIXELS pixels * OF_WEIGHTS weights): polynomials, multiplied by their values at 0, 1, -1 and
// infinity.
template <int TAPS>
struct Combinations {
    static_assert(TAPS == 2 || TAPS == 3);
    static constexpr Combination OF_PIXELS = {4, 4, {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, -1, 0, 1}}};
    static constexpr Combination OF_WEIGHTS = TAPS == 2 ? Combination{4, 2, {{1, 0}, {.5, .5}, {.5, -.5}, {0, 1}}}
                                                        : Combination{4, 3, {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}}};
    static constexpr Combination TO_PLACES = TAPS == 2 ? Combination{3, 4, {{1, 1, 1, 0}, {0, 1, -1, 0}, {0, 1, 1, 1}}}
                                                       : Combination{2, 4, {{1, 1, 1, 0}, {0, 1, -1, 1}}};
    static constexpr Combination TO_PIXELS = OF_PIXELS.turned(), TO_WEIGHTS = OF_WEIGHTS.turned(), OF_PLACES = TO_PLACES.turned();
};

// Weights are [outputs, taps, taps, channels], what comes of an image [high, across, outputs]. Channels and outputs are multiples of 32,
// and there is at least one image.
template <int TAPS>
struct Winograd {
    using Of = Combinations<TAPS>;
    static constexpr int PLACES = SIDE - TAPS + 1;  // of a tile, along a side

    const float *a, *b, *bias;
    float* out;
    int64_t images, height, width, channels, outputs;

    int64_t high() const { return height - TAPS + 1; }
    int64_t across() const { return width - TAPS + 1; }
    int64_t input() const { return height * width * channels; }
    int64_t output() const { return high() * across() * outputs; }
    int64_t tiles_across() const { return (across() + PLACES - 1) / PLACES; }
    int64_t tiles() const { return (high() + PLACES - 1) / PLACES * tiles_across(); }
    int64_t together() const { return std::min(images, (31 + tiles()) / tiles()); }  // images, with 32 tiles or more

    // Where the pixels of a tile are among those of images from `begin` on, or its places; `outside` for those that are outside their image.
    template <typename Number>
    void pixels(Number* begin, int64_t tile, Number* outside, Number** at) const {
        square(begin + tile / tiles() * input(), SIDE, tile % tiles(), height, width, channels, outside, at);
    }
    template <typename Number>
    void places(Number* begin, int64_t tile, Number* outside, Number** at) const {
        square(begin + tile / tiles() * output(), PLACES, tile % tiles(), high(), across(), outputs, outside, at);
    }
    template <typename Number>
    void square(Number* image, int side, int64_t tile, int64_t tall, int64_t wide, int64_t numbers, Number* outside, Number** at) const {
        const int64_t top = tile / tiles_across() * PLACES, left = tile % tiles_across() * PLACES;
        for (int64_t y = top; y < top + side; y++) {
            for (int64_t x = left; x < left + side; x++) *at++ = y < tall && x < wide ? image + (y * wide + x) * numbers : outside;
        }
    }
};

// What a thread works on, of some images: [points, tiles, channels] and [points, tiles, outputs]; what is outside of images; and a channel's
// weights [taps, taps, outputs].
template <int TAPS>
struct Work {
    float *pixels, *places, *ignored, *turned;
    const float* zeros;
    int64_t next_pixels, next_places;  // from point to point: not by a power of 2, whose numbers would share a place in the cache

    explicit Work(const Winograd<TAPS>& p) {
        static thread_local Scratch scratch;
        const int64_t rows = p.together() * p.tiles(), most = std::max(p.channels, p.outputs);
        next_pixels = rows * p.channels + 16;
        next_places = rows * p.outputs + 16;
        pixels = scratch.get<float>(POINTS * (next_pixels + next_places) + 2 * most + TAPS * TAPS * p.outputs);
        places = pixels + POINTS * next_pixels;
        ignored = places + POINTS * next_places;
        zeros = std::fill_n(ignored, 2 * most, 0.f) - most;
        turned = ignored + 2 * most;
    }
};

template <const Combination& C>
inline Floats combined(int row, const Floats* x, int next) {
    Floats sum = {};
#pragma GCC unroll 4
    for (int k = 0; k < C.columns; k++) {
        const float times = C.at[row][k];
        if (times == 1) {
            sum += x[k * next];
        } else if (times == -1) {
            sum -= x[k * next];
        } else if (times != 0) {
            sum = multiply_add(times, x[k * next], sum);
        }
    }
    return sum;
}

// A square, down and across.
template <const Combination& C>
inline void combine(const Floats* x, Floats* y) {
    Floats down[POINTS];
#pragma GCC unroll 4
    for (int i = 0; i < C.rows; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < C.columns; j++) down[i * C.columns + j] = combined<C>(i, x + j, C.columns);
    }
#pragma GCC unroll 4
    for (int i = 0; i < C.rows; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < C.rows; j++) y[i * C.rows + j] = combined<C>(j, down + i * C.columns, 1);
    }
}

// Of a square in memory, so many numbers each, which begin at `from`.
template <const Combination& C>
inline void to_points(const float* const* from, int64_t numbers, float* to, int64_t next) {
    for (int64_t n = 0; n < numbers; n += LANES) {
        Floats x[POINTS], y[POINTS];
#pragma GCC unroll 16
        for (int k = 0; k < C.columns * C.columns; k++) x[k] = load(from[k] + n);
        combine<C>(x, y);
#pragma GCC unroll 16
        for (int k = 0; k < POINTS; k++) store(to + k * next + n, y[k]);
    }
}

// To a square in memory, at `to`: what is there is at first what is at `begin`.
template <const Combination& C>
inline void of_points(const float* from, int64_t next, int64_t numbers, const float* const* begin, float* const* to) {
    for (int64_t n = 0; n < numbers; n += LANES) {
        Floats x[POINTS], y[POINTS];
#pragma GCC unroll 16
        for (int k = 0; k < POINTS; k++) x[k] = load(from + k * next + n);
        combine<C>(x, y);
#pragma GCC unroll 16
        for (int k = 0; k < C.rows * C.rows; k++) store(to[k] + n, y[k] + load(begin[k] + n));
    }
}

// At each point, a product; added to what is there if there is `more`.
inline void multiply(const FloatProduct& p, bool more = false) {
    for (int64_t point = 0; point < POINTS; point++) {
        for (int64_t n = 0; n < p.columns; n += COLUMNS) columns_of(p, point, n, 0, p.rows, nullptr, more);
    }
}

// out, what comes of the images, of a, the images, and b, the weights, and the bias.
template <int TAPS>
void winograd_output(const Winograd<TAPS>& p, int threads) {
    using Of = Combinations<TAPS>;
    constexpr int64_t taps = TAPS * TAPS;
    const int64_t layer = p.channels * p.outputs, together = p.together();
    static thread_local Scratch scratch;
    float* weights = scratch.get<float>(POINTS * layer);  // [points, channels, outputs]
#pragma omp parallel num_threads(threads)
    {
        const Work<TAPS> work(p);
#pragma omp for
        for (int64_t c = 0; c < p.channels; c++) {
            const float* at[taps];
            for (int64_t tap = 0; tap < taps; tap++) {
                float* outputs = work.turned + tap * p.outputs;
                for (int64_t n = 0; n < p.outputs; n++) outputs[n] = p.b[(n * taps + tap) * p.channels + c];
                at[tap] = outputs;
            }
            to_points<Of::OF_WEIGHTS>(at, p.outputs, weights + c * p.outputs, layer);
        }
#pragma omp for schedule(dynamic)  // whoever else needs a core: nobody waits for the thread that shares it
        for (int64_t first = 0; first < p.images; first += together) {
            const int64_t tiles = std::min(together, p.images - first) * p.tiles();
            const float *begin[POINTS], *from[POINTS];
            float* to[POINTS];
            std::fill_n(begin, POINTS, p.bias);
            for (int64_t tile = 0; tile < tiles; tile++) {
                p.pixels(p.a + first * p.input(), tile, work.zeros, from);
                to_points<Of::OF_PIXELS>(from, p.channels, work.pixels + tile * p.channels, work.next_pixels);
            }
            multiply({work.pixels, weights, work.places, POINTS, tiles, p.outputs, p.channels, work.next_pixels, p.channels, 1, layer,
                      p.outputs, 1, work.next_places, p.outputs});
            for (int64_t tile = 0; tile < tiles; tile++) {
                p.places(p.out + first * p.output(), tile, work.ignored, to);
                of_points<Of::TO_PLACES>(work.places + tile * p.outputs, work.next_places, p.outputs, begin, to);
            }
        }
    }
}

// out, the gradient of the images, of a, that of what comes of them, and b, the weights.
template <int TAPS>
void winograd_input(const Winograd<TAPS>& p, int threads) {
    using Of = Combinations<TAPS>;
    constexpr int64_t taps = TAPS * TAPS;
    const int64_t layer = p.channels * p.outputs, together = p.together();
    static thread_local Scratch scratch;
    float* weights = scratch.get<float>(POINTS * layer);  // [points, outputs, channels]
#pragma omp parallel num_threads(threads)
    {
        const Work<TAPS> work(p);
#pragma omp for
        for (int64_t n = 0; n < p.outputs; n++) {
            const float* at[taps];
            for (int64_t tap = 0; tap < taps; tap++) at[tap] = p.b + (n * taps + tap) * p.channels;
            to_points<Of::OF_WEIGHTS>(at, p.channels, weights + n * p.channels, layer);
        }
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < p.images; first += together) {
            const int64_t tiles = std::min(together, p.images - first) * p.tiles();
            const float* from[POINTS];
            float *to[POINTS], *images = p.out + first * p.input();
            for (int64_t tile = 0; tile < tiles; tile++) {
                p.places(p.a + first * p.output(), tile, work.zeros, from);
                to_points<Of::OF_PLACES>(from, p.outputs, work.places + tile * p.outputs, work.next_places);
            }
            multiply({work.places, weights, work.pixels, POINTS, tiles, p.channels, p.outputs, work.next_places, p.outputs, 1, layer,
                      p.channels, 1, work.next_pixels, p.channels});
            std::fill_n(images, tiles / p.tiles() * p.input(), 0.f);
            for (int64_t tile = 0; tile < tiles; tile++) {  // which share pixels with those beside them
                p.pixels(images, tile, work.ignored, to);
                of_points<Of::TO_PIXELS>(work.pixels + tile * p.channels, work.next_pixels, p.channels, to, to);
            }
        }
    }
}

constexpr int64_t PARTS = 4;  // of the images, whose sums are added at last: as many for any number of threads

// out, the gradient of the weights, of a, that of what comes of the images, and b, the images.
template <int TAPS>
void winograd_weights(const Winograd<TAPS>& p, int threads) {
    using Of = Combinations<TAPS>;
    constexpr int64_t taps = TAPS * TAPS;
    const int64_t layer = p.channels * p.outputs, together = p.together(), parts = std::min(PARTS, p.images);
    const int64_t blocks = std::min((threads + parts - 1) / parts, p.outputs / 32);  // of outputs, for more threads than parts
    static thread_local Scratch scratch;
    float* sums = scratch.get<float>(parts * POINTS * layer);  // [parts, points, outputs, channels]
#pragma omp parallel num_threads(threads)
    {
        const Work<TAPS> work(p);
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < parts * blocks; unit++) {
            const int64_t part = unit / blocks, block = unit % blocks;
            const int64_t begin = p.images * part / parts, end = p.images * (part + 1) / parts;
            const int64_t n = p.outputs / 32 * block / blocks * 32, outputs = p.outputs / 32 * (block + 1) / blocks * 32 - n;
            float* sum = sums + part * POINTS * layer + n * p.channels;
            for (int64_t first = begin; first < end; first += together) {
                const int64_t tiles = std::min(together, end - first) * p.tiles();
                const float* from[POINTS];
                for (int64_t tile = 0; tile < tiles; tile++) {
                    p.pixels(p.b + first * p.input(), tile, work.zeros, from);
                    to_points<Of::OF_PIXELS>(from, p.channels, work.pixels + tile * p.channels, work.next_pixels);
                    p.places(p.a + first * p.output() + n, tile, work.zeros, from);
                    to_points<Of::OF_PLACES>(from, outputs, work.places + tile * outputs, work.next_places);
                }
                multiply({work.places, work.pixels, sum, POINTS, outputs, p.channels, tiles, work.next_places, 1, outputs,
                          work.next_pixels, p.channels, 1, layer, p.channels}, begin < first);
            }
        }
#pragma omp for
        for (int64_t n = 0; n < p.outputs; n++) {
            for (int64_t part = 1; part < parts; part++) {
                for (int64_t point = 0; point < POINTS; point++) {
                    float* sum = sums + point * layer + n * p.channels;
#pragma omp simd
                    for (int64_t c = 0; c < p.channels; c++) sum[c] += sum[part * POINTS * layer + c];
                }
            }
            const float* zeros[POINTS];
            float* to[POINTS];
            std::fill_n(zeros, POINTS, work.zeros);
            for (int64_t tap = 0; tap < taps; tap++) to[tap] = p.out + (n * taps + tap) * p.channels;
            of_points<Of::TO_WEIGHTS>(sums + n * p.channels, layer, p.channels, zeros, to);
        }
    }
}

}  // namespace playmeter

#endif
