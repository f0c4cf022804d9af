// Convolutions of stride 1 over images [height, width, channels] of float32, by vectors of AVX-512: place by place, as agents/taps.py says.
//
// Eight images' sums at a place are eight rows of a product, whose operand has rows an image apart. The depth is one span of numbers for
// each row of taps, or for each tap, so that no patch is ever copied and nothing is computed where none is whole.

#ifndef PLAYMETER_FLOAT_TAPS
#define PLAYMETER_FLOAT_TAPS

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace playmeter {

// Weights are [outputs, tall, wide, channels], what comes of an image [high, across, outputs]. Channels and outputs are multiples of 32,
// and there is at least one image.
struct FloatTaps {
    const float *a, *b, *bias;
    float* out;
    int64_t images, height, width, channels, outputs, tall, wide;

    int64_t high() const { return height - tall + 1; }
    int64_t across() const { return width - wide + 1; }
    int64_t input() const { return height * width * channels; }
    int64_t output() const { return high() * across() * outputs; }
    int64_t weights() const { return outputs * tall * wide * channels; }
    int64_t groups() const { return (images + 7) / 8; }
};

// 32 columns of up to eight images from `first` on: the numbers of an image are `a_image` and `out_image`.
inline void add_images(
    const FloatTaps& p, int64_t first, std::vector<Span>& spans, int64_t depth, int64_t a_image, const float* begin, float* out,
    int64_t out_image) {
    int64_t taken;
    for (int64_t m = first, to = std::min(first + 8, p.images); m < to; m += taken) {
        add_of<2>(to - m, taken)(
            spans.data(), spans.size(), depth, a_image, 1, 32, 0xffff, begin, 0, out + m * out_image, out_image);
        for (Span& span : spans) span.a += taken * a_image;
    }
}

// out, what comes of the images, of a, the images, and b, the weights, and the bias.
inline void taps_output(const FloatTaps& p, int threads) {
    const int64_t across_taps = p.wide * p.channels, deep = p.tall * across_taps;
#pragma omp parallel num_threads(threads)
    {
        static thread_local Scratch scratch;
        std::vector<Span> spans(p.tall);
        float* turned = scratch.get<float>(p.weights());
        for (int64_t n = 0; n < p.outputs; n += 32) turn(p.b + n * deep, deep, 32, deep, turned + n * deep);
#pragma omp for schedule(dynamic)  // whoever else needs a core: nobody waits for the thread that shares it
        for (int64_t unit = 0; unit < p.groups() * p.high(); unit++) {
            const int64_t first = unit / p.high() * 8, y = unit % p.high();
            for (int64_t n = 0; n < p.outputs; n += 32) {
                for (int64_t x = 0; x < p.across(); x++) {
                    for (int64_t down = 0; down < p.tall; down++) {
                        const float* pixel = p.a + first * p.input() + ((y + down) * p.width + x) * p.channels;
                        spans[down] = {pixel, turned + n * deep + 32 * down * across_taps};
                    }
                    float* out = p.out + (y * p.across() + x) * p.outputs + n;
                    add_images(p, first, spans, across_taps, p.input(), p.bias + n, out, p.output());
                }
            }
        }
    }
}

// out, the gradient of the images, of a, that of what comes of them, and b, the weights.
inline void taps_input(const FloatTaps& p, int threads) {
    const int64_t taps = p.tall * p.wide;
#pragma omp parallel num_threads(threads)
    {
        static thread_local Scratch scratch;
        std::vector<Span> spans(taps);
        float* panels = scratch.get<float>(p.weights());  // [channels / 32, taps, outputs, 32]
        for (int64_t n = 0; n < p.outputs; n++) {
            for (int64_t tap = 0; tap < taps; tap++) {
                for (int64_t c = 0; c < p.channels; c += 32) {
                    std::copy_n(p.b + (n * taps + tap) * p.channels + c, 32, panels + (c * taps + 32 * tap) * p.outputs + 32 * n);
                }
            }
        }
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < p.groups() * p.height; unit++) {
            const int64_t first = unit / p.height * 8, y = unit % p.height;
            for (int64_t c = 0; c < p.channels; c += 32) {
                for (int64_t x = 0; x < p.width; x++) {
                    spans.clear();  // taps that have this input under them, of a place of the output
                    for (int64_t down = std::max<int64_t>(0, y - p.high() + 1); down <= std::min(y, p.tall - 1); down++) {
                        for (int64_t right = std::max<int64_t>(0, x - p.across() + 1); right <= std::min(x, p.wide - 1); right++) {
                            const float* place = p.a + first * p.output() + ((y - down) * p.across() + x - right) * p.outputs;
                            spans.push_back({place, panels + (c * taps + 32 * (down * p.wide + right)) * p.outputs});
                        }
                    }
                    float* out = p.out + (y * p.width + x) * p.channels + c;
                    add_images(p, first, spans, p.outputs, p.output(), nullptr, out, p.input());
                }
            }
        }
    }
}

constexpr int64_t WEIGHT_PARTS = 4;         // of the images, whose sums are added at last: as many for any number of threads
constexpr int64_t WEIGHT_ROWS = 16;         // that one thread does at a time
constexpr int64_t SLICE_NUMBERS = 1 << 17;  // of a and b that are read again and again: 512 KiB

// out, the gradient of the weights, of a, that of what comes of the images, and b, the images.
inline void taps_weights(const FloatTaps& p, int threads) {
    const int64_t parts = std::min(WEIGHT_PARTS, p.images), blocks = p.outputs / WEIGHT_ROWS, across_taps = p.wide * p.channels;
    const int64_t slice = std::max<int64_t>(1, SLICE_NUMBERS / (p.input() + p.output())), deep = p.tall * across_taps;
    static thread_local Scratch scratch;
    float* sums = scratch.get<float>(parts * p.weights());
#pragma omp parallel num_threads(threads)
    {
        std::vector<Span> spans;
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < parts * blocks; unit++) {
            const int64_t part = unit / blocks, row = unit % blocks * WEIGHT_ROWS;
            const int64_t from = p.images * part / parts, to = p.images * (part + 1) / parts;
            for (int64_t begin = from; begin < to; begin += slice) {
                for (int64_t column = 0; column < deep; column += 32) {
                    const int64_t down = column / across_taps;
                    for (int64_t n = row; n < row + WEIGHT_ROWS; n += 8) {
                        spans.clear();
                        for (int64_t image = begin; image < std::min(begin + slice, to); image++) {
                            for (int64_t y = 0; y < p.high(); y++) {
                                const float* pixel = p.b + image * p.input() + (y + down) * p.width * p.channels + column % across_taps;
                                spans.push_back({p.a + image * p.output() + y * p.across() * p.outputs + n, pixel});
                            }
                        }
                        float* sum = sums + part * p.weights() + n * deep + column;
                        add_rows<8, 2>(
                            spans.data(), spans.size(), p.across(), 1, p.outputs, p.channels, 0xffff, begin == from ? nullptr : sum,
                            deep, sum, deep);
                    }
                }
            }
        }
#pragma omp for
        for (int64_t k = 0; k < p.weights(); k += 16) {
            __m512 sum = _mm512_load_ps(sums + k);
            for (int64_t part = 1; part < parts; part++) sum = _mm512_add_ps(sum, _mm512_load_ps(sums + part * p.weights() + k));
            _mm512_storeu_ps(p.out + k, sum);
        }
    }
}

}  // namespace playmeter

#endif
