/* gRPC framing: the first byte is how many bytes are fed at a time. */
#include "proxy/codec/grpc.h"
#include <assert.h>
#include <stdlib.h>

enum { MAX = 1000 };
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	size_t step = n ? data[0] + 1u : 1, total = 0, got;
	struct weft_grpc_in g;
	uint8_t *m;
	int r = 0;

	weft_grpc_in_init(&g, MAX);
	for (size_t off = 1; off < n && r >= 0; off += step) {
		weft_grpc_in_feed(&g, data + off, step < n - off ? step : n - off);
		while ((r = weft_grpc_in_next(&g, &m, &got)) == 1) {
			assert(got <= MAX);
			total += got + 5;
			free(m);
		}
	}
	assert(total <= n);
	weft_grpc_in_done(&g);
	return 0;
}
