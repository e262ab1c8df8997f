// Adapters and a step's tables as the engine makes them: on the device, and on the host for float64 references.
#pragma once

#include <memory>

#include "data.h"

namespace lmx_test {

/// One module of a site: its factors as numbers.
struct Part {
  int rank, out_offset, out_features;
  std::vector<float> a;        // [rank, in]
  std::vector<float> b;        // [out, rank]
  std::vector<float> scale;    // [rank]
  std::vector<float> b_scale;  // [out], of bytes, else empty
  std::vector<float> gain;     // [out] or empty
  std::vector<float> offset;
};

/// What one adapter adds at one site; no parts: nothing.
struct Site {
  int dtype = LMX_F32;
  std::vector<Part> parts;
  int rank() const {
    int sum = 0;
    for (const Part &part : parts) sum += part.rank;
    return sum;
  }
};

/// A module with random factors.
inline Part random_part(Random &random, int dtype, int rank, int in, int out_offset, int out, bool gain, bool offset) {
  Part part{rank, out_offset, out, {}, {}, {}, {}, {}, {}};
  const auto count = [](int rows, int columns) { return static_cast<size_t>(rows) * static_cast<size_t>(columns); };
  part.a = random_numbers(random, dtype, count(rank, in));
  part.b = random_numbers(random, dtype, count(out, rank));
  const float step = dtype == LMX_I8 ? 1.0f / 127 : 1.0f;
  part.scale =
      random_numbers(random, LMX_F32, static_cast<size_t>(rank), step * 2.0f / static_cast<float>(rank > 0 ? rank : 1));
  if (dtype == LMX_I8) part.b_scale = random_numbers(random, LMX_F32, static_cast<size_t>(out), step);
  if (gain) part.gain = random_numbers(random, LMX_F32, static_cast<size_t>(out), 1.5f);
  if (offset) part.offset = random_numbers(random, LMX_F32, static_cast<size_t>(out));
  return part;
}

/// Device memory by the piece, freed together.
class Arena {
 public:
  template <class T>
  T *put(const std::vector<T> &values) {
    if (values.empty()) return nullptr;
    auto *memory = new Device<T>(values);
    kept_.emplace_back(memory, [](void *p) { delete static_cast<Device<T> *>(p); });
    return memory->data();
  }
  void *put(int dtype, const std::vector<float> &values) { return put(encode(dtype, values)); }

 private:
  std::vector<std::shared_ptr<void>> kept_;
};

inline lmx_site_delta put_site(Arena &arena, const Site &site) {
  std::vector<float> stacked, scale;
  std::vector<lmx_part> parts;
  int rank = 0;
  for (const Part &part : site.parts) {
    stacked.insert(stacked.end(), part.a.begin(), part.a.end());
    scale.insert(scale.end(), part.scale.begin(), part.scale.end());
    parts.push_back({arena.put(site.dtype, part.b), arena.put(part.b_scale), arena.put(part.gain), arena.put(part.offset),
                     rank, part.rank, part.out_offset, part.out_features});
    rank += part.rank;
  }
  const auto count = static_cast<int32_t>(parts.size());
  return {arena.put(site.dtype, stacked), arena.put(scale), arena.put(parts), rank, count, site.dtype, 0};
}

/// `adapter` with these sites, on the device.
inline const lmx_adapter *put_adapter(Arena &arena, const std::vector<Site> &sites, lmx_adapter adapter = {}) {
  std::vector<lmx_site_delta> deltas;
  for (const Site &site : sites) {
    deltas.push_back(put_site(arena, site));
    adapter.most_rank = std::max(adapter.most_rank, deltas.back().rank);
  }
  adapter.sites = arena.put(deltas);
  return arena.put(std::vector<lmx_adapter>{adapter});
}

/// Neighbouring rows with the same terms; none: base rows.
struct Segment {
  int rows;
  std::vector<lmx_term> terms;
};

/// The tables of a step of `segments`, as the contract says. The rows that reach the head are all rows. A decode step has
/// short tiles only: then `may_be_long` is false.
inline lmx_step put_step(Arena &arena, const std::vector<Segment> &segments, const std::vector<int64_t> &token_ids = {},
                         bool may_be_long = true) {
  lmx_counts counts{};
  std::vector<lmx_term> terms;
  std::vector<lmx_tile> tiles, long_tiles, head_tiles, row_terms;
  for (const Segment &segment : segments) {
    const auto first_term = static_cast<int32_t>(terms.size()), count = static_cast<int32_t>(segment.terms.size());
    terms.insert(terms.end(), segment.terms.begin(), segment.terms.end());
    for (int row = 0; row < segment.rows; ++row) row_terms.push_back({counts.rows + row, 1, first_term, count});
    const auto cut = [&](std::vector<lmx_tile> &to, int most) {
      for (int row = 0; count > 0 && row < segment.rows; row += most) {
        to.push_back({counts.rows + row, std::min(most, segment.rows - row), first_term, count});
      }
    };
    if (!may_be_long || segment.rows < LMX_LONG_TILE_ROWS / 2) cut(tiles, LMX_TILE_ROWS);
    else cut(long_tiles, LMX_LONG_TILE_ROWS);
    cut(head_tiles, LMX_TILE_ROWS);
    counts.rows += segment.rows;
  }
  counts.logits_rows = counts.rows;
  counts.tiles = static_cast<int32_t>(tiles.size());
  counts.long_tiles = static_cast<int32_t>(long_tiles.size());
  counts.head_tiles = static_cast<int32_t>(head_tiles.size());
  lmx_step step{};
  step.counts = arena.put(std::vector<lmx_counts>{counts});
  step.token_ids = arena.put(token_ids);
  step.terms = arena.put(terms);
  step.tiles = arena.put(tiles);
  step.long_tiles = arena.put(long_tiles);
  step.head_tiles = arena.put(head_tiles);
  step.row_terms = step.head_row_terms = arena.put(row_terms);
  return step;
}

}  // namespace lmx_test
