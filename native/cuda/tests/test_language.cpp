// What every kernel stands on: launches, barriers, shuffles, conversions, copies to shared memory, matrix loads, products of
// the tensor cores. On the emulator this tests the emulator, on a GPU that the wrappers say what the hardware does.
#include "data.h"
#include "tensor_core.cuh"

using namespace lmx_test;

__global__ void write_indices(int *out) {
  const int block = static_cast<int>(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
  const int thread = static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  out[block * static_cast<int>(blockDim.x * blockDim.y * blockDim.z) + thread] = block * 1000 + thread;
}

LMX_TEST(grids_and_blocks_have_three_dimensions) {
  const int blocks = 2 * 3 * 4, threads = 5 * 2 * 3;
  Device<int> out(static_cast<size_t>(blocks * threads));
  NEED(lmx::launch(write_indices, {dim3(2, 3, 4), dim3(5, 2, 3)}, nullptr, out.data()));
  const auto got = out.get();
  for (int i = 0; i < blocks * threads; ++i) CHECK(got[static_cast<size_t>(i)] == i / threads * 1000 + i % threads);
  NEED(lmx::launch(write_indices, {dim3(0), dim3(1)}, nullptr, out.data()));
}

/// Prefix sums of a block: every step needs both of its barriers. `wide`, the dynamic shared memory, is a copy of the
/// result.
__global__ void prefix_sums(const int *in, int *out, int *copies) {
  __shared__ int sums[96];
  LMX_SHARED(int, wide);
  const int t = static_cast<int>(threadIdx.x);
  sums[t] = in[t];
  for (int step = 1; step < 96; step *= 2) {
    __syncthreads();
    const int before = t >= step ? sums[t - step] : 0;
    __syncthreads();
    sums[t] += before;
  }
  wide[t] = sums[t];
  __syncthreads();
  out[t] = sums[t];
  copies[t] = wide[95 - t];
}

LMX_TEST(barriers_order_shared_memory) {
  std::vector<int> in(96);
  for (int i = 0; i < 96; ++i) in[static_cast<size_t>(i)] = i * i % 17;
  Device<int> device_in(in), out(96), copies(96);
  NEED(
      lmx::launch(prefix_sums, {dim3(1), dim3(96), 96 * sizeof(int)}, nullptr, device_in.data(), out.data(), copies.data()));
  const auto got = out.get(), got_copies = copies.get();
  int sum = 0;
  for (size_t i = 0; i < 96; ++i) {
    CHECK(got[i] == (sum += in[i]));
    CHECK(got_copies[i] == got[95 - i]);
  }
}

__global__ void shuffles(int *out) {
  const int t = static_cast<int>(threadIdx.x), lane = t % 32;
  out[t] = __shfl_xor_sync(lmx::ALL_LANES, t, 5);
  out[64 + t] = __shfl_down_sync(lmx::ALL_LANES, t, 3);
  out[128 + t] = __shfl_up_sync(lmx::ALL_LANES, t, 2, 8);
  out[192 + t] = __shfl_sync(lmx::ALL_LANES, t, lane / 2, 16);
  // Two halves of a warp meet apart from each other.
  if (lane < 16) out[256 + t] = __shfl_xor_sync(0x0000ffffu, t, 1);
  else out[256 + t] = __shfl_xor_sync(0xffff0000u, -t, 2);
  out[320 + t] = static_cast<int>(__ballot_sync(lmx::ALL_LANES, t % 3 == 0));
  out[384 + t] = __any_sync(lmx::ALL_LANES, t == 40) * 2 + __all_sync(lmx::ALL_LANES, t < 32);
  out[448 + t] = static_cast<int>(lmx::group_sum(static_cast<float>(t), 8));
  out[512 + t] = static_cast<int>(lmx::warp_sum(static_cast<float>(t)) + lmx::warp_max(static_cast<float>(t)));
}

LMX_TEST(lanes_exchange_values) {
  Device<int> out(576);
  NEED(lmx::launch(shuffles, {dim3(1), dim3(64)}, nullptr, out.data()));
  const auto got = out.get();
  for (int t = 0; t < 64; ++t) {
    const auto at = [&](int part) { return got[static_cast<size_t>(64 * part + t)]; };
    const int lane = t % 32, warp = t / 32 * 32;
    CHECK(at(0) == (t ^ 5));
    CHECK(at(1) == (lane + 3 < 32 ? t + 3 : t));
    CHECK(at(2) == (lane % 8 >= 2 ? t - 2 : t));
    CHECK(at(3) == warp + lane / 16 * 16 + (lane / 2 & 15));
    CHECK(at(4) == (lane < 16 ? t ^ 1 : -(t ^ 2)));
    unsigned bits = 0;
    for (int i = 0; i < 32; ++i) bits |= (warp + i) % 3 == 0 ? 1u << i : 0;
    CHECK(static_cast<unsigned>(at(5)) == bits);
    CHECK(at(6) == (warp == 0 ? 1 : 2));
    CHECK(at(7) == t / 8 * 8 * 8 + 28);
    CHECK(at(8) == warp * 32 + 496 + warp + 31);
  }
}

template <class T>
__global__ void widen_and_back(const T *in, float *wide, T *back) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  wide[i] = lmx::to_float(in[i]);
  back[i] = lmx::from_float<T>(wide[i]);
}

template <class T>
void check_conversions(int exponent_bits, int mantissa_bits) {
  std::vector<uint16_t> patterns(1 << 16);
  for (size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<uint16_t>(i);
  Device<uint16_t> in(patterns), back(patterns.size());
  Device<float> wide(patterns.size());
  NEED(lmx::launch(widen_and_back<T>, {dim3(1 << 8), dim3(1 << 8)}, nullptr, reinterpret_cast<const T *>(in.data()),
                   wide.data(), reinterpret_cast<T *>(back.data())));
  const auto got = wide.get();
  const auto got_back = back.get();
  const int bias = (1 << (exponent_bits - 1)) - 1, infinite = (1 << exponent_bits) - 1;
  for (size_t i = 0; i < patterns.size(); ++i) {
    const int exponent = static_cast<int>(i >> mantissa_bits) & infinite,
              mantissa = static_cast<int>(i) & ((1 << mantissa_bits) - 1);
    if (exponent == infinite && mantissa != 0) {
      CHECK(std::isnan(got[i]));
      continue;
    }
    const double magnitude = exponent == infinite ? HUGE_VAL
                             : exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                                             : std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
    CHECK(got[i] == (i >> 15 ? -magnitude : magnitude));
    CHECK(got_back[i] == patterns[i]);
  }
  // Halfway between two neighbours: to the even one; a hair further: to the next.
  const auto bits_of = [](float value) { return encode(lmx::DTYPE<T>, {value}); };
  const uint16_t infinity = static_cast<uint16_t>(infinite << mantissa_bits);
  for (uint16_t i = 0; i + 1 < infinity; ++i) {
    const double low = got[i], half = (got[i + 1u] - low) / 2;
    const auto middle = static_cast<float>(low + half);
    const auto expect = [&](float value, int pattern) {
      const auto bytes = bits_of(value);
      CHECK(bytes[0] + 256 * bytes[1] == pattern);
    };
    expect(middle, i % 2 == 0 ? i : i + 1);
    expect(std::nextafterf(middle, HUGE_VALF), i + 1);
    expect(std::nextafterf(middle, 0), i);
  }
}

LMX_TEST(conversions_are_exact_and_round_to_even) {
  check_conversions<__half>(5, 10);
  check_conversions<__nv_bfloat16>(8, 7);
}

/// d [16, 8] = a [16, 16] · b, through shared memory: b [16, 8] by a transposed load, or bt [8, 16] by a plain one.
template <class T>
__global__ void multiply(const T *a, const T *b, const T *bt, float *d) {
  __shared__ __align__(16) T tile_a[16 * 16], tile_b[16 * 8], tile_bt[8 * 16];
  const int lane = static_cast<int>(threadIdx.x);
  lmx::copy_async(tile_a + lane * 8, a + lane * 8);
  lmx::copy_async_commit();
  lmx::copy_async(tile_b + lane % 16 * 8, b + lane % 16 * 8, lane < 32);
  lmx::copy_async(tile_bt + lane % 16 * 8, bt + lane % 16 * 8);
  lmx::copy_async_commit();
  lmx::copy_async_wait<1>();
  __syncwarp();
  lmx::Pair fragment_a[4], fragment_b[4], fragment_bt[4];
  // Matrices in the order of a's fragment: rows 0 and 8 of columns 0, then of columns 8.
  lmx::load_matrix_x4(fragment_a, tile_a + lane % 16 * 16 + lane / 16 * 8);
  lmx::copy_async_wait<0>();
  __syncwarp();
  lmx::load_matrix_x4_transposed(fragment_b, tile_b + lane % 16 * 8);
  lmx::load_matrix_x4(fragment_bt, tile_bt + lane % 8 * 16 + lane / 8 % 2 * 8);
  float c[4] = {1, 1, 1, 1}, ct[4] = {1, 1, 1, 1};
  lmx::multiply_add<T>(c, fragment_a, fragment_b[0], fragment_b[1]);
  lmx::multiply_add<T>(ct, fragment_a, fragment_bt[0], fragment_bt[1]);
  for (int i = 0; i < 4; ++i) {
    const int at = (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2;
    d[at] = c[i];
    d[128 + at] = ct[i];
  }
}

template <class T>
void check_product() {
  Random random(1);
  const int dtype = lmx::DTYPE<T>;
  const auto a = random_numbers(random, dtype, 256), b = random_numbers(random, dtype, 128);
  std::vector<float> bt(128);
  for (size_t k = 0; k < 16; ++k) {
    for (size_t n = 0; n < 8; ++n) bt[n * 16 + k] = b[k * 8 + n];
  }
  const auto device_a = upload(dtype, a), device_b = upload(dtype, b), device_bt = upload(dtype, bt);
  Device<float> d(256);
  NEED(lmx::launch(multiply<T>, {dim3(1), dim3(32)}, nullptr, reinterpret_cast<const T *>(device_a.data()),
                   reinterpret_cast<const T *>(device_b.data()), reinterpret_cast<const T *>(device_bt.data()), d.data()));
  const auto got = d.get();
  for (size_t row = 0; row < 16; ++row) {
    for (size_t n = 0; n < 8; ++n) {
      double sum = 1;
      for (size_t k = 0; k < 16; ++k) sum += static_cast<double>(a[row * 16 + k]) * b[k * 8 + n];
      // 16 products below 1, summed in float32: their rounding, and what tensor cores cut off.
      CHECK_NEAR(got[row * 8 + n], sum, 16 * 0x1p-22);
      CHECK_NEAR(got[128 + row * 8 + n], sum, 16 * 0x1p-22);
    }
  }
}

LMX_TEST(tensor_cores_multiply_in_the_documented_layout) {
  check_product<__half>();
  check_product<__nv_bfloat16>();
}
