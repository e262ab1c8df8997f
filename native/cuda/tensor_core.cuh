// Copies to shared memory that run beside arithmetic, matrix loads and products of the tensor cores (sm_80 and later): PTX's
// cp.async, ldmatrix and mma.m16n8k16, with their documented layouts. On the CPU the emulator's copies and a warp's meeting.
#pragma once

#include "common.cuh"

namespace lmx {

/// Two 16-bit numbers, the one of the lower index in the lower half.
using Pair = unsigned;

#if !defined(LMX_EMULATED)

__device__ __forceinline__ unsigned shared_address(const void *p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

/// 16 bytes from global to shared memory, both aligned; zeros where `valid` is false (`from` is then not read).
__device__ __forceinline__ void copy_async(void *shared, const void *from, bool valid = true) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(from), "r"(bytes)
               : "memory");
}
/// Ends a group of this thread's copies.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// This thread's groups have arrived, but for the youngest LEFT; others' after a barrier.
template <int LEFT>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/// Four 8×8 matrices of 16-bit numbers: lane l gives row l % 8 of matrix l / 8 (16 aligned bytes of shared memory); out[m]
/// is row l / 4, columns 2·(l % 4) and + 1 of matrix m.
__device__ __forceinline__ void load_matrix_x4(Pair (&out)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}
/// The same of each matrix's transpose: out[m] is rows 2·(l % 4) and + 1, column l / 4.
__device__ __forceinline__ void load_matrix_x4_transposed(Pair (&out)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

/// c [16, 8] += a [16, 16] · b [16, 8] in float32, by one warp. With g = lane / 4 and t = lane % 4:
/// a[0] row g, a[1] row g + 8, columns 2t and + 1; a[2], a[3] the same 8 columns on; b[0] rows 2t and + 1, b[1] 8 rows on,
/// column g; c[0], c[1] row g, columns 2t and + 1; c[2], c[3] row g + 8. (PTX ISA, mma.m16n8k16.)
template <class T>
__device__ __forceinline__ void multiply_add(float (&c)[4], const Pair (&a)[4], Pair b0, Pair b1);
template <>
__device__ __forceinline__ void multiply_add<__half>(float (&c)[4], const Pair (&a)[4], Pair b0, Pair b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void multiply_add<__nv_bfloat16>(float (&c)[4], const Pair (&a)[4], Pair b0, Pair b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#else

inline void copy_async(void *shared, const void *from, bool valid = true) {
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(valid ? from : nullptr)) % 16 != 0) {
    lmx_emulator::fail("a 16-byte copy is misaligned");
  }
  lmx_emulator::copy_later(shared, valid ? from : nullptr, 16);
}
inline void copy_async_commit() { lmx_emulator::close_copy_group(); }
template <int LEFT>
void copy_async_wait() {
  lmx_emulator::wait_for_copies(LEFT);
}

struct MatrixLoad {
  const void *row;
  Pair (&out)[4];
};
template <bool TRANSPOSED>
void load_matrix_together(void *const *lanes, unsigned) {
  const auto at = [&](int lane) { return static_cast<MatrixLoad *>(lanes[lane]); };
  for (int lane = 0; lane < 32; ++lane) {
    if (at(lane) == nullptr) lmx_emulator::fail("a matrix load needs all 32 lanes");
    if (reinterpret_cast<uintptr_t>(at(lane)->row) % 16 != 0) lmx_emulator::fail("a matrix load is misaligned");
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int m = 0; m < 4; ++m) {
      const auto element = [&](int row, int column) { return static_cast<const uint16_t *>(at(8 * m + row)->row)[column]; };
      const int g = lane / 4, t = lane % 4 * 2;
      const Pair low = TRANSPOSED ? element(t, g) : element(g, t);
      const Pair high = TRANSPOSED ? element(t + 1, g) : element(g, t + 1);
      at(lane)->out[m] = low | high << 16;
    }
  }
}
inline void load_matrix_x4(Pair (&out)[4], const void *row, LMX_HERE) {
  MatrixLoad mine{row, out};
  lmx_emulator::meet_warp({file, line}, ALL_LANES, &mine, load_matrix_together<false>);
}
inline void load_matrix_x4_transposed(Pair (&out)[4], const void *row, LMX_HERE) {
  MatrixLoad mine{row, out};
  lmx_emulator::meet_warp({file, line}, ALL_LANES, &mine, load_matrix_together<true>);
}

struct Product {
  float (&c)[4];
  const Pair (&a)[4];
  Pair b0, b1;
};
template <class T>
void multiply_together(void *const *lanes, unsigned) {
  const auto half_of = [](Pair pair, int which) { return to_float(lmx_bits<T>(static_cast<uint16_t>(pair >> 16 * which))); };
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto *mine = static_cast<const Product *>(lanes[lane]);
    if (mine == nullptr) lmx_emulator::fail("a product of the tensor cores needs all 32 lanes");
    const int g = lane / 4, t = lane % 4 * 2;
    for (int i = 0; i < 2; ++i) {
      for (int part = 0; part < 4; ++part) a[g + part % 2 * 8][t + i + part / 2 * 8] = half_of(mine->a[part], i);
      b[t + i][g] = half_of(mine->b0, i);
      b[t + i + 8][g] = half_of(mine->b1, i);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      static_cast<Product *>(lanes[lane])->c[i] += sum;
    }
  }
}
template <class T>
void multiply_add(float (&c)[4], const Pair (&a)[4], Pair b0, Pair b1, LMX_HERE) {
  Product mine{c, a, b0, b1};
  lmx_emulator::meet_warp({file, line}, ALL_LANES, &mine, multiply_together<T>);
}

#endif

/// Two numbers as T, `low` in the lower half.
template <class T>
__device__ __forceinline__ Pair make_pair(float low, float high) {
  union {
    T numbers[2];
    Pair pair;
  } u = {{from_float<T>(low), from_float<T>(high)}};
  return u.pair;
}

}  // namespace lmx
