// Attention of decode batches (bytes of keys and values a second) and of prompts (operations a second).
#include "measure.h"

using namespace lmx_test;

namespace {

struct Model {
  const char *name;
  int heads, kv_heads, dim;
};

const Model MODELS[] = {{"Llama-2-7B", 32, 32, 128}, {"Llama-3-8B", 32, 8, 128}};

/// A layer's attention of `sequences` with `context` positions each, `rows` of them in the step; seconds.
double attention(const Model &model, int sequences, int context, int rows) {
  const int blocks = lmx::div_up(context, LMX_BLOCK), all_rows = sequences * rows;
  const size_t pool = static_cast<size_t>(sequences) * blocks * model.kv_heads * LMX_BLOCK * model.dim;
  const size_t width = static_cast<size_t>(model.heads + 2 * model.kv_heads) * model.dim;
  Device<uint16_t> keys(pool), values(pool), qkv(all_rows * width), out(static_cast<size_t>(all_rows) * model.heads * model.dim);
  for (Device<uint16_t> *numbers : {&keys, &values, &qkv}) NEED(lmx_zero(numbers->data(), numbers->size() * 2, nullptr));
  Device<float> cos(std::vector<float>(static_cast<size_t>(context) * model.dim / 2, 1.0f)), sin(cos.get());
  std::vector<int32_t> positions, slots, row_sequence, singles, table;
  std::vector<lmx_query_tile> tiles(1);
  for (int s = 0; s < sequences; ++s) {
    // Neighbouring sequences' blocks take turns, as they do where sequences grow side by side.
    for (int b = 0; b < blocks; ++b) table.push_back(b * sequences + s);
    for (int i = 0; i < rows; ++i) {
      const int position = context - rows + i, row = s * rows + i;
      if (rows == 1) singles.push_back(row);
      else if (i % LMX_QUERY_TILE_ROWS == 0) tiles.push_back({row, std::min<int>(LMX_QUERY_TILE_ROWS, rows - i), s, 0});
      positions.push_back(position);
      slots.push_back((position / LMX_BLOCK * sequences + s) * LMX_BLOCK + position % LMX_BLOCK);
      row_sequence.push_back(s);
    }
  }
  if (rows > 1) {
    tiles.erase(tiles.begin());
    singles.push_back(0);
  }
  lmx_counts counts = {};
  counts.rows = all_rows;
  counts.sequences = sequences;
  counts.single_rows = rows == 1 ? all_rows : 0;
  counts.query_tiles = rows == 1 ? 0 : static_cast<int>(tiles.size());
  counts.max_blocks = blocks;
  Device<lmx_counts> device_counts(std::vector<lmx_counts>{counts});
  Device<int32_t> device_positions(positions), device_slots(slots), device_sequence(row_sequence), device_singles(singles), device_table(table);
  Device<lmx_query_tile> device_tiles(tiles);
  Device<unsigned char> workspace(lmx_attention_workspace(counts.single_rows, model.heads, model.dim, context) + 16);

  lmx_step step = {};
  step.counts = device_counts.data();
  step.positions = device_positions.data();
  step.slots = device_slots.data();
  step.row_sequence = device_sequence.data();
  step.block_tables = device_table.data();
  step.query_tiles = device_tiles.data();
  step.single_rows = device_singles.data();
  const int64_t block = static_cast<int64_t>(model.kv_heads) * LMX_BLOCK * model.dim;
  const lmx_attention call = {keys.data(), values.data(),    cos.data(), sin.data(), qkv.data(),     out.data(), workspace.data(),   block, 0.1f,
                              LMX_F16,     all_rows,         model.heads, model.kv_heads, model.dim, -1,         context,            counts.single_rows,
                              counts.query_tiles};
  return seconds_of([&] { NEED(lmx_attend(&step, &call, nullptr)); }, sized(20, 1), sized(7, 1));
}

}  // namespace

LMX_TEST(decode_batches) {
  say_where();
  const double copy = copy_bandwidth();
  std::printf("device copy: %.0f GB/s\n", copy / 1e9);
  for (const Model &model : MODELS) {
    for (const int context : {sized(512, 40), sized(4096, 300)}) {
      for (const int sequences : {1, sized(32, 2)}) {
        const double seconds = attention(model, sequences, context, 1);
        const double bytes = 2.0 * 2 * sequences * context * model.kv_heads * model.dim;
        std::printf("%s, batch %d, context %d: %.1f us, %.0f GB/s, %.2f of a copy\n", model.name, sequences, context, seconds * 1e6, bytes / seconds / 1e9,
                    bytes / seconds / copy);
      }
    }
  }
}

LMX_TEST(prompts) {
  for (const Model &model : MODELS) {
    for (const int rows : {sized(512, 70), sized(2048, 100)}) {
      const double seconds = attention(model, 1, rows, rows);
      // Two products of the lower triangle.
      const double operations = 2.0 * 2 * model.heads * model.dim * rows * (rows + 1.0) / 2;
      std::printf("%s, prompt of %d: %.1f us, %.1f TFLOP/s\n", model.name, rows, seconds * 1e6, operations / seconds / 1e12);
    }
  }
}
