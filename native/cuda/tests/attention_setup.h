// A step's attention: sequences with a history in a paged cache, what the kernels make of them, and what is right in float64.
#pragma once

#include <algorithm>
#include <array>
#include <numeric>

#include "data.h"

namespace lmx_test {

struct Heads {
  int dtype, heads, kv_heads, dim, window;
};

/// One sequence's part of a step: `cached` positions are in the pages, `rows` follow. Its numbers depend on `seed` alone.
struct Sequence {
  int cached, rows;
  uint64_t seed;
  bool stored = true;     // false: the rows' keys and values are in the pages already, and they have no slots
  bool poisoned = false;  // its numbers are NaN
};

constexpr int MOST_POSITIONS = 4096;
constexpr float SENTINEL = 7.0f;

/// Angles as they might be; the model's attention scale is 1.
inline void rotary_tables(int dim, std::vector<float> &cos, std::vector<float> &sin) {
  for (int position = 0; position < MOST_POSITIONS; ++position) {
    for (int r = 0; r < dim / 2; ++r) {
      const float angle = static_cast<float>(position) * std::pow(10000.0f, -2.0f * static_cast<float>(r) / static_cast<float>(dim));
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
  }
}

/// The step of some sequences, on the device.
class AttentionStep {
 public:
  /// `bucket` rows in the matrices, at least the sequences'. `spread` moves the sequences' blocks elsewhere in the pool.
  AttentionStep(const Heads &heads, const std::vector<Sequence> &sequences, int bucket, int max_context, uint64_t spread)
      : h_(heads), sequences_(sequences), bucket_(bucket), max_context_(max_context) {
    rotary_tables(h_.dim, cos_, sin_);
    place_blocks(spread);
    for (size_t s = 0; s < sequences.size(); ++s) add_sequence(static_cast<int>(s));
    counts_.rows = static_cast<int>(positions_.size());
    counts_.sequences = static_cast<int>(sequences.size());
    counts_.query_tiles = static_cast<int>(query_tiles_.size());
    counts_.single_rows = static_cast<int>(single_rows_.size());
    counts_.max_blocks = max_blocks_;
    // Padding: what a kernel must not look at.
    positions_.resize(bucket, 1 << 30);
    slots_.resize(bucket, 1 << 30);
    row_sequence_.resize(bucket, 1 << 30);
    qkv_.resize(static_cast<size_t>(bucket) * row_width(), NAN);
  }

  /// The attention's output [bucket, heads · dim]; keys and values are as the kernels left them. A captured run does not
  /// know how many rows count.
  std::vector<float> run(bool captured = false) {
    Device<int32_t> positions(positions_), slots(slots_), row_sequence(row_sequence_), tables(tables_);
    Device<lmx_counts> counts(std::vector<lmx_counts>{counts_});
    Device<lmx_query_tile> tiles(query_tiles_.empty() ? std::vector<lmx_query_tile>(1) : query_tiles_);
    Device<int32_t> singles(single_rows_.empty() ? std::vector<int32_t>(1) : single_rows_);
    auto qkv = upload(h_.dtype, qkv_), keys = upload(h_.dtype, keys_), values = upload(h_.dtype, values_);
    auto out = upload(h_.dtype, std::vector<float>(static_cast<size_t>(bucket_) * h_.heads * h_.dim, SENTINEL));
    Device<float> cos(cos_), sin(sin_);
    const int most_singles = captured ? bucket_ : counts_.single_rows;
    // None where no row can have more than one part.
    const size_t workspace_bytes = lmx_attention_workspace(most_singles, h_.heads, h_.dim, max_context_);
    Device<unsigned char> workspace(workspace_bytes + 1);

    lmx_step step = {};
    step.counts = counts.data();
    step.positions = positions.data();
    step.slots = slots.data();
    step.row_sequence = row_sequence.data();
    step.block_tables = tables.data();
    step.query_tiles = tiles.data();
    step.single_rows = singles.data();
    lmx_attention call = {};
    call.keys = keys.data();
    call.values = values.data();
    call.cos = cos.data();
    call.sin = sin.data();
    call.qkv = qkv.data();
    call.out = out.data();
    call.workspace = workspace_bytes > 0 ? workspace.data() : nullptr;
    call.block_stride = static_cast<int64_t>(block_stride());
    call.scale = scale();
    call.dtype = h_.dtype;
    call.rows = bucket_;
    call.heads = h_.heads;
    call.kv_heads = h_.kv_heads;
    call.dim = h_.dim;
    call.window = h_.window;
    call.max_context = max_context_;
    call.single_rows = most_singles;
    call.query_tiles = captured ? 0 : counts_.query_tiles;
    NEED(lmx_attend(&step, &call, nullptr));
    NEED(lmx_stream_wait(nullptr));
    new_keys = decode(h_.dtype, keys.get());
    new_values = decode(h_.dtype, values.get());
    return decode(h_.dtype, out.get());
  }

  /// What row `row` should come out as, [heads · dim], from the pages as `run` left them.
  std::vector<double> expected(int row) const {
    const int end = positions_[row] + 1, begin = h_.window > 0 ? std::max(0, end - h_.window) : 0;
    std::vector<double> out(static_cast<size_t>(h_.heads) * h_.dim);
    for (int head = 0; head < h_.heads; ++head) {
      const int kv_head = head / (h_.heads / h_.kv_heads);
      const std::vector<double> query = rotated(row, head);
      std::vector<double> weights(end);
      double most = -INFINITY, total = 0;
      for (int p = begin; p < end; ++p) {
        const float *key = &new_keys[place(row_sequence_[row], p, kv_head)];
        for (int d = 0; d < h_.dim; ++d) weights[p] += query[d] * static_cast<double>(key[d]);
        weights[p] *= static_cast<double>(scale());
        most = std::max(most, weights[p]);
      }
      for (int p = begin; p < end; ++p) total += weights[p] = std::exp(weights[p] - most);
      for (int p = begin; p < end; ++p) {
        const float *value = &new_values[place(row_sequence_[row], p, kv_head)];
        for (int d = 0; d < h_.dim; ++d) out[static_cast<size_t>(head) * h_.dim + d] += weights[p] / total * static_cast<double>(value[d]);
      }
    }
    return out;
  }

  /// Head `head` of the row's q | k | v, rotated as queries and keys are.
  std::vector<double> rotated(int row, int head) const {
    const float *from = &qkv_[row * row_width() + static_cast<size_t>(head) * h_.dim];
    std::vector<double> to(h_.dim);
    const int half = h_.dim / 2;
    for (int r = 0; r < half; ++r) {
      const double c = static_cast<double>(cos_[static_cast<size_t>(positions_[row]) * half + r]);
      const double s = static_cast<double>(sin_[static_cast<size_t>(positions_[row]) * half + r]);
      to[r] = static_cast<double>(from[r]) * c - static_cast<double>(from[r + half]) * s;
      to[r + half] = static_cast<double>(from[r + half]) * c + static_cast<double>(from[r]) * s;
    }
    return to;
  }
  const float *value_of(int row, int kv_head) const {
    return &qkv_[row * row_width() + static_cast<size_t>(h_.heads + h_.kv_heads + kv_head) * h_.dim];
  }

  /// First element of a position's key or value.
  size_t place(int sequence, int position, int kv_head) const {
    const int block = tables_[static_cast<size_t>(sequence) * max_blocks_ + position / LMX_BLOCK];
    return block * block_stride() + (static_cast<size_t>(kv_head) * LMX_BLOCK + position % LMX_BLOCK) * h_.dim;
  }
  int rows() const { return counts_.rows; }
  int position(int row) const { return positions_[row]; }
  int sequence(int row) const { return row_sequence_[row]; }
  bool stored(int row) const { return slots_[row] >= 0; }
  const std::vector<float> &old_keys() const { return keys_; }
  const std::vector<float> &old_values() const { return values_; }

  std::vector<float> new_keys, new_values;

 private:
  size_t row_width() const { return static_cast<size_t>(h_.heads + 2 * h_.kv_heads) * h_.dim; }
  /// Between a layer's blocks lie those of others.
  size_t block_stride() const { return static_cast<size_t>(2) * h_.kv_heads * LMX_BLOCK * h_.dim + 24; }
  float scale() const { return 2.0f / std::sqrt(static_cast<float>(h_.dim)); }

  void place_blocks(uint64_t spread) {
    int needed = 0;
    for (const Sequence &s : sequences_) {
      needed += lmx::div_up(s.cached + s.rows, LMX_BLOCK);
      max_blocks_ = std::max(max_blocks_, lmx::div_up(s.cached + s.rows, LMX_BLOCK));
    }
    std::vector<int> blocks(needed + 5);
    std::iota(blocks.begin(), blocks.end(), 0);
    Random random(spread);
    for (size_t i = blocks.size(); i > 1; --i) std::swap(blocks[i - 1], blocks[random.below(static_cast<int>(i))]);
    // Nothing may come from where no sequence has written: the pool begins as NaN.
    keys_.assign(blocks.size() * block_stride(), NAN);
    values_ = keys_;
    tables_.assign(sequences_.size() * max_blocks_, 1 << 30);
    size_t next = 0;
    for (size_t s = 0; s < sequences_.size(); ++s) {
      const int count = lmx::div_up(sequences_[s].cached + sequences_[s].rows, LMX_BLOCK);
      for (int i = 0; i < count; ++i) tables_[s * max_blocks_ + i] = blocks[next++];
    }
  }

  void add_sequence(int index) {
    const Sequence &s = sequences_[index];
    for (int p = 0; p < s.cached + s.rows; ++p) {
      // By position, so that a sequence is the same however much of it is cached.
      Random random(s.seed * 1000003 + p);
      const auto qkv = random_numbers(random, h_.dtype, row_width(), 2.0f);
      const auto history = random_numbers(random, h_.dtype, 2 * static_cast<size_t>(h_.kv_heads) * h_.dim, 2.0f);
      if (p < s.cached || !s.stored) {
        for (int head = 0; head < h_.kv_heads; ++head) {
          std::copy_n(&history[static_cast<size_t>(head) * h_.dim], h_.dim, &keys_[place(index, p, head)]);
          std::copy_n(&history[static_cast<size_t>(h_.kv_heads + head) * h_.dim], h_.dim, &values_[place(index, p, head)]);
        }
      }
      if (p < s.cached) continue;
      const int row = static_cast<int>(positions_.size());
      if (s.rows == 1) single_rows_.push_back(row);
      else if ((p - s.cached) % LMX_QUERY_TILE_ROWS == 0) query_tiles_.push_back({row, std::min<int>(LMX_QUERY_TILE_ROWS, s.cached + s.rows - p), index, 0});
      positions_.push_back(p);
      slots_.push_back(s.stored ? tables_[static_cast<size_t>(index) * max_blocks_ + p / LMX_BLOCK] * LMX_BLOCK + p % LMX_BLOCK : -1);
      row_sequence_.push_back(index);
      if (s.poisoned) qkv_.resize(qkv_.size() + qkv.size(), NAN);
      else qkv_.insert(qkv_.end(), qkv.begin(), qkv.end());
    }
  }

  Heads h_;
  std::vector<Sequence> sequences_;
  int bucket_, max_context_, max_blocks_ = 0;
  lmx_counts counts_ = {};
  std::vector<float> cos_, sin_, qkv_, keys_, values_;
  std::vector<int32_t> positions_, slots_, row_sequence_, tables_, single_rows_;
  std::vector<lmx_query_tile> query_tiles_;
};

}  // namespace lmx_test
