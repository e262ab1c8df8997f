// Memory, streams, events and facts behind the C interface.
#include "data.h"

using namespace lmx_test;

LMX_TEST(facts_name_the_device) {
  lmx_device_facts facts;
  NEED(lmx_device_use(0));
  NEED(lmx_device_facts_of(0, &facts));
  CHECK(facts.name[0] != 0);
  CHECK(facts.free_bytes > 0 && facts.free_bytes <= facts.total_bytes);
  CHECK(facts.capability >= 80);
  CHECK(facts.multiprocessors > 0);
  CHECK(facts.runtime >= 13000);
  CHECK(lmx_device_facts_of(1000, &facts) != 0);
}

LMX_TEST(sizes_end_with_zero) {
  const size_t *sizes = lmx_abi_sizes();
  int count = 0;
  while (sizes[count] != 0) ++count;
  CHECK(count == 16);
  CHECK(sizes[0] == sizeof(lmx_part) && sizes[15] == sizeof(lmx_sampling));
}

LMX_TEST(copies_keep_their_order_on_a_stream) {
  lmx_stream first, second;
  lmx_event event;
  NEED(lmx_stream_create(&first, 0));
  NEED(lmx_stream_create(&second, -1));
  NEED(lmx_event_create(&event));
  void *pinned = nullptr, *device = nullptr;
  NEED(lmx_host_alloc(&pinned, 1 << 20));
  NEED(lmx_alloc(&device, 1 << 20));
  std::memset(pinned, 7, 1 << 20);
  NEED(lmx_copy_in(device, pinned, 1 << 20, first));
  NEED(lmx_zero(device, 16, first));
  NEED(lmx_copy(static_cast<char *>(device) + 32, device, 8, first));
  NEED(lmx_event_record(event, first));
  NEED(lmx_stream_after(second, event));
  std::vector<unsigned char> back(64);
  NEED(lmx_copy_out(back.data(), device, back.size(), second));
  NEED(lmx_stream_wait(second));
  int32_t done = 0;
  NEED(lmx_event_wait(event));
  NEED(lmx_event_done(event, &done));
  CHECK(done == 1);
  for (int i = 0; i < 64; ++i) CHECK(back[i] == (i < 16 || (i >= 32 && i < 40) ? 0 : 7));
  NEED(lmx_event_destroy(event));
  NEED(lmx_host_free(pinned));
  NEED(lmx_free(device));
  NEED(lmx_stream_destroy(first));
  NEED(lmx_stream_destroy(second));
}

LMX_TEST(errors_have_a_text) {
  CHECK(std::string(lmx_error_text(0)) == "no error");
  CHECK(!std::string(lmx_error_text(2)).empty());
}
