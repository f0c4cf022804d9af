// Stacks of four frames of bytes as bfloat16 tiles: gathered, put together pixel by pixel, scaled and laid out in one pass.
//
// Done one after the other each of these writes megabytes for the next to read.

#ifndef PLAYMETER_STACKS
#define PLAYMETER_STACKS

#include <immintrin.h>
#include <omp.h>

#include <cstdint>
#include <vector>

namespace playmeter {

// out [stacks, high, wide, tile_height, tile_width, 4] = frames [., height, width] at index [stacks, 4], zeros where that is negative,
// times scale. What of a frame is beyond its last whole tile is left out.
struct Stacks {
    const uint8_t* frames;
    const int64_t* index;
    uint16_t* out;
    int64_t stacks, height, width, tile_height, tile_width;  // four times tile_width is 32 at most
    float scale;

    int64_t high() const { return height / tile_height; }
    int64_t wide() const { return width / tile_width; }
};

// 16 bytes as float32, scaled.
inline __m512 scaled(__m128i bytes, __m512 scale) {
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), scale);
}

// 16 pixels of four planes, 64 numbers.
inline void put_together(const __m128i plane[4], __m512 scale, uint16_t* to) {
    const __m128i first = _mm_unpacklo_epi8(plane[0], plane[1]), third = _mm_unpacklo_epi8(plane[2], plane[3]);
    const __m128i first_up = _mm_unpackhi_epi8(plane[0], plane[1]), third_up = _mm_unpackhi_epi8(plane[2], plane[3]);
    const __m512 a = scaled(_mm_unpacklo_epi16(first, third), scale), b = scaled(_mm_unpackhi_epi16(first, third), scale);
    const __m512 c = scaled(_mm_unpacklo_epi16(first_up, third_up), scale);
    const __m512 d = scaled(_mm_unpackhi_epi16(first_up, third_up), scale);
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    _mm512_storeu_si512(to + 32, (__m512i)_mm512_cvtne2ps_pbh(d, c));
}

// One row of pixels of a stack; `row` has room for whole vectors.
inline void row_of_pixels(const uint8_t* const plane[4], int64_t pixels, __m512 scale, uint16_t* row) {
    for (int64_t x = 0; x < pixels; x += 16) {
        const __mmask16 mask = pixels - x >= 16 ? 0xffff : (1u << (pixels - x)) - 1;
        __m128i bytes[4];
        for (int k = 0; k < 4; k++) bytes[k] = plane[k] ? _mm_maskz_loadu_epi8(mask, plane[k] + x) : _mm_setzero_si128();
        put_together(bytes, scale, row + 4 * x);
    }
}

inline void as_tiles(const Stacks& s, int64_t stack, uint16_t* row) {
    const int64_t numbers = 4 * s.tile_width, tile = s.tile_height * numbers, wide = s.wide();
    const __m512 scale = _mm512_set1_ps(s.scale);
    const __mmask32 mask = numbers >= 32 ? 0xffffffffu : (1u << numbers) - 1;
    uint16_t* out = s.out + stack * s.high() * wide * tile;
    for (int64_t y = 0; y < s.high() * s.tile_height; y++) {
        const uint8_t* plane[4];
        for (int k = 0; k < 4; k++) {
            const int64_t frame = s.index[4 * stack + k];
            plane[k] = frame < 0 ? nullptr : s.frames + (frame * s.height + y) * s.width;
        }
        row_of_pixels(plane, wide * s.tile_width, scale, row);
        uint16_t* to = out + y / s.tile_height * wide * tile + y % s.tile_height * numbers;
        for (int64_t x = 0; x < wide; x++, to += tile) {
            _mm512_mask_storeu_epi16(to, mask, _mm512_maskz_loadu_epi16(mask, row + x * numbers));
        }
    }
}

inline void stacks_as_tiles(const Stacks& s, int threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<uint16_t> row(4 * (s.width + 16));
        const int64_t thread = omp_get_thread_num(), all = omp_get_num_threads();
        for (int64_t k = s.stacks * thread / all; k < s.stacks * (thread + 1) / all; k++) as_tiles(s, k, row.data());
    }
}

}  // namespace playmeter

#endif
