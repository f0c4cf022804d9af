// The operations of AMX that agents/products.h uses, for CPUs without it: as Intel's manual describes them (Intel 64 and IA-32
// Architectures Software Developer's Manual, volume 2, TDPBF16PS and the others), but that denormal numbers stay what they are, and that sums are rounded in another order.

#include <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace amx_in_software {

struct Tile {
    uint8_t bytes[16][64];
};

inline thread_local Tile tiles[8];
inline thread_local uint8_t rows[8];       // 0: none is configured
inline thread_local uint16_t row_bytes[8];

inline void require(bool condition) {
    if (!condition) std::abort();  // where the CPU would raise a fault
}

inline void configure(const void* config) {
    const uint8_t* bytes = static_cast<const uint8_t*>(config);
    require(bytes[0] == 1 && bytes[1] == 0);
    for (int i = 2; i < 16; i++) require(bytes[i] == 0);
    for (int t = 0; t < 16; t++) {
        uint16_t wide;
        std::memcpy(&wide, bytes + 16 + 2 * t, 2);
        require(t < 8 ? wide <= 64 && bytes[48 + t] <= 16 : wide == 0 && bytes[48 + t] == 0);
        if (t >= 8) continue;
        row_bytes[t] = wide;
        rows[t] = bytes[48 + t];
    }
    std::memset(tiles, 0, sizeof tiles);
}

inline void release() { std::memset(rows, 0, sizeof rows); }

inline void zero(int tile) {
    require(rows[tile] > 0);
    std::memset(&tiles[tile], 0, sizeof(Tile));
}

inline void load(int tile, const void* from, int64_t stride) {
    zero(tile);
    for (int i = 0; i < rows[tile]; i++) {
        std::memcpy(tiles[tile].bytes[i], static_cast<const uint8_t*>(from) + i * stride, row_bytes[tile]);
    }
}

inline void store(int tile, void* to, int64_t stride) {
    require(rows[tile] > 0);
    for (int i = 0; i < rows[tile]; i++) {
        std::memcpy(static_cast<uint8_t*>(to) + i * stride, tiles[tile].bytes[i], row_bytes[tile]);
    }
}

inline float number(const uint8_t* bf16) {
    uint32_t bits = (bf16[0] | bf16[1] << 8) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// sum [M, N] += a [M, 2 K] b [2 K, N], b's rows two by two.
inline void multiply(int sum, int a, int b) {
    require(rows[sum] > 0 && rows[sum] == rows[a] && row_bytes[a] == 4 * rows[b] && row_bytes[sum] == row_bytes[b]);
    for (int m = 0; m < rows[sum]; m++) {
        for (int k = 0; k < rows[b]; k++) {
            for (int n = 0; n < row_bytes[sum] / 4; n++) {
                float value;
                std::memcpy(&value, &tiles[sum].bytes[m][4 * n], 4);
                for (int i = 0; i < 2; i++) {
                    value += number(&tiles[a].bytes[m][4 * k + 2 * i]) * number(&tiles[b].bytes[k][4 * n + 2 * i]);
                }
                std::memcpy(&tiles[sum].bytes[m][4 * n], &value, 4);
            }
        }
    }
}

}  // namespace amx_in_software

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig amx_in_software::configure
#define _tile_release amx_in_software::release
#define _tile_zero amx_in_software::zero
#define _tile_loadd amx_in_software::load
#define _tile_stored amx_in_software::store
#define _tile_dpbf16ps amx_in_software::multiply
