// Numbers for tests: drawn with fixed seeds, rounded to a dtype, on the device and back.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "check.h"
#include "common.cuh"

namespace lmx_test {

/// SplitMix64: the same numbers everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  /// Below `bound`.
  int below(int bound) { return static_cast<int>(next() % static_cast<uint64_t>(bound)); }
  /// Uniform in [−range, range).
  float number(float range = 1.0f) { return (static_cast<float>(next() >> 40) * 0x1p-23f - 1.0f) * range; }

 private:
  uint64_t state_;
};

inline const char *dtype_name(int dtype) {
  return dtype == LMX_F32 ? "f32" : dtype == LMX_F16 ? "f16" : dtype == LMX_I8 ? "i8" : "bf16";
}
inline size_t dtype_size(int dtype) { return dtype == LMX_F32 ? 4 : dtype == LMX_I8 ? 1 : 2; }
/// Half the distance of neighbouring numbers, relative.
inline double dtype_error(int dtype) { return dtype == LMX_F32 ? 0x1p-24 : dtype == LMX_F16 ? 0x1p-11 : 0x1p-8; }

/// The bytes of `values` as `dtype`.
inline std::vector<unsigned char> encode(int dtype, const std::vector<float> &values) {
  std::vector<unsigned char> bytes(values.size() * dtype_size(dtype));
  if (dtype == LMX_I8) {
    for (size_t i = 0; i < values.size(); ++i) bytes[i] = static_cast<unsigned char>(static_cast<int8_t>(values[i]));
    return bytes;
  }
  lmx::with_dtype(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    for (size_t i = 0; i < values.size(); ++i) {
      const T value = lmx::from_float<T>(values[i]);
      std::memcpy(bytes.data() + i * sizeof(T), &value, sizeof(T));
    }
    return 0;
  });
  return bytes;
}
inline std::vector<float> decode(int dtype, const std::vector<unsigned char> &bytes) {
  std::vector<float> values(bytes.size() / dtype_size(dtype));
  lmx::with_dtype(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    for (size_t i = 0; i < values.size(); ++i) {
      T value;
      std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
      values[i] = lmx::to_float(value);
    }
    return 0;
  });
  return values;
}
/// `count` numbers that `dtype` holds exactly; of bytes all, whatever the range, but −128.
inline std::vector<float> random_numbers(Random &random, int dtype, size_t count, float range = 1.0f) {
  std::vector<float> values(count);
  if (dtype == LMX_I8) {
    for (float &value : values) value = static_cast<float>(random.below(255) - 127);
    return values;
  }
  for (float &value : values) value = random.number(range);
  return decode(dtype, encode(dtype, values));
}

/// Device memory of `T`s; lives as long as this.
template <class T>
class Device {
 public:
  explicit Device(size_t count) : count_(count) { NEED(lmx_alloc(reinterpret_cast<void **>(&data_), count * sizeof(T))); }
  explicit Device(const std::vector<T> &values) : Device(values.size()) { set(values); }
  Device(Device &&other) noexcept : data_(other.data_), count_(other.count_) { other.data_ = nullptr; }
  Device(const Device &) = delete;
  Device &operator=(const Device &) = delete;
  Device &operator=(Device &&) = delete;
  ~Device() { lmx_free(data_); }

  T *data() const { return data_; }
  size_t size() const { return count_; }
  void set(const std::vector<T> &values) {
    NEED(lmx_copy_in(data_, values.data(), values.size() * sizeof(T), nullptr));
    NEED(lmx_stream_wait(nullptr));
  }
  std::vector<T> get() const {
    std::vector<T> values(count_);
    NEED(lmx_copy_out(values.data(), data_, count_ * sizeof(T), nullptr));
    NEED(lmx_stream_wait(nullptr));
    return values;
  }

 private:
  T *data_ = nullptr;
  size_t count_;
};

/// Device memory with `values` as `dtype`.
inline Device<unsigned char> upload(int dtype, const std::vector<float> &values) {
  return Device<unsigned char>(encode(dtype, values));
}

}  // namespace lmx_test
