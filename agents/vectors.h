// What products of any numbers take.

#ifndef PLAYMETER_VECTORS
#define PLAYMETER_VECTORS

#include <immintrin.h>

#include <cstdint>
#include <cstdlib>

namespace playmeter {

// Memory of a thread, kept from call to call.
struct Scratch {
    char* memory = nullptr;
    size_t size = 0;
    ~Scratch() { std::free(memory); }
    template <typename T>
    T* get(int64_t count) {
        const size_t bytes = count * sizeof(T);
        if (bytes > size) {
            std::free(memory);
            size = (bytes + 4095) / 4096 * 4096;
            memory = static_cast<char*>(std::aligned_alloc(4096, size));
        }
        return reinterpret_cast<T*>(memory);
    }
};

// A vector of float32 as wide as this CPU's, and the first lanes of one. ROWS pairs of vectors are half of AVX-512's registers,
// and most of AVX2's. torch's compiler has a product and a sum rounded each for itself: who wants one instruction says so.
#ifdef __AVX512F__

constexpr int LANES = 16, ROWS = 8;
using Floats = __m512;
using First = __mmask16;

inline First first_lanes(int64_t lanes) { return 0xffff >> (LANES - lanes); }
inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline Floats load(const float* from, First lanes) { return _mm512_maskz_loadu_ps(lanes, from); }
inline void store(float* to, Floats x) { _mm512_storeu_ps(to, x); }
inline void store(float* to, Floats x, First lanes) { _mm512_mask_storeu_ps(to, lanes, x); }
inline Floats multiply_add(float a, Floats b, Floats sum) { return _mm512_fmadd_ps(_mm512_set1_ps(a), b, sum); }

// 16 x 16 float32, or pairs of bfloat16.
inline void transpose(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

inline void transpose(Floats r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i++) t[i] = _mm512_castps_si512(r[i]);
    transpose(t);
    for (int i = 0; i < 16; i++) r[i] = _mm512_castsi512_ps(t[i]);
}

#else

constexpr int LANES = 8, ROWS = 6;
using Floats = __m256;
using First = __m256i;

inline First first_lanes(int64_t lanes) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(lanes)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Floats load(const float* from) { return _mm256_loadu_ps(from); }
inline Floats load(const float* from, First lanes) { return _mm256_maskload_ps(from, lanes); }
inline void store(float* to, Floats x) { _mm256_storeu_ps(to, x); }
inline void store(float* to, Floats x, First lanes) { _mm256_maskstore_ps(to, lanes, x); }
inline Floats multiply_add(float a, Floats b, Floats sum) { return _mm256_fmadd_ps(_mm256_set1_ps(a), b, sum); }

inline void transpose(Floats r[8]) {
    Floats t[8];
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    for (int i = 0; i < 8; i++) r[i] = t[i];
}

#endif

}  // namespace playmeter

#endif
